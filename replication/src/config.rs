//! Every knob of the replica, with its trade and its constraint.

use crate::names::{NodeName, RegionName};
use crate::wire::PROTOCOL;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// Who this replica is, and how it behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster: peers of another one are refused.
    pub cluster: String,
    /// This node.
    pub node: NodeName,
    /// This node's region.
    pub region: RegionName,
    /// The cluster's regions: what write levels count. Contains `region`.
    pub regions: Vec<RegionName>,
    /// How many seeds were given: without data, a node asks them all before it serves.
    pub seeds: u32,
    /// Under which secret rows are digested here ([`crate::sketch::DigestKey::name`]).
    pub digests: u64,
    /// Found a new cluster even though seeds were given and do not answer.
    pub found: bool,
    /// Bounds and intervals.
    pub limits: Limits,
}

/// Bounds and intervals. The defaults suit links of 1 to 300 ms.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The newest version of the protocol that is spoken: [`crate::wire::PROTOCOL`]'s, or an older one, as a build of then does.
    pub protocol_max: u16,
    /// Bytes handed to the driver for one link and not yet taken by its transport: memory a slow peer can hold.
    pub link_window_bytes: usize,
    /// Bytes of records in one message; a single larger record goes alone.
    pub batch_bytes: usize,
    /// Bytes of one actor's records held back because something before them is missing. Beyond it they are dropped, and
    /// come again.
    pub pending_bytes: usize,
    /// Records held back over all actors, in bytes.
    pub pending_total_bytes: usize,
    /// Writes that wait for a token's context or for other regions; one more is refused as overloaded.
    pub waiting_writes: usize,
    /// Between pings on a link. Staleness is known to about this much plus a round trip.
    pub ping_every: Duration,
    /// Between two reports of durable positions on a link, at least. Lower: sooner answers to `w` above `local`.
    pub status_every: Duration,
    /// A peer that stays behind on an actor for this long plus a round trip is sent that actor's records by others too,
    /// unasked; and between two times of asking for them.
    pub relay_after: Duration,
    /// How long a record may be late that another one builds on, before it is asked for of whoever sent that one. Below
    /// it, detours that are quicker than the straight way cause no double traffic.
    pub ask_after: Duration,
    /// The longest pause between two attempts to send the same records again.
    pub resend_max: Duration,
    /// A link on which nothing was heard for this long is given up.
    pub silent_after: Duration,
    /// For how long a node takes a peer's word that another process runs under its name.
    pub twin_for: Duration,
    /// How long a node that joins waits for records which no connected peer holds any more.
    pub join_patience: Duration,
    /// How long nobody could serve what this node lacks before it reconciles; and the first pause after a session that failed.
    pub reconcile_after: Duration,
    /// A reconciliation in which nothing moves for this long is given up.
    pub reconcile_idle: Duration,
    /// How long comparing one member may take, catching up with it included, before it is told as not compared.
    pub verify_peer: Duration,
    /// Bytes of rows and keys that a reconciliation holds in memory; what is more goes to disk. More makes the pause at the
    /// end of a session longer that needs no disk.
    pub reconcile_memory: usize,
    /// Bytes of rows that a reconciliation holds on disk. One that needs more is given up.
    pub reconcile_disk: u64,
    /// Rows that changed while a difference was built on disk and are merged by the closing entry itself: bounds its pause.
    /// While more have changed, another pass comes first.
    pub closing_rows: usize,
    /// How long the rows of a session that was cut off are kept for the next one.
    pub resume_within: Duration,
    /// Bytes of rows on disk below which they are not kept for it: sending so little again takes less than going on, which wants rows
    /// whole and merges all of them at the end.
    pub resume_bytes_min: u64,
    /// Rows that a clear removes at once, and that a step of a larger one looks at: bounds how long other writes wait for it.
    pub clear_rows: usize,
    /// Peers that may take this node's state over at once; each pins a snapshot.
    pub sources: usize,
    /// Between two roots told to a peer that holds the same.
    pub prove_every: Duration,
    /// Between two times of truncating the log.
    pub truncate_every: Duration,
    /// Between two rounds of letting counters' markers go. Each looks at 256 counters and searches 512 rows at most.
    pub purge_every: Duration,
    /// A peer that lacks more than this many records of one actor is catching up rather than live.
    pub catching_up_records: u64,
    /// A clock that differs by more than this from the peers' median refuses writes that it would decide.
    pub skew_max_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            protocol_max: PROTOCOL.1,
            link_window_bytes: 4 << 20,
            batch_bytes: 256 << 10,
            pending_bytes: 16 << 20,
            pending_total_bytes: 64 << 20,
            waiting_writes: 4_096,
            ping_every: Duration::from_millis(100),
            status_every: Duration::from_millis(5),
            relay_after: Duration::from_secs(1),
            ask_after: Duration::from_millis(50),
            resend_max: Duration::from_secs(30),
            silent_after: Duration::from_secs(3),
            twin_for: Duration::from_secs(15),
            join_patience: Duration::from_secs(10),
            reconcile_after: Duration::from_millis(500),
            reconcile_idle: Duration::from_secs(30),
            verify_peer: Duration::from_secs(60),
            reconcile_memory: 8 << 20,
            reconcile_disk: 64 << 30,
            closing_rows: 1_024,
            resume_within: Duration::from_secs(600),
            resume_bytes_min: 32 << 20,
            clear_rows: 512,
            sources: 2,
            prove_every: Duration::from_secs(10),
            truncate_every: Duration::from_secs(1),
            purge_every: Duration::from_secs(5),
            catching_up_records: 1_000,
            skew_max_ms: 250,
        }
    }
}
