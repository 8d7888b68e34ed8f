//! Every decoder that bytes of a peer or of a disk reach, as functions of bytes: what fuzzing drives, and what replays
//! what it found.
//!
//! **What always holds.** No bytes panic. What reads in a canonical form has no other one: it is written as the bytes
//! that were read. A frame, which is MessagePack and has other forms, reads back as what it was.
//!
//! **What is not here.** Clients' requests: HTTP and JSON.

use crate::sim::store::MemStore;
use atoll::backup::manifest::Manifest;
use atoll_crdt::codec::{DecodeError, Reader, Writer};
use atoll_crdt::{ActorId, Dot, Op, Row, RowKey, VersionVector};
use atoll_replication::sketch::{Change, DigestKey, Opening, RowDigest, Sketch, decode_cells, encode_cells};
use atoll_replication::wire::{HEADER_BYTES, Header, Hello, Message, PROTOCOL};
use atoll_replication::{
    Config, Entry, Input, Instant, Limits, LinkId, LogState, NodeName, Now, RecordBytes, RegionName, Replica, SeedIndex,
};
use std::sync::LazyLock;

/// A function that must come back from any bytes.
pub type Decoder = fn(&[u8]);

/// Every one, by the name of its corpus.
pub const ALL: [(&str, Decoder); 13] = [
    ("frame", frame),
    ("hello", hello),
    ("records", records),
    ("reconcile", reconcile),
    ("record", record),
    ("entry", entry),
    ("row", row),
    ("key", key),
    ("vector", vector),
    ("sketch", sketch),
    ("peer", peer),
    ("manifest", manifest),
    ("object", object),
];

const HELLO: u8 = 1;
const RECORDS: u8 = 10;
const RECONCILE: u8 = 20;
/// Messages that one input holds at most.
const FRAMES_MAX: usize = 64;

fn message(bytes: &[u8]) -> Option<Message> {
    let (head, body) = bytes.split_at_checked(HEADER_BYTES)?;
    let header = Header::parse(head.try_into().ok()?).ok()?;
    header.message(body.get(..header.body_bytes())?).ok()
}

/// A frame of one kind around a body.
fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 2).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), &[kind, 0][..], body].concat()
}

/// A body that holds one string of bytes.
fn boxed(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&[0xc6][..], &length.to_be_bytes(), bytes].concat()
}

/// Bytes before their checksum.
fn summed(bytes: &[u8]) -> Vec<u8> {
    [bytes, &crc32fast::hash(bytes).to_be_bytes()].concat()
}

/// A list of earlier actors is sent newest first, and means a set.
fn comparable(mut message: Message) -> Message {
    if let Message::Hello(hello) = &mut message {
        hello.former.sort_unstable();
    }
    message
}

/// A backup's manifest, given without its digest.
pub fn manifest(bytes: &[u8]) {
    let sealed = atoll::backup::manifest::sealed(bytes.to_vec());
    if let Ok(manifest) = Manifest::decode(&sealed) {
        assert_eq!(Manifest::decode(&manifest.encode()), Ok(manifest), "a manifest reads back");
    }
    let _ = Manifest::decode(bytes);
}

/// An object of a backup, and the rows or ids in it.
pub fn object(bytes: &[u8]) {
    atoll::backup::part::any(bytes);
}

/// Any frame.
pub fn frame(bytes: &[u8]) {
    if let Some(said) = message(bytes) {
        let mut again = Vec::new();
        said.encode(&mut again);
        assert_eq!(message(&again).map(comparable), Some(comparable(said)), "a message reads back");
    }
}

/// The body of a greeting.
pub fn hello(bytes: &[u8]) {
    frame(&framed(HELLO, bytes));
}

/// A message of one record, given without its checksum.
pub fn records(bytes: &[u8]) {
    let record = summed(bytes);
    let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
    let body = [&[0x91, 0xc6][..], &length.to_be_bytes(), &record].concat();
    frame(&framed(RECORDS, &body));
}

/// A step of a reconciliation.
pub fn reconcile(bytes: &[u8]) {
    let Some(said) = message(&framed(RECONCILE, &boxed(bytes))) else { return };
    let mut again = Vec::new();
    said.encode(&mut again);
    assert!(again.ends_with(bytes), "a step of a reconciliation has one form");
}

/// A record without its checksum.
pub fn record(bytes: &[u8]) {
    let Ok(checked) = RecordBytes::check(summed(bytes).into()) else { return };
    if let Ok(record) = checked.decode() {
        assert_eq!(record.encode().as_bytes(), checked.as_bytes(), "a record has one form");
    }
}

/// A journal entry; one that holds a record, without the checksum of that.
pub fn entry(bytes: &[u8]) {
    const RECORD: u8 = 3;
    let bytes =
        if bytes.first() == Some(&RECORD) { [&[RECORD][..], &summed(&bytes[1..])].concat() } else { bytes.to_vec() };
    if let Ok(entry) = Entry::decode(&bytes) {
        let mut again = Vec::new();
        entry.encode(&mut again);
        assert_eq!(again, bytes, "an entry has one form");
    }
}

