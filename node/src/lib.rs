//! One Atoll node: the only crate with sockets, files, clocks and threads.
//!
//! **How it goes.** [`Node::start`] wires it ([`run`]): listeners for clients ([`http`], [`quic`]) and operators ([`admin`])
//! over one table of operations ([`api`]) and what they do ([`app`]); one replica thread that owns the protocol
//! (`driver`); one commit thread and the rows behind it ([`store`]); one thread for peers ([`peer`]).
//!
//! **What always holds.** Nothing here decides anything of the protocol: that is `atoll-replication`, which cannot do IO.
//!
//! **What is not here.** Reading flags, files and the environment: the binary gives a checked [`config::Config`].

pub mod admin;
pub mod api;
pub mod app;
mod archive;
pub mod auth;
pub mod backup;
pub mod clock;
pub mod config;
mod divergence;
pub mod doctor;
mod driver;
pub mod http;
pub mod inbox;
pub mod metrics;
pub mod peer;
pub mod quic;
mod room;
mod roster;
pub mod run;
pub mod store;
pub mod tls;

pub use run::{Node, StartError};

/// Threads for clients' connections: half of the cores, at least one. The replica, the commits and the peers have a
/// thread each.
#[must_use]
pub fn client_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}
