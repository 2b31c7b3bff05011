pub mod codec;
pub mod engine;
pub mod view;
