//! The names of the headers of the contract, in lower case, as both transports carry them.

/// The session token: what a session has seen; answered by the server, sent back to any region.
pub const TOKEN: &str = "atoll-token";
/// What a read showed; sent with a write, that write replaces exactly what was shown.
pub const CONTEXT: &str = "atoll-context";
/// How many concurrent values a register holds.
pub const SIBLINGS: &str = "atoll-siblings";
/// The region that answered a read.
pub const REGION: &str = "atoll-region";
/// An upper bound, in milliseconds, of how old the oldest missing acknowledged write may be.
pub const STALENESS_MS: &str = "atoll-staleness-ms";
/// `held/wanted`: how many regions held a write durably when its write level timed out.
pub const ACKED: &str = "atoll-acked";
/// `region=ms,…`: how far behind a session's token this node is.
pub const LAG: &str = "atoll-lag";
/// `Bearer …`: needed on every listener that is not loopback.
pub const AUTHORIZATION: &str = "authorization";
/// The media type of a body; registers keep it with the value.
pub const CONTENT_TYPE: &str = "content-type";
/// Whole seconds to wait before asking again; with every 503.
pub const RETRY_AFTER: &str = "retry-after";

/// The media type of every JSON body.
pub const JSON: &str = "application/json";
/// The media type of a [`Problem`](super::Problem).
pub const PROBLEM_JSON: &str = "application/problem+json";
/// What a register's value is when its writer did not say.
pub const OCTET_STREAM: &str = "application/octet-stream";
