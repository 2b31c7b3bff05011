pub mod engine;
pub mod view;
