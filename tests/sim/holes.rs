//! Damaged rows by hand: what waits for the repair, who may repair, and who may not be asked.

use crate::bench::{Bench, LINK, ME, PEER, counter, durable, ended, put, record, register, replies, vector};
use atoll_crdt::{CollectionKey, DataType, Payload, Row, RowSource as _};
use atoll_replication::sketch::{DigestKey, RowId};
use atoll_replication::wire::Message;
use atoll_replication::{
    Command, DisconnectReason, Effect, Limits, Open, OpenHoles, OpenMore, Reconcile, RowState, SessionId, Span, States,
    Step, Store as _, WriteError,
};
use std::sync::Arc;
use std::time::Duration;

/// A replica that has put a register, which a peer holds too, and whose stored row has rotted.
fn damaged() -> Bench {
    let mut bench = Bench::new(0);
    bench.greet(|_| {});
    bench.write(put(), |_| {});
    bench.sync();
    bench.say(durable(&[(ME, 1)]));
    assert!(bench.store.rots(&register().row()));
    bench
}

/// What is said of reconciliations, with the session.
fn said(effects: &[Effect]) -> Vec<(SessionId, &Step)> {
    let steps = effects.iter().filter_map(|effect| match effect {
        Effect::Send(LINK, Message::Reconcile(Reconcile { session, step, .. })) => Some((*session, step)),
        _ => None,
    });
    steps.collect()
}

/// The opening of the repair, and its session.
fn repair(bench: &mut Bench) -> (SessionId, Arc<Open>) {
    bench.wait(Duration::ZERO);
    let effects = bench.wait(Limits::default().reconcile_after);
    match said(&effects)[..] {
        [(session, Step::Open(open))] => (session, Arc::clone(open)),
        ref other => panic!("{other:?}"),
    }
}

fn tell(bench: &mut Bench, session: SessionId, steps: impl IntoIterator<Item = (u32, Step)>) -> Vec<Effect> {
    let message = |(place, step)| Message::Reconcile(Reconcile { session, grant: 9, place, step });
    steps.into_iter().flat_map(|step| bench.say(message(step))).collect()
}

fn holes(open: &Open) -> &OpenHoles {
    &open.more.as_ref().expect("it names holes").holes
}

/// The row as it was, whole.
fn whole(open: &Open, row: Option<Row>) -> Step {
    let rows = row.map(|fresh| RowState { key: register().row(), fresh, kept: Vec::new() });
    let span = Span::Holes(holes(open).ids.clone());
    Step::States(States { span, rows: rows.into_iter().collect(), checked: true })
}

fn is_refused(effects: &[Effect]) -> bool {
    replies(effects) == [&Err(WriteError::Damaged)]
}

#[test]
fn what_needs_a_damaged_row_is_refused_or_waits_and_goes_on_once_a_peer_has_repaired_it() {
    let mut bench = damaged();
    let row = Row::clone(&bench.store.rows()[&register().row()]);
    assert!(is_refused(&bench.write(put(), |_| {})));
    // A record that touches it is held back, and what its actor says behind it; another row is written.
    bench.say(Message::Records(vec![record(PEER, 1, 0, &[(ME, 1)])]));
    assert_eq!((bench.replica.context(), bench.replica.parked()), (&vector(&[(ME, 1)]), &[PEER][..]));
    bench.write(Command::CounterAdd { key: counter(), amount: 1 }, |_| {});
    bench.sync();
    assert_eq!(bench.replica.context(), &vector(&[(ME, 2)]));

    let (session, open) = repair(&mut bench);
    assert_eq!(holes(&open).ids.len(), 1);
    // What came after the damage was found does not touch it, and need not be known to whom repairs it.
    assert_eq!(holes(&open).context, vector(&[(ME, 1)]));
    let accept = Step::Accept { context: vector(&[(ME, 1)]), lost: vector(&[]), rows: Some(1) };
    tell(&mut bench, session, [(0, accept), (1, whole(&open, Some(row))), (2, Step::Close)]);
    assert_eq!((bench.replica.holes(), bench.replica.counts().rows_repaired), (0, 1));
    let values = bench.store.row(&register().row()).expect("it is repaired").expect("it is there");
    assert_eq!(values.iter().filter(|(_, payload)| matches!(payload, Payload::Value { .. })).count(), 2);
    assert_eq!(bench.replica.context(), &vector(&[(ME, 2), (PEER, 1)]));
    assert!(bench.replica.parked().is_empty() && bench.store.check_sketch());
    let effects = bench.write(put(), |_| {});
    assert!(replies(&effects).is_empty(), "it waits for the disk alone");
}

