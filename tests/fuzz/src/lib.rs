//! The decoders and the store that they run on, as the tests of the stable toolchain have them.

#[path = "../../src/decoders.rs"]
pub mod decoders;

/// The part of the simulator that a replica needs.
pub mod sim {
    #[path = "../../../src/sim/store.rs"]
    pub mod store;
}
