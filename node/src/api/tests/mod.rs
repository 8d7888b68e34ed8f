//! The contract, checked over the real store and replica.

mod document;
mod listing;
mod refusals;
mod resources;
mod sessions;