#[test]
fn a_peer_may_say_that_a_damaged_row_is_gone_but_not_keep_silent_about_it() {
    let mut bench = damaged();
    bench.store.scrub();
    let (session, _) = repair(&mut bench);
    let accept = || Step::Accept { context: vector(&[(ME, 1)]), lost: vector(&[]), rows: Some(1) };
    let effects = tell(&mut bench, session, [(0, accept()), (1, Step::Close)]);
    assert_eq!((ended(&effects), bench.replica.holes()), (Some(DisconnectReason::Protocol), 1));

    let mut bench = damaged();
    bench.store.scrub();
    let (session, open) = repair(&mut bench);
    tell(&mut bench, session, [(0, accept()), (1, whole(&open, None)), (2, Step::Close)]);
    assert_eq!((bench.replica.holes(), bench.store.row(&register().row())), (0, Ok(None)));
    assert!(bench.store.check_sketch());
}

#[test]
fn a_source_that_has_not_seen_what_may_have_touched_the_row_is_refused() {
    let mut bench = damaged();
    bench.store.scrub();
    let (session, _) = repair(&mut bench);
    let accept = Step::Accept { context: vector(&[]), lost: vector(&[]), rows: Some(1) };
    let effects = tell(&mut bench, session, [(0, accept)]);
    assert_eq!((ended(&effects), bench.replica.holes()), (Some(DisconnectReason::Protocol), 1));
}

/// An opening as a peer would send it that has this context, and cannot read the register.
fn theirs(bench: &mut Bench, context: &[(atoll_crdt::ActorId, u64)]) -> Step {
    let mut copy = bench.store.clone();
    let sketch = copy.pin();
    let opening = atoll_replication::sketch::Opening::of(sketch.sketch(), sketch.sketch().leaves().bits(), 1);
    let ids = vec![DigestKey::derive(b"sim").id(&register().row())];
    let context = vector(context);
    let holes = OpenHoles { ids, context: context.clone() };
    let more = Some(OpenMore { whole: false, holes });
    Step::Open(Arc::new(Open { context: context.clone(), cursor: context, opening, more }))
}

#[test]
fn a_source_waits_until_it_has_seen_what_may_have_touched_the_row_and_then_sends_it_whole() {
    let mut bench = Bench::new(0);
    bench.greet(|_| {});
    bench.write(put(), |_| {});
    bench.sync();
    let open = theirs(&mut bench, &[(ME, 1), (PEER, 1)]);
    let message = Message::Reconcile(Reconcile { session: SessionId(7), grant: 0, place: 0, step: open });
    assert!(said(&bench.say(message)).is_empty());
    bench.say(Message::Records(vec![record(PEER, 1, 0, &[(ME, 1)])]));
    let mut effects = bench.wait(Duration::ZERO);
    effects.extend(bench.wait(Duration::ZERO));
    let steps = said(&effects);
    assert!(
        matches!(steps[0].1, Step::Accept { context, .. } if *context == vector(&[(ME, 1), (PEER, 1)])),
        "{steps:?}"
    );
    let sent = steps.iter().find_map(|(_, step)| match step {
        Step::States(States { span: Span::Holes(_), rows, .. }) => Some(rows),
        _ => None,
    });
    let sent = sent.expect("the row is sent");
    assert_eq!(
        (sent[0].fresh.dots().count(), sent[0].kept.len()),
        (2, 0),
        "with every entry, although they are covered"
    );
    assert!(matches!(steps.last(), Some((_, Step::Close))));
}

