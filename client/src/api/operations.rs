//! What operators read and say: readiness on the client listener, the rest on the admin listener.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// `GET /readyz`: whether this node should be sent requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether it should.
    pub ready: bool,
    /// Why not, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// `GET /admin/status`: one node's view of itself and its peers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// The cluster's name.
    pub cluster: String,
    /// The node's name.
    pub node: String,
    /// The node's region.
    pub region: String,
    /// The actor of this process, in hexadecimal.
    pub actor: String,
    /// The causal context: how many records of each actor the node's rows contain.
    pub vector: BTreeMap<String, u64>,
    /// As `vector`, but only what is synced to disk.
    pub durable: BTreeMap<String, u64>,
    /// The peers, by name.
    pub peers: Vec<PeerStatus>,
    /// How many rows the node holds.
    pub rows: u64,
    /// The digest of all rows, in hexadecimal: equal vectors imply equal roots.
    pub root: String,
    /// How far the node's clock is from its peers' median; null without peers.
    pub clock_skew_ms: Option<f64>,
}

/// One peer, as a node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The peer's name.
    pub node: String,
    /// The peer's region.
    pub region: String,
    /// How the link is.
    pub state: PeerState,
    /// The link's round trip; null when it is down.
    pub rtt_ms: Option<f64>,
    /// How long ago this node last had everything the peer has; null when unknown.
    pub lag_ms: Option<f64>,
    /// How many of the peer's records this node lacks; null when unknown.
    pub lag_records: Option<u64>,
}

/// How a link to a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// No connection.
    Down,
    /// A connection is being made.
    Connecting,
    /// Records flow as they are written.
    Live,
    /// Older records flow first.
    CatchingUp,
    /// Differing rows are exchanged, because the log no longer reaches back.
    Reconciling,
    /// A whole copy is being transferred.
    Bootstrapping,
    /// Stopped by an operator.
    Paused,
}

impl PeerState {
    /// The state as the contract spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Connecting => "connecting",
            Self::Live => "live",
            Self::CatchingUp => "catching_up",
            Self::Reconciling => "reconciling",
            Self::Bootstrapping => "bootstrapping",
            Self::Paused => "paused",
        }
    }
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// `GET /admin/digest`: enough to compare two nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// The digest of all rows, in hexadecimal.
    pub root: String,
    /// The causal context it was computed at.
    pub vector: BTreeMap<String, u64>,
}

/// `POST /admin/links/{node}`: stops or resumes one link, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkCommand {
    /// Whether the link shall be stopped.
    pub paused: bool,
}

/// `GET /admin/members`: who belongs to the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// All of them, by name; those that were removed too.
    pub members: Vec<MemberStatus>,
}

/// One member, as the node that is asked knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub node: String,
    /// Its region.
    pub region: String,
    /// Where it stands.
    pub standing: Standing,
    /// Where it listens for peers.
    pub peer: String,
    /// Where it listens for clients' HTTP.
    pub http: String,
    /// Where it listens for clients' QUIC.
    pub quic: String,
    /// Its share among its region's nodes.
    pub weight: u32,
    /// How the link to it is; null for the node that is asked.
    pub state: Option<PeerState>,
}

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It takes part in everything.
    Active,
    /// It is to take no more clients' writes.
    Draining,
    /// It has taken its last one, and the node that is asked holds all of them durably.
    Drained,
    /// It is refused by the others, for good.
    Removed,
}

impl Standing {
    /// The word of the contract.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Removed => "removed",
        }
    }
}

/// `POST /admin/members/{node}`: decides where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberCommand {
    /// `active`, `draining` or `removed`.
    pub standing: Standing,
    /// Remove it although it has not drained.
    #[serde(default)]
    pub force: bool,
}

/// A record as text: its bytes in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Export(pub String);

/// `POST /admin/export`: asks for records that somebody lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportCommand {
    /// What it has: a node's `durable`.
    pub beyond: BTreeMap<String, u64>,
}

/// Some of these records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// Each actor's in order.
    pub records: Vec<Export>,
    /// Where they reach up to: ask beyond it next, until none come.
    pub upto: BTreeMap<String, u64>,
    /// Records that the log holds no more.
    pub missing: u64,
}

/// `POST /admin/import`: hands in records that were exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportCommand {
    /// In the order of the export.
    pub records: Vec<Export>,
}

/// What became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Imported {
    /// Applied, and not known before.
    pub new: u64,
    /// Known before.
    pub known: u64,
    /// Held back, because what they build on is not there.
    pub held_back: u64,
}