fn canonical<T>(
    bytes: &[u8],
    decode: impl Fn(&mut Reader<'_>) -> Result<T, DecodeError>,
    encode: impl Fn(&T, &mut Writer),
) -> Option<T> {
    let mut input = Reader::new(bytes);
    let value = decode(&mut input).ok()?;
    input.finish().ok()?;
    let mut again = Writer::new();
    encode(&value, &mut again);
    assert_eq!(again.as_bytes(), bytes, "a value has one form");
    Some(value)
}

/// A row.
pub fn row(bytes: &[u8]) {
    if let Some(row) = canonical(bytes, Row::decode, Row::encode) {
        assert!(row.check_invariants(), "a row that reads is in order");
    }
    canonical(bytes, Op::decode, Op::encode);
}

/// The key of a row.
pub fn key(bytes: &[u8]) {
    if let Ok(key) = RowKey::parse(bytes) {
        assert_eq!(key.as_bytes(), bytes, "a key is its bytes");
        assert!(bytes.starts_with(key.collection().as_bytes()), "a row is in its collection");
        let _ = (key.parts(), key.data_type(), key.leaf_kind());
    }
}

/// A version vector.
pub fn vector(bytes: &[u8]) {
    canonical(bytes, VersionVector::decode, VersionVector::encode);
}

static SKETCH: LazyLock<Sketch> = LazyLock::new(|| {
    let (digests, mut sketch) = (DigestKey::derive(b"fuzz"), Sketch::new(12, 2_048));
    for n in 0..1_500_u32 {
        let key =
            atoll_crdt::CollectionKey::new("f", atoll_crdt::DataType::Flag, &n.to_string()).expect("a valid name");
        let mut row = Row::empty();
        row.put(Dot::new(ActorId::new(1), u64::from(n) + 1), atoll_crdt::Payload::Flag(true));
        let digest = digests.digest(&key.row(), &row);
        sketch.apply(Change::between(digests.id(&key.row()), RowDigest::ABSENT, digest));
    }
    sketch
});

/// Cells, or the first flight of a session, which is compared with rows of ours: its header is repeated bytes of the
/// input, so that its 57 KB need not be found.
pub fn sketch(bytes: &[u8]) {
    if let Ok(cells) = decode_cells(bytes, 1 << 12) {
        assert_eq!(encode_cells(&cells), bytes, "cells have one form");
    }
    let mut opening = Opening::of(&SKETCH, 12, 1).encode();
    for chunk in bytes.chunks_exact(5) {
        // Four bytes say where, the fifth what.
        let at = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]) as usize % opening.len();
        opening[at] = chunk[4];
    }
    if let Ok(read) = Opening::decode(&opening) {
        assert_eq!(read.encode(), opening, "an opening has one form");
        let _ = read.compare(&SKETCH);
    }
    let _ = Sketch::decode(bytes);
}

/// A greeted peer who says whatever it likes, one frame after another: a replica with an open mind for state takes it,
/// and what holds inside a replica holds.
pub fn peer(bytes: &[u8]) {
    let mut listener = Listener::new();
    let mut rest = bytes;
    for _ in 0..FRAMES_MAX {
        let Some((head, after)) = rest.split_at_checked(HEADER_BYTES) else { return };
        let Ok(header) = Header::parse(head.try_into().expect("so many bytes")) else { return };
        let Some((body, after)) = after.split_at_checked(header.body_bytes()) else { return };
        rest = after;
        if let Ok(said) = header.message(body) {
            listener.hears(said);
        }
    }
}

struct Listener {
    replica: Replica,
    store: MemStore,
    us: u64,
}

const LINK: LinkId = LinkId(1);

impl Listener {
    fn new() -> Self {
        let (node, region) = (|text| NodeName::new(text).expect("valid"), |text| RegionName::new(text).expect("valid"));
        let config = Config {
            cluster: "f".into(),
            node: node("me"),
            region: region("here"),
            regions: vec![region("here"), region("there")],
            digests: 0,
            seeds: 0,
            found: false,
            limits: Limits { reconcile_after: std::time::Duration::from_millis(1), ..Limits::default() },
        };
        let mut store = MemStore::default();
        let recovered = store.crash(0);
        let now = Now { instant: Instant::from_micros(0), wall_ms: 1 << 40 };
        let replica =
            Replica::start(config, ActorId::new(1), now, recovered, &mut store).expect("memory does not fail");
        let mut listener = Self { replica, store, us: 0 };
        let (node, region) = (node("peer"), region("there"));
        listener.handle(Input::LinkUp { link: LINK, node, region, dialled: true, seed: None::<SeedIndex> });
        let lacking: VersionVector = [Dot::new(ActorId::new(3), 9)].into_iter().collect();
        let greeting = Hello {
            protocol: PROTOCOL,
            cluster: "f".into(),
            node: "peer".into(),
            region: "there".into(),
            actor: ActorId::new(2),
            former: Vec::new(),
            founded: true,
            founded_ms: 0,
            durable: lacking.clone(),
            // Its log begins after what is lacking: a reconciliation is opened.
            log: LogState {
                wanted: VersionVector::new(),
                starts: [Dot::new(ActorId::new(3), 10)].into_iter().collect(),
            },
        };
        listener.hears(Message::Hello(greeting));
        listener
    }

    fn hears(&mut self, said: Message) {
        self.handle(Input::LinkMessage(LINK, said));
        self.us += 2_000;
        self.handle(Input::Tick);
        let position = self.store.last();
        self.store.sync_to(position);
        self.handle(Input::Synced(position));
    }

    fn handle(&mut self, input: Input) {
        let now = Now { instant: Instant::from_micros(self.us), wall_ms: (1 << 40) + self.us / 1_000 };
        for input in [input, Input::Drained] {
            self.replica.handle(now, input, &mut self.store, &mut Vec::new()).expect("memory does not fail");
        }
        self.replica.check_invariants().unwrap_or_else(|what| panic!("{what}"));
    }
}
