//! A simulated world that tries to break the engine.
//!
//! ```text
//! dice ──► world: operators, coordinators, processes, the post, the clock ──► inputs ──► site ──► decide
//!                                                                                      │  second engine: apply
//!                                                                                      └► rules, at every event
//! ```
//!
//! A failure is a seed, a rule, and the shortest history that still breaks it.

pub mod catalogue;
pub mod coordinators;
pub mod dice;
pub mod memory;
pub mod operators;
pub mod rules;
pub mod shrink;
pub mod site;
pub mod words;
pub mod world;
