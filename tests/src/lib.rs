//! The simulator: many replicas, one seed, one queue; and what whole-system tests share.
//!
//! **What is not here.** Anything that only the simulator could do to the core: it drives [`atoll_replication::Replica`]
//! through the same inputs and effects as a node does.

pub mod decoders;
pub mod sim;