/// `GET /admin/verify`: what comparing a node with every other member has found so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// The how manieth verification of the node's process it is.
    pub count: u64,
    /// Which member is being compared; null when it has ended.
    pub running: Option<String>,
    /// The node that was asked.
    pub node: String,
    /// Its region.
    pub region: String,
    /// The digest of its rows when this was last told.
    pub root: String,
    /// Its causal context at that moment.
    pub vector: BTreeMap<String, u64>,
    /// The other members, as far as they were compared.
    pub peers: Vec<Verdict>,
}

/// What comparing one member has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Its name.
    pub node: String,
    /// Its region.
    pub region: String,
    /// Whether it was compared to the end.
    pub compared: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Rows about which the two nodes cannot both be right.
    pub differing: u64,
    /// The first of them.
    pub rows: Vec<DifferingRow>,
}

/// A row about which two nodes cannot both be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferingRow {
    /// Its namespace.
    pub namespace: String,
    /// The type of the thing it belongs to.
    #[serde(rename = "type")]
    pub data_type: String,
    /// That thing's key.
    pub key: String,
    /// The member of a set, or the place in a map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Entries that only the node that was asked still shows.
    pub here: u64,
    /// Entries that only the other one still shows.
    pub there: u64,
    /// Whether both show the same entries with different contents.
    pub contents: bool,
}

/// `POST /admin/backup`: a state that is kept to be read, page by page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupBegun {
    /// Names it in what is asked next.
    pub session: String,
    /// The node's version.
    pub version: String,
    /// Its cluster.
    pub cluster: String,
    /// Its name.
    pub node: String,
    /// Its region.
    pub region: String,
    /// The causal context that the state stands at.
    pub vector: BTreeMap<String, u64>,
    /// Stamps up to here may have been given, in hexadecimal.
    pub ceiling: String,
    /// The processes that wrote to the node's disk, oldest first.
    pub starts: Vec<BackupStart>,
    /// How many rows there are.
    pub rows: u64,
    /// The sum over them, as in `GET /admin/digest`.
    pub root: String,
    /// Tells under which secret ids and digests are made, in hexadecimal.
    pub digests: String,
}

/// One process that wrote to a node's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupStart {
    /// Its actor.
    pub actor: String,
    /// Stamps up to here may have been given, in hexadecimal.
    pub ceiling: String,
    /// When the data was founded, in milliseconds since 1970; null while it had yet to join.
    pub founded_ms: Option<u64>,
}

/// `POST /admin/backup/{session}`: the next page, or that no more is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum BackupAsk {
    /// Rows in the order of their keys.
    Rows {
        /// The last key that came, in base64; empty at first.
        after: String,
    },
    /// Ids with digests, in order.
    Ids {
        /// The last id that came.
        after: Option<u64>,
    },
    /// The rows of some ids.
    RowsOf {
        /// Eight bytes each, ascending, in base64.
        ids: String,
    },
    /// The backup is whole.
    Done,
    /// It is given up.
    Abandon,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn status_is_spelt_as_in_the_contract() {
        let status = json!({
            "version": "0.1.0", "cluster": "shop", "node": "n1", "region": "eu-west-1",
            "actor": "00000000000000ff", "vector": {"00000000000000ff": 7}, "durable": {},
            "peers": [
                {"node": "n2", "region": "us-east-1", "state": "catching_up",
                 "rtt_ms": 71.5, "lag_ms": 40.0, "lag_records": 3},
                {"node": "n3", "region": "ap-southeast-1", "state": "down",
                 "rtt_ms": null, "lag_ms": null, "lag_records": null},
            ],
            "rows": 5, "root": "abcd", "clock_skew_ms": null,
        });
        let parsed: Status = serde_json::from_value(status.clone()).unwrap();
        assert_eq!(parsed.peers[0].state, PeerState::CatchingUp);
        assert_eq!(serde_json::to_value(parsed).unwrap(), status);
    }

    #[test]
    fn peer_states_are_spelt_alike_in_text_and_json() {
        use PeerState::{Bootstrapping, CatchingUp, Connecting, Down, Live, Paused, Reconciling};
        for state in [Down, Connecting, Live, CatchingUp, Reconciling, Bootstrapping, Paused] {
            assert_eq!(serde_json::to_value(state).unwrap(), json!(state.as_str()));
        }
    }

    #[test]
    fn readiness_has_reasons_only_when_not_ready() {
        let ready = Readiness { ready: true, reasons: Vec::new() };
        assert_eq!(serde_json::to_value(&ready).unwrap(), json!({"ready": true}));
        let not_yet: Readiness =
            serde_json::from_value(json!({"ready": false, "reasons": ["bootstrapping 42%"]})).unwrap();
        assert_eq!(not_yet.reasons, ["bootstrapping 42%"]);
    }
}
