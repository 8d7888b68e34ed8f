//! The part of the simulator that a replica needs.

#[path = "../../src/sim/layer.rs"]
mod layer;
#[path = "../../src/sim/store.rs"]
pub mod store;
