//! One seed, one queue ordered by time, many replicas over faulty stores and a faulty network.
//!
//! **How it goes.** [`Options::draw`] turns a seed into a whole configuration (how many nodes, which faults, how much of
//! each). [`World::run`] plays it: writes, reads, deliveries, syncs, crashes; after every step the checks of
//! [`checks`] must hold. Then every fault stops, and the world must converge within a bound.
//!
//! **What always holds.** A run is a function of its seed and nothing else.

pub mod checks;
pub mod coverage;
pub mod history;
mod layer;
pub mod network;
pub mod node;
pub mod options;
pub mod random;
pub mod soak;
pub mod store;
pub mod workload;
pub mod world;

pub use options::Options;
pub use world::{Report, Trace, World};
