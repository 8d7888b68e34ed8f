//! Frames read back as what they were written from, and damaged ones never panic.

use super::*;
use crate::reconcile::message::Step;
use atoll_crdt::ActorId;
use atoll_crdt::Dot;
use atoll_crdt::codec::Writer;
use proptest::prelude::*;

fn frame(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

fn back(bytes: &[u8]) -> Result<Message, WireError> {
    let (head, body) = bytes.split_at(HEADER_BYTES);
    let header = Header::parse(head.try_into().unwrap())?;
    assert!(header.body_bytes() <= body.len(), "a frame says how long it is");
    header.message(&body[..header.body_bytes()])
}

fn samples() -> Vec<Message> {
    let durable: VersionVector = [Dot::new(ActorId::new(7), 9)].into_iter().collect();
    let record = crate::Record {
        dot: Dot::new(ActorId::new(3), 1),
        at: atoll_crdt::Hlc::at_ms(5),
        deps: durable.clone(),
        ops: Vec::new(),
    };
    let hello = Hello {
        protocol: PROTOCOL,
        cluster: "shop".into(),
        node: "n1".into(),
        region: "eu-west-1".into(),
        actor: ActorId::new(1),
        former: alloc::vec![ActorId::new(2)],
        founded: true,
        founded_ms: 1,
        durable: durable.clone(),
        log: LogState { wanted: durable.clone(), starts: durable.clone() },
    };
    let log = LogState { wanted: VersionVector::new(), starts: durable.clone() };
    alloc::vec![
        Message::Hello(hello),
        Message::Details(Details { digests: 9 }),
        Message::Records(alloc::vec![record.encode()]),
        Message::Durable(durable.clone(), log.clone()),
        Message::News(durable.clone(), None),
        Message::News(durable.clone(), Some(log)),
        Message::Resume { actor: ActorId::new(4), from: 5 },
        Message::Ping { sent_us: 1 },
        Message::Pong { sent_us: 1, wall_ms: 2, durable: durable.clone() },
        Message::Root { durable: durable.clone(), root: Cell::EMPTY },
        Message::Proof { durable: VectorDigest::of([&durable]), root: Cell::EMPTY },
        Message::Probe { sent_us: 3, whole: true },
        Message::Beat(Beat {
            sent_us: 1,
            wall_ms: 2,
            news: VersionVector::new(),
            log: None,
            digest: VectorDigest::of([&durable, &VersionVector::new()]),
            volatile: durable.clone(),
            links: alloc::vec![ActorId::new(4)],
        }),
    ]
    .into_iter()
    .chain(reconciliation(&durable))
    .collect()
}

fn reconciliation(vector: &VersionVector) -> Vec<Message> {
    let sketch = crate::sketch::Sketch::new(12, 1_024);
    let ids: Vec<_> = (1..4).filter_map(crate::sketch::RowId::from_bits).collect();
    let key = atoll_crdt::CollectionKey::new("t", atoll_crdt::DataType::Flag, "f").unwrap().row();
    let mut fresh = atoll_crdt::Row::empty();
    fresh.put(Dot::new(ActorId::new(7), 1), atoll_crdt::Payload::Flag(true));
    let rows = alloc::vec![crate::RowState { key: key.clone(), fresh, kept: vector.iter().collect() }];
    let opening = crate::sketch::Opening::of(&sketch, 12, 1);
    let holes = crate::OpenHoles { ids: ids.clone(), context: vector.clone() };
    let more = crate::OpenMore { whole: true, holes };
    let open = |more| crate::Open { context: vector.clone(), cursor: vector.clone(), opening: opening.clone(), more };
    let states = |span, checked| Step::States(crate::States { span, rows: rows.clone(), checked });
    let steps = [
        Step::Open(Arc::new(open(None))),
        Step::Open(Arc::new(open(Some(more)))),
        Step::Accept { context: vector.clone(), lost: vector.clone(), rows: None },
        Step::Accept { context: vector.clone(), lost: vector.clone(), rows: Some(7) },
        Step::Taken(3),
        Step::Cells(sketch.prefix().cells()[..2].into()),
        Step::More { from: 2, to: 5 },
        Step::Want(ids.clone().into()),
        Step::WantAll,
        states(crate::Span::Ids(ids.clone()), false),
        states(crate::Span::Ids(ids.clone()), true),
        states(crate::Span::Holes(ids), true),
        states(crate::Span::Keys(None, Some(key.clone())), false),
        states(crate::Span::Keys(None, Some(key)), true),
        Step::Close,
        Step::Abort,
        Step::GiveUp,
    ];
    let message = |step| Message::Reconcile(Reconcile { session: crate::SessionId(3), grant: 4, place: 5, step });
    steps.into_iter().map(message).collect()
}

#[test]
fn every_message_reads_back() {
    for message in samples() {
        assert_eq!(back(&frame(&message)), Ok(message));
    }
}

/// Peers of the first version read these bytes.
#[test]
fn steps_of_the_first_version_have_its_codes_and_nothing_more() {
    let vector: VersionVector = [Dot::new(ActorId::new(7), 3)].into_iter().collect();
    let bytes = |message: &Message| {
        let Message::Reconcile(message) = message else { panic!("{message:?}") };
        let mut out = Writer::new();
        message.encode(&mut out);
        out.into_bytes()
    };
    let codes: Vec<u8> = reconciliation(&vector).iter().map(|message| bytes(message)[3]).collect();
    assert_eq!(codes, [1, 11, 2, 12, 14, 3, 4, 5, 6, 7, 13, 13, 7, 13, 8, 9, 10]);
    let step = Step::Accept { context: vector.clone(), lost: vector.clone(), rows: None };
    let accept = Message::Reconcile(Reconcile { session: crate::SessionId(3), grant: 4, place: 5, step });
    let mut body = Writer::new();
    vector.encode(&mut body);
    vector.encode(&mut body);
    assert_eq!(bytes(&accept), [&[3, 4, 5, 2], body.as_bytes()].concat());
}

#[test]
fn a_length_beyond_the_types_bound_is_refused_by_the_header_alone() {
    for kind in [HELLO, DETAILS, DURABLE, NEWS, RESUME, PING, PONG, PROBE, BEAT, RECORDS, RECONCILE, ROOT, PROOF] {
        assert!(matches!(Header::parse([0xff, 0xff, 0xff, 0xff, kind, 0]), Err(WireError::Length { .. })));
        assert!(matches!(Header::parse([0, 0, 0, 1, kind, 0]), Err(WireError::Length { .. })));
    }
    assert_eq!(Header::parse([0, 0, 0, 2, 99, 0]), Err(WireError::Type(99)));
}

/// Every message of version 1, as a build of that version wrote them.
const RECORDED: &[u8] = include_bytes!("../../tests/recorded/protocol-1.frames");

#[test]
fn what_version_1_said_is_understood_and_said_in_the_same_bytes() {
    let mut rest = RECORDED;
    let mut kinds = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize + 4;
        let (one, more) = rest.split_at(length);
        let message = back(one).unwrap();
        assert_eq!(frame(&message), one, "{message:?}");
        kinds.push(one[4]);
        rest = more;
    }
    assert_eq!(kinds.len(), 18);
    assert_eq!(kinds[..7], [HELLO, RECORDS, DURABLE, RESUME, PING, PONG, ROOT]);
}

proptest! {
    #[test]
    fn damaged_frames_are_errors_or_messages_and_never_panic(which in 0_usize..30, at in 0_usize..200, byte: u8, cut in 0_usize..200) {
        let mut bytes = frame(&samples()[which]);
        let at = HEADER_BYTES + at % (bytes.len() - HEADER_BYTES);
        bytes[at] = byte;
        let _ = back(&bytes);
        let body = &bytes[HEADER_BYTES..];
        let _ = Header { kind: bytes[4], body_bytes: body.len() }.message(&body[..cut.min(body.len())]);
    }
}
