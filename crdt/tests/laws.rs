//! Every type through every law, over histories of three replicas that write, merge and take in old snapshots.
//!
//! **The laws.** L1: a merge is commutative, associative and idempotent, taking in what one knows changes nothing, and
//! merges make of a history what its records make.
//! L2: equal states have equal bytes, whatever way they came about; bytes read back. L3: a decoder never panics, and what
//! it accepts it would have written itself.
//!
//! One line at the end puts a type through all of them.

mod replicas;
mod rows;

use atoll_crdt::codec::{Reader, Writer};
use atoll_crdt::{
    ActorId, CollectionKey, DataType, Dot, Draft, Floor, Floors, MapPath, Op, Row, RowKey, VersionVector, counters,
    decode_floors, encode_floors, flags, maps, registers, sets,
};
use proptest::prelude::*;
use replicas::{Record, Replica};

/// What happens to one of three replicas.
#[derive(Debug, Clone)]
enum Event {
    /// It writes; which of the type's writes, and for a client that had read this replica so many events ago.
    Write { what: u8, saw_ago: Option<usize> },
    /// It takes in another, as that is now or as it was so many events ago.
    Merge { other: usize, ago: usize },
    /// It takes in the other's records, as far as they apply.
    Receive,
}

fn events() -> impl Strategy<Value = Vec<(usize, Event)>> {
    let event = prop_oneof![
        4 => (0_u8..16, proptest::option::weighted(0.25, 0_usize..12)).prop_map(|(what, saw_ago)| Event::Write { what, saw_ago }),
        2 => (1_usize..3, prop_oneof![2 => Just(0), 1 => 0_usize..12]).prop_map(|(other, ago)| Event::Merge { other, ago }),
        1 => Just(Event::Receive),
    ];
    proptest::collection::vec((0_usize..3, event), 1..40)
}

fn collection(data_type: DataType) -> CollectionKey {
    CollectionKey::new("shop", data_type, "k").expect("a valid name")
}

