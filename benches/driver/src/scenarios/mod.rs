//! The points of what is to be reached, a file each.

#[path = "scale.rs"]
pub mod crowd;
pub mod memory;
pub mod reading;
pub mod reports;
pub mod saving;
pub mod timers;
pub mod wire;
