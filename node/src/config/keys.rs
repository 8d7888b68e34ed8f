//! The table of all keys.

/// What kind of value a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A list of texts; in a flag or variable separated by commas.
    List,
    /// A path of a file or directory.
    Path,
    /// An IP address and a port to listen on.
    Address,
    /// A host name or IP address, and a port.
    Host,
    /// A list of hosts; in a flag or variable separated by commas.
    Hosts,
    /// A table from a node's name to a host; in a flag or variable `name=host:port`, separated by commas.
    Peers,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// A number of bytes with its unit: B, KiB, MiB, GiB, TiB.
    Bytes,
    /// A whole number with its unit: ms, s, m, h.
    Duration,
}

impl Kind {
    /// What a value of this kind looks like, for error messages and documentation.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Text => "a text such as \"abc\"",
            Self::List => "a list of texts such as [\"a\", \"b\"]",
            Self::Path => "a path such as \"/etc/atoll/n1.crt\"",
            Self::Address => "an IP address and port such as \"127.0.0.1:7601\"",
            Self::Host => "a host and port such as \"10.0.0.1:7603\" or \"n1.example.org:7603\"",
            Self::Hosts => "a list of hosts and ports such as [\"10.0.0.1:7603\"]",
            Self::Peers => "lines such as n2 = \"127.0.0.1:9002\"",
            Self::Integer => "a whole number",
            Self::Number => "a number",
            Self::Bytes => "a size such as \"256MiB\" (B, KiB, MiB, GiB, TiB)",
            Self::Duration => "a duration such as \"200ms\", \"5s\", \"10m\" or \"72h\"",
        }
    }
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// As it stands in the file, sections dotted: `tls.cert`.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What holds when it is absent, as a flag would say it.
    pub default: Option<&'static str>,
    /// What it does, in one line.
    pub doc: &'static str,
}

impl Key {
    /// Its flag: `--tls-cert`.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace(['.', '_'], "-"))
    }

    /// Its variable: `ATOLL_TLS_CERT`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("ATOLL_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }
}

const fn key(name: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Key {
    Key { name, kind, default, doc }
}

use Kind::{Address, Bytes, Duration, Host, Hosts, Integer, List, Number, Path, Peers, Text};

/// Every key, in the order of the documentation.
pub(super) const KEYS: &[Key] = &[
    key("cluster", Text, None, "The cluster's name; peers of another cluster or CA are refused."),
    key("node", Text, None, "This node's name, unique in the cluster."),
    key("region", Text, None, "The region this node stands in."),
    key("regions", List, None, "The cluster's regions, declared at founding; absent: this region alone."),
    key("data_dir", Path, None, "The directory with everything that survives the process."),
    key("http", Address, Some("127.0.0.1:7601"), "Where HTTP clients connect; HTTPS when [tls] is set."),
    key("quic", Address, Some("127.0.0.1:7602"), "Where QUIC clients connect; open only when [tls] is set."),
    key(
        "peer",
        Address,
        Some("127.0.0.1:7603"),
        "Where other nodes connect, always mTLS; open only when [tls] is set.",
    ),
    key("admin", Address, Some("127.0.0.1:7604"), "Where operators connect; HTTPS when it is not loopback."),
    key("seeds", Hosts, Some(""), "Peer addresses of nodes that may know the cluster."),
    key("weight", Integer, Some("100"), "This node's share of requests among equals."),
    key("advertise.http", Host, None, "What others are told for HTTP; absent: the listener."),
    key("advertise.quic", Host, None, "What others are told for QUIC; absent: the listener."),
    key("advertise.peer", Host, None, "What others are told for peers; absent: the listener."),
    key("peers", Peers, Some(""), "Dial these nodes here instead of where the roster says (a tunnel, a relay)."),
    key("tls.ca", Path, None, "The cluster's CA certificate."),
    key("tls.cert", Path, None, "This node's certificate, issued by that CA."),
    key("tls.key", Path, None, "The certificate's private key."),
    key(
        "auth.tokens_file",
        Path,
        None,
        "Bearer tokens as SHA-256 in hex, one a line; needed for every listener that is not loopback.",
    ),
    key("location.lat", Number, None, "Latitude in degrees, north positive."),
    key("location.lon", Number, None, "Longitude in degrees, east positive."),
    key(
        "durability.sync",
        Text,
        Some("always"),
        "\"always\": an answered write is on the disk. \"interval\": a power cut loses the last interval.",
    ),
    key("durability.interval_ms", Integer, Some("50"), "Milliseconds between two syncs when sync is \"interval\"."),
    key("log.retain_min", Duration, Some("1h"), "Log kept at least this long for peers that are away."),
    key(
        "log.retain_max",
        Duration,
        Some("72h"),
        "Log dropped after this long even if a peer lacks it; that peer reconciles.",
    ),
    key("log.retain_max_bytes", Bytes, Some("10GiB"), "Log dropped beyond this size even if a peer lacks it."),
    key(
        "scrub.interval",
        Duration,
        Some("168h"),
        "Every stored row is read and checked once in this time, at an even pace; 0s: never, unless roots differ or `POST /admin/scrub` asks.",
    ),
    key("cache.bytes", Bytes, Some("256MiB"), "Memory for rows that are kept at hand."),
    key("limits.connections", Integer, Some("4096"), "Open connections a listener; one more is closed."),
    key(
        "limits.connections_per_ip",
        Integer,
        Some("1024"),
        "Open connections a listener and client address; one more is closed.",
    ),
    key(
        "limits.header_timeout",
        Duration,
        Some("5s"),
        "Longest time for a TLS handshake, the first bytes, or a request's head; also how long an idle HTTP/1 connection stays.",
    ),
    key(
        "limits.body_timeout",
        Duration,
        Some("30s"),
        "Longest time for a request's body, and for taking in a part of an answer.",
    ),
    key(
        "limits.requests_in_flight",
        Integer,
        Some("4096"),
        "Requests being worked on; one more is refused as overloaded.",
    ),
    key(
        "limits.request_bytes_in_flight",
        Bytes,
        Some("256MiB"),
        "Bytes of request bodies being read or worked on; beyond it requests are refused as overloaded.",
    ),
    key(
        "limits.drain_grace",
        Duration,
        Some("3s"),
        "How long a node that is asked to end is `draining` first: it answers reads, refuses writes, and sends clients elsewhere; 0s: not at all.",
    ),
    key("limits.quic_streams", Integer, Some("16"), "Concurrent streams of one QUIC client."),
    key(
        "limits.waiting_reads",
        Integer,
        Some("4096"),
        "Reads that wait for what their session has seen; one more is refused as overloaded.",
    ),
    key(
        "limits.scans",
        Integer,
        Some("32"),
        "Reads at once that walk many rows (pages, maps, listings); further ones wait their turn.",
    ),
    key(
        "limits.reconcile_memory",
        Bytes,
        Some("8MiB"),
        "Rows that taking a peer's state over holds in memory; a larger difference is built on disk.",
    ),
    key(
        "limits.reconcile_disk",
        Bytes,
        Some("64GiB"),
        "Rows that taking a peer's state over builds on disk; beyond it the attempt is given up.",
    ),
    key(
        "limits.disk_reserve",
        Bytes,
        Some("256MiB"),
        "Room that is kept free on the disk: with less the node takes no writes of clients, with less than half it has no links to peers, and taking a peer's state over ends before it is touched. 0: none.",
    ),
];

/// Sections that the contract reserves.
pub(super) const RESERVED: &[&str] = &["dns", "telemetry"];
