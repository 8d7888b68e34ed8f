//! Where things are: names of regions, positions on the globe, and what the road between them costs.
//!
//! How it goes: a [`RegionName`] is parsed once, at the edge, and is valid from then on. A built-in table
//! ([`built_in_regions`]) places well-known cloud regions on the globe ([`Coordinates`]), and a published
//! table says how long a message takes between any two of them ([`rtt_ms`], [`one_way_ms`]).
//!
//! What always holds:
//!
//! 1. **G1** A `RegionName` is 1 to 63 bytes of `[a-z0-9-]` that neither begins nor ends with `-`: it fits a
//!    DNS label, a URI and a file name without escaping.
//! 2. **G2** `Coordinates` are finite and on the globe.
//! 3. **G3** Delays are symmetric, and known for every pair of built-in regions.
//! 4. **G4** No delay is shorter than light in fibre needs for the great circle.
//!
//! What is not here: clocks, sockets, files and resolvers. Measuring a delay is the node's business and
//! emulating one is the load generator's; this crate cannot do either, as it is `no_std`.
//!
//! Why trigonometry comes from `libm` and not from the platform: its results are the same to the last bit
//! everywhere, so that two nodes never rank two regions differently.

#![no_std]

extern crate alloc;

mod coordinates;
mod delays;
mod region;
mod table;

pub use coordinates::{Coordinates, CoordinatesError};
pub use delays::{SAME_REGION_RTT_MS, one_way_ms, rtt_ms};
pub use region::{REGION_NAME_BYTES_MAX, RegionName, RegionNameError};
pub use table::{CloudRegion, built_in_region, built_in_regions};