#[test]
fn what_is_more_than_one_entry_repairs_stays_a_hole_for_the_next_session() {
    const ROWS: u64 = 70;
    let key = |n: u64| CollectionKey::new("t", DataType::Register, &format!("large-{n:02}")).expect("a valid name");
    let mut bench = Bench::new(0);
    bench.greet(|_| {});
    for n in 0..ROWS {
        let bytes = vec![n as u8; 1 << 20].into();
        bench.write(Command::RegisterPut { key: key(n), content_type: "text/plain".into(), bytes }, |_| {});
    }
    bench.sync();
    bench.say(durable(&[(ME, ROWS)]));
    let all = bench.store.rows().clone();
    (0..ROWS).for_each(|n| assert!(bench.store.rots(&key(n).row())));
    bench.store.scrub();
    let tell_all = |bench: &mut Bench, session, open: &Open, context: &[_]| {
        let accept = Step::Accept { context: vector(context), lost: vector(&[]), rows: Some(ROWS) };
        let ids = &holes(open).ids;
        let of = |id: &RowId| {
            let found = all.iter().find(|(key, _)| DigestKey::derive(b"sim").id(key) == *id);
            let (key, row) = found.expect("it was there");
            let rows = vec![RowState { key: key.clone(), fresh: Row::clone(row), kept: Vec::new() }];
            Step::States(States { span: Span::Holes(vec![*id]), rows, checked: true })
        };
        let steps = [accept].into_iter().chain(ids.iter().map(of)).chain([Step::Close]);
        tell(bench, session, (0..).zip(steps));
    };

    let (session, open) = repair(&mut bench);
    assert_eq!(holes(&open).ids.len() as u64, ROWS);
    // Another row changes; that the next repair must cover.
    bench.write(Command::CounterAdd { key: counter(), amount: 1 }, |_| {});
    bench.sync();
    tell_all(&mut bench, session, &open, &[(ME, ROWS)]);
    let (left, repaired) = (bench.replica.holes() as u64, bench.replica.counts().rows_repaired);
    // 64 MiB, and the row that reached them.
    assert_eq!((left, repaired), (ROWS - 64, 64));
    assert!(bench.store.check_sketch());
    bench.sync();

    let mut next = None;
    for _ in 0..10 {
        bench.say(Message::Ping { sent_us: 1 });
        for (session, step) in said(&bench.wait(Limits::default().reconcile_after)) {
            if let Step::Open(open) = step {
                next = Some((session, Arc::clone(open)));
            }
        }
    }
    let (session, open) = next.expect("another session is opened");
    assert_eq!(holes(&open).ids.len() as u64, ROWS - 64);
    assert_eq!(holes(&open).context, vector(&[(ME, ROWS + 1)]), "what was taken over may have touched them");
    tell_all(&mut bench, session, &open, &[(ME, ROWS + 1)]);
    assert_eq!((bench.replica.holes(), bench.replica.counts().rows_repaired), (0, ROWS));
    (0..ROWS).for_each(|n| assert_eq!(bench.store.row(&key(n).row()), Ok(all.get(&key(n).row()).cloned())));
    assert!(bench.store.check_sketch());
}

#[test]
fn what_is_damaged_here_is_told_to_nobody_and_no_root_is_compared() {
    let mut bench = damaged();
    let open = theirs(&mut bench, &[(ME, 1)]);
    let message = Message::Reconcile(Reconcile { session: SessionId(7), grant: 0, place: 0, step: open });
    let mut effects = bench.say(message);
    effects.extend(bench.wait(Duration::ZERO));
    let steps = said(&effects);
    assert!(matches!(steps.last(), Some((_, Step::Abort))), "{steps:?}");
    assert!(!steps.iter().any(|(_, step)| matches!(step, Step::States(_))), "{steps:?}");
    assert_eq!(bench.replica.holes(), 1, "the read found it");
    let proofs = bench.replica.counts().proofs;
    bench.say(Message::Root { durable: vector(&[(ME, 1)]), root: atoll_replication::sketch::Cell::EMPTY });
    assert_eq!((bench.replica.counts().proofs, bench.replica.counts().divergences), (proofs, 0));
    let effects = bench.wait(Limits::default().prove_every);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Send(_, Message::Proof { .. }))));
}

#[test]
fn roots_that_differ_at_equal_contexts_make_a_node_read_all_its_rows() {
    let mut bench = damaged();
    bench.say(Message::Root { durable: vector(&[(ME, 1)]), root: atoll_replication::sketch::Cell::EMPTY });
    assert_eq!(bench.replica.counts().divergences, 1);
    let (_, open) = repair(&mut bench);
    assert_eq!(holes(&open).ids.len(), 1, "nobody had read it");
}
