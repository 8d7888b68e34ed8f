//! The bounds of the contract. Each is checked by the server; a client may check it early.

use std::time::Duration;

/// Longest namespace, in bytes.
pub const NAMESPACE_BYTES_MAX: usize = 63;
/// Longest key, in bytes of UTF-8, before percent-encoding.
pub const KEY_BYTES_MAX: usize = 1024;
/// Longest set member, in bytes of UTF-8.
pub const MEMBER_BYTES_MAX: usize = 1024;
/// Longest map path (a JSON Pointer), in bytes of UTF-8.
pub const PATH_BYTES_MAX: usize = 1024;
/// Largest value of a register or of a map's leaf, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Largest replicated record: everything one request or one batch writes, in bytes.
pub const RECORD_BYTES_MAX: usize = 4 << 20;
/// Largest request or answer on either transport, in bytes: a record and room for its JSON.
pub const MESSAGE_BYTES_MAX: usize = 5 << 20;

/// Entries of a page when the request does not say.
pub const PAGE_LIMIT_DEFAULT: u32 = 100;
/// Most entries a page may ask for.
pub const PAGE_LIMIT_MAX: u32 = 10_000;

/// How long a request waits for what its token has seen, when it does not say.
pub const WAIT_DEFAULT: Duration = Duration::from_millis(200);
/// Longest such wait a request may ask for.
pub const WAIT_MAX: Duration = Duration::from_secs(30);
/// How long a write waits for its write level, when it does not say.
pub const WRITE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
