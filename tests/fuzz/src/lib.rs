//! The decoders and the store that they run on, as the tests of the stable toolchain have them.

#[path = "../../src/decoders.rs"]
pub mod decoders;

pub mod sim;
