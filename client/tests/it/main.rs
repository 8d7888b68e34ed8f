//! The client against a server in the same process that answers as each test says.

mod http;
mod quic;
mod resources;
mod server;
mod sessions;