type Write = fn(&mut Draft<'_>, u8);

/// Plays the events; gives the replicas and every record that was made.
fn play(events: &[(usize, Event)], write: Write) -> ([Replica; 3], Vec<Record>) {
    let mut now = [1, 2, 3].map(Replica::new);
    let mut past: Vec<[Replica; 3]> = Vec::new();
    let mut records = Vec::new();
    for (step, (who, event)) in events.iter().enumerate() {
        past.push(now.clone());
        let earlier = |ago: usize| &past[step.saturating_sub(ago)];
        match event {
            Event::Write { what, saw_ago } => {
                let seen = saw_ago.map(|ago| earlier(ago)[*who].shown());
                now[*who].clock_ms = u64::from(what % 5) + 1;
                records.extend(now[*who].try_write(seen.as_ref(), |draft| write(draft, *what)));
            }
            Event::Merge { other, ago } => {
                now[*who].merge(&earlier(*ago)[(*who + *other) % 3].clone());
            }
            Event::Receive => {
                for record in &records {
                    now[*who].receive(record);
                }
            }
        }
    }
    (now, records)
}

fn joined(a: &Replica, b: &Replica) -> Replica {
    let mut joined = a.clone();
    joined.merge(b);
    joined
}

fn bytes_of(row: &Row) -> Vec<u8> {
    let mut out = Writer::new();
    row.encode(&mut out);
    out.into_bytes()
}

/// Everything a replica holds, as bytes.
fn whole(replica: &Replica) -> Vec<u8> {
    let mut out = Writer::new();
    replica.context.encode(&mut out);
    for (key, row) in replica.rows.iter() {
        out.bytes(key.as_bytes());
        row.encode(&mut out);
    }
    out.into_bytes()
}

/// L1 and L2, of whole replicas.
fn merge_laws([a, b, c]: &[Replica; 3], records: &[Record]) -> Result<(), TestCaseError> {
    prop_assert_eq!(whole(&joined(a, b)), whole(&joined(b, a)), "commutative");
    prop_assert_eq!(whole(&joined(&joined(a, b), c)), whole(&joined(a, &joined(b, c))), "associative");
    prop_assert_eq!(whole(&joined(a, a)), whole(a), "idempotent");
    prop_assert_eq!(whole(&joined(&joined(a, b), b)), whole(&joined(a, b)), "absorbing");
    let mut reader = Replica::new(9);
    prop_assert!(records.iter().all(|record| reader.receive(record)));
    prop_assert_eq!(whole(&joined(&joined(a, b), c)), whole(&reader), "what merges make, records make");
    for (_, row) in a.rows.iter().chain(b.rows.iter()).chain(c.rows.iter()) {
        prop_assert!(row.check_invariants());
    }
    Ok(())
}

/// A change of bytes: where, to what, and whether it is instead of or beside what was there.
type Damage = (usize, u8, u8);

fn damaged(bytes: &[u8], (at, byte, how): Damage) -> Vec<u8> {
    let at = at % (bytes.len() + 1);
    let mut bytes = bytes.to_vec();
    match how % 4 {
        0 if at < bytes.len() => bytes[at] = byte,
        1 if at < bytes.len() => bytes[at] ^= 1 << (byte % 8),
        2 => bytes.truncate(at),
        _ => bytes.insert(at, byte),
    }
    bytes
}

/// L3: what `read` makes of damaged bytes, `write` writes back as they were.
fn canonical<T>(
    bytes: &[u8],
    damage: &[Damage],
    read: impl Fn(&mut Reader<'_>) -> Option<T>,
    write: impl Fn(&T, &mut Writer),
) -> Result<(), TestCaseError> {
    let again = |bytes: &[u8]| {
        let mut input = Reader::new(bytes);
        let value = read(&mut input)?;
        let mut out = Writer::new();
        write(&value, &mut out);
        Some((out.into_bytes(), bytes.len() - input.rest().len()))
    };
    prop_assert_eq!(again(bytes), Some((bytes.to_vec(), bytes.len())), "reads back");
    let mut worse = bytes.to_vec();
    for damage in damage {
        worse = damaged(&worse, *damage);
        if let Some((written, taken)) = again(&worse) {
            prop_assert_eq!(&written, &worse[..taken], "accepts only what it would have written");
        }
    }
    Ok(())
}

/// L2 and L3, of every row, operation and context.
fn byte_laws(replicas: &[Replica; 3], records: &[Record], damage: &[Damage]) -> Result<(), TestCaseError> {
    for replica in replicas {
        for (_, row) in replica.rows.iter() {
            canonical(&bytes_of(row), damage, |input| Row::decode(input).ok(), Row::encode)?;
            let floors = counters::shown(row);
            let mut out = Writer::new();
            encode_floors(&mut out, &floors);
            canonical(
                out.as_bytes(),
                damage,
                |input| decode_floors(input).ok(),
                |floors, out| encode_floors(out, floors),
            )?;
        }
        let mut out = Writer::new();
        replica.context.encode(&mut out);
        canonical(out.as_bytes(), damage, |input| VersionVector::decode(input).ok(), VersionVector::encode)?;
    }
    for op in records.iter().flat_map(|record| &record.ops) {
        let mut out = Writer::new();
        op.encode(&mut out);
        canonical(out.as_bytes(), damage, |input| Op::decode(input).ok(), Op::encode)?;
    }
    Ok(())
}

macro_rules! laws {
    ($($name:ident: $write:expr;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(400))]
            $(
                #[test]
                fn $name(
                    events in events(),
                    damage in proptest::collection::vec((any::<usize>(), any::<u8>(), any::<u8>()), 4),
                ) {
                    let (replicas, records) = play(&events, $write);
                    merge_laws(&replicas, &records)?;
                    byte_laws(&replicas, &records, &damage)?;
                }
            )*
        }
    };
}

fn write_register(draft: &mut Draft<'_>, what: u8) {
    let row = collection(DataType::Register).row();
    match what {
        0..3 => draft.remove(&row).expect("readable"),
        _ => registers::put(draft, &row, "text/plain", &[what]).expect("readable"),
    }
}

fn write_counter(draft: &mut Draft<'_>, what: u8) {
    let row = collection(DataType::Counter).row();
    if (4..8).contains(&what) {
        counters::reset(draft, &row).expect("readable");
    }
    if what < 4 || what.is_multiple_of(4) {
        counters::add(draft, &row, i64::from(what) - 3).expect("in range");
    }
}

fn write_set(draft: &mut Draft<'_>, what: u8) {
    let set = collection(DataType::Set);
    let member = set.member(["x", "y", ""][usize::from(what % 3)]).expect("short");
    match what {
        0..2 => sets::delete(draft, &set).expect("readable"),
        2..6 => sets::remove(draft, &member).expect("readable"),
        _ => sets::add(draft, &member).expect("readable"),
    }
}

