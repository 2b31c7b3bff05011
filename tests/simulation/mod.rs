//! Simulated worlds that search for violations of the rules.
//!
//! ```text
//! rng ──► world: operators, coordinators, processes, messages, the clock ──► inputs ──► sut ──► decide
//!                                                                                      │  second engine: apply
//!                                                                                      └► rules, at every event
//! ```
//!
//! A failure is a seed, a rule, and the shortest history that still breaks it.

pub mod bake_rules;
pub mod bakes;
pub mod coordinators;
pub mod drain_rules;
pub mod drains;
pub mod format;
pub mod model;
pub mod operators;
pub mod rules;
pub mod shrink;
pub mod sut;
pub mod world;
