//! The public API as types, and the async client that speaks it over HTTP and QUIC.
//!
//! *What is here.* [`api`] is the contract with users: names, bodies, headers, limits and error
//! codes, shared by server and client so that the two cannot drift. [`frame`] is the QUIC client
//! protocol's framing, shared likewise. [`Client`] and [`Session`] send requests; the typed
//! resources ([`Register`], [`Counter`], [`Set`], [`Map`], [`Flag`]) speak in domain types.
//!
//! ```no_run
//! # async fn run() -> Result<(), atoll_client::Error> {
//! use atoll_client::{Client, api::{Key, Namespace}};
//!
//! let client = Client::builder().endpoint("http://127.0.0.1:7601".parse()?).build()?;
//! let session = client.session();
//! let (shop, visits) = (Namespace::new("shop")?, Key::new("visits")?);
//! let visits = session.counter(&shop, &visits);
//! let now = visits.add(5).await?.value;
//! // The session sees its own write, whichever node answers.
//! assert!(visits.get().await?.value >= Some(now));
//! # Ok(())
//! # }
//! ```
//!
//! *What is not here.* Choosing the best region for a request: endpoints are tried in the order
//! given. Command lines, files and environment variables: this is a library, it takes values.

pub mod api;
pub mod frame;

mod admin;
mod client;
mod endpoint;
mod error;
mod request;
mod resources;
mod session;
mod tls;
mod transport;

pub use admin::Admin;
pub use client::{Client, ClientBuilder};
pub use endpoint::{Endpoint, Scheme};
pub use error::{Attempt, Error};
pub use request::{Acked, Request, Response};
pub use resources::{Context, Counter, Flag, KeysQuery, Map, Page, Read, Register, RegisterValue, Set, Written};
pub use session::{Options, Session};
pub use tls::{Identity, Trust};

pub use bytes::Bytes;
pub use http::Method;