fn write_map(draft: &mut Draft<'_>, what: u8) {
    let map = collection(DataType::Map);
    let path = |pointer| MapPath::from_pointer(pointer).expect("valid");
    let json = || maps::Value::Json([b'0' + what % 10].as_slice().into());
    match what {
        0 => maps::remove(draft, &map, &MapPath::root()),
        1 => maps::remove(draft, &map, &path("/a")),
        2 => maps::remove(draft, &map, &path("/a/n")),
        3..5 => maps::set(draft, &map, &path("/a"), &json()),
        5 => maps::set(draft, &map, &path("/a"), &maps::Value::Object(vec![("b".into(), json())])),
        6..9 => maps::set(draft, &map, &path("/a/b"), &json()),
        9..12 => maps::add(draft, &map, &path("/a/n"), i64::from(what)).map(drop),
        12 => maps::remove_member(draft, &map, &path("/a/t"), "x"),
        _ => maps::add_member(draft, &map, &path("/a/t"), "x"),
    }
    .expect("an operation that can be");
}

fn write_flag(draft: &mut Draft<'_>, what: u8) {
    let row = collection(DataType::Flag).row();
    match what {
        0..3 => draft.remove(&row).expect("readable"),
        _ => flags::set(draft, &row, what.is_multiple_of(2)).expect("readable"),
    }
}

/// All types in one record: a batch.
fn write_batch(draft: &mut Draft<'_>, what: u8) {
    write_register(draft, what);
    write_counter(draft, 15 - what);
    write_set(draft, what);
    write_map(draft, what);
    write_map(draft, 15 - what);
    write_flag(draft, what);
}

laws! {
    registers_obey_every_law: write_register;
    counters_obey_every_law: write_counter;
    sets_obey_every_law: write_set;
    maps_obey_every_law: write_map;
    flags_obey_every_law: write_flag;
    batches_obey_every_law: write_batch;
}

fn vectors() -> impl Strategy<Value = VersionVector> {
    let dots = proptest::collection::vec((0_u64..4, 0_u64..6), 0..5);
    dots.prop_map(|dots| dots.into_iter().map(|(actor, seq)| Dot::new(ActorId::new(actor), seq)).collect())
}

proptest! {
    #[test]
    fn version_vectors_are_a_lattice(a in vectors(), b in vectors(), c in vectors()) {
        let join = |x: &VersionVector, y: &VersionVector| {
            let mut joined = x.clone();
            joined.join(y);
            joined
        };
        prop_assert_eq!(join(&a, &b), join(&b, &a));
        prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
        prop_assert_eq!(join(&a, &a), a.clone());
        prop_assert!(a.leq(&join(&a, &b)) && a.meet(&b).leq(&a) && a.meet(&b).leq(&b));
        prop_assert_eq!(a.meet(&b), b.meet(&a));
        prop_assert_eq!(a.leq(&b), join(&a, &b) == b);
        prop_assert_eq!(a.leq(&b), a.first_missing_in(&b).is_none());
        prop_assert_eq!(join(&a.beyond(&b), &b), join(&a, &b));
        prop_assert!(a.iter().all(|dot| dot.seq > 0 && a.covers(dot)));
    }

    #[test]
    fn hostile_numbers_neither_panic_nor_wrap(
        runs in proptest::collection::vec((0_u64..3, 1_u64..4, any::<u64>(), any::<i128>()), 0..6),
        marks in proptest::collection::vec((0_u64..3, any::<u64>(), any::<i128>()), 0..6),
        amount: i64,
    ) {
        let key: RowKey = collection(DataType::Counter).row();
        let floors: Floors = marks.iter().map(|(a, seq, total)| (ActorId::new(*a), Floor { seq: *seq, total: *total })).collect();
        let mut row = Row::empty();
        for (actor, seq, birth, total) in runs {
            let count = atoll_crdt::Count { run: Some(atoll_crdt::Run { birth, total }), floors: floors.clone().into() };
            row.put(Dot::new(ActorId::new(actor), seq), atoll_crdt::Payload::Count(count));
        }
        let shown = counters::value(&row);
        prop_assert_eq!(shown.is_some(), !row.is_empty());
        let mut replica = Replica::new(1);
        replica.rows.set(&key, row);
        replica.context = (0..3).map(|actor| Dot::new(ActorId::new(actor), 9)).collect();
        replica.try_write(None, |draft| drop(counters::add(draft, &key, amount)));
        replica.write(|draft| {
            let other = CollectionKey::new("shop", DataType::Counter, "other").expect("a valid name");
            counters::add(draft, &other.row(), 1).expect("from nothing");
            counters::reset(draft, &key).expect("readable");
        });
        prop_assert_eq!(counters::value(&replica.row(&key)), None);
    }
}
