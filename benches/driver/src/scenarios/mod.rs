//! Scenarios.

pub mod memory;
pub mod reading;
pub mod reports;
pub mod saving;
pub mod scale;
pub mod timers;
pub mod wire;
