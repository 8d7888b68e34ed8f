//! Reconciliations by hand, from the side that takes state over.

use crate::bench::{Bench, LINK, ME, WALL_MS, ended, register, vector};
use atoll_crdt::{ActorId, Dot, Hlc, Payload, Row, VersionVector};
use atoll_replication::wire::Message;
use atoll_replication::{
    DisconnectReason, Effect, Limits, LinkId, LogState, Open, Readiness, Reconcile, RowState, SessionId, Span, States,
    Step,
};
use std::time::Duration;

const THIRD: ActorId = ActorId::new(0xc);

/// The session that a peer makes us open which holds five records of an actor and has none of them in its log.
fn opened(bench: &mut Bench) -> SessionId {
    bench.greet(|hello| {
        hello.durable = vector(&[(THIRD, 5)]);
        hello.log.starts = vector(&[(THIRD, 6)]);
    });
    assert_eq!(opening(&bench.wait(Duration::ZERO)), None);
    opening(&bench.wait(Limits::default().reconcile_after)).expect("a session is opened")
}

fn opening(effects: &[Effect]) -> Option<SessionId> {
    effects.iter().find_map(|effect| match effect {
        Effect::Send(LINK, Message::Reconcile(Reconcile { session, step: Step::Open(_), .. })) => Some(*session),
        _ => None,
    })
}

fn accept() -> Step {
    Step::Accept { context: vector(&[(THIRD, 5)]), lost: vector(&[(THIRD, 5)]), rows: Some(1) }
}

/// All rows of the peer: one, put by this dot.
fn only_row(dot: Dot) -> Step {
    let mut fresh = Row::empty();
    let bytes = b"theirs".as_slice().into();
    fresh.put(dot, Payload::Value { at: Hlc::at_ms(WALL_MS), content_type: "text/plain".into(), bytes });
    let row = RowState { key: register().row(), fresh, kept: Vec::new() };
    Step::States(States { span: Span::Keys(None, None), rows: vec![row], checked: true })
}

/// Says steps in their places.
fn tell(bench: &mut Bench, session: SessionId, steps: impl IntoIterator<Item = (u32, Step)>) -> Vec<Effect> {
    let message = |(place, step)| Message::Reconcile(Reconcile { session, grant: 9, place, step });
    steps.into_iter().flat_map(|step| bench.say(message(step))).collect()
}

fn holds_nothing(bench: &Bench) -> bool {
    bench.replica.context().is_empty() && bench.store.rows().is_empty()
}

#[test]
fn what_no_log_can_bring_is_taken_over_by_one_entry_at_the_end() {
    let mut bench = Bench::new(0);
    let session = opened(&mut bench);
    tell(&mut bench, session, [(0, accept()), (1, only_row(Dot::new(THIRD, 5)))]);
    assert!(holds_nothing(&bench));
    tell(&mut bench, session, [(2, Step::Close)]);
    let all = vector(&[(THIRD, 5)]);
    assert_eq!((bench.replica.context(), bench.replica.cursor()), (&all, &all));
    assert_eq!((bench.replica.durable(), bench.store.rows().len()), (&VersionVector::new(), 1));
    bench.sync();
    assert_eq!(bench.replica.durable(), &all);
    // Its log reaches no further back than the peer's.
    assert_eq!(bench.replica.log_state().starts, vector(&[(THIRD, 6)]));
}

/// A peer serves one session a connection: the second would have ended the first unheard.
#[test]
fn a_member_is_compared_only_after_what_is_lacking_was_taken_over_from_it() {
    let mut bench = Bench::new(0);
    let session = opened(&mut bench);
    bench.handle(atoll_replication::Input::Verify);
    assert_eq!(opening(&bench.wait(Duration::from_millis(10))), None);
    tell(&mut bench, session, [(0, accept()), (1, only_row(Dot::new(THIRD, 5))), (2, Step::Close)]);
    bench.sync();
    assert!(opening(&bench.wait(Duration::from_millis(10))).is_some());
}

#[test]
fn what_is_lacking_is_asked_for_at_once_though_a_comparison_runs() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    bench.handle(atoll_replication::Input::Verify);
    let comparing = opening(&bench.wait(Duration::from_millis(10)));
    let log = LogState { starts: vector(&[(THIRD, 6)]), ..LogState::default() };
    bench.say(Message::Durable(vector(&[(THIRD, 5)]), log));
    bench.wait(Duration::ZERO);
    let session = opening(&bench.wait(Limits::default().reconcile_after)).expect("a session is opened");
    assert!(comparing.is_some() && comparing != Some(session));
    assert_eq!(opening(&bench.wait(Limits::default().reconcile_after)), None, "the comparison waits");
    tell(&mut bench, session, [(0, accept()), (1, only_row(Dot::new(THIRD, 5))), (2, Step::Close)]);
    bench.sync();
    assert!(opening(&bench.wait(Limits::default().reconcile_after)).is_some());
}

#[test]
fn with_a_peer_of_version_1_both_sides_speak_its_words() {
    let (version_1, all) = ((1, 1), vector(&[(THIRD, 5)]));
    // It has what no log can bring.
    let mut bench = Bench::new(0);
    bench.greet(|hello| {
        hello.protocol = version_1;
        hello.durable = all.clone();
        hello.log.starts = vector(&[(THIRD, 6)]);
    });
    bench.wait(Duration::ZERO);
    let opened = bench.wait(Limits::default().reconcile_after);
    let session = opening(&opened).expect("a session is opened");
    let said = |effects: &[Effect]| -> Vec<Step> {
        let step = |effect: &Effect| match effect {
            Effect::Send(LINK, Message::Reconcile(Reconcile { step, .. })) => Some(step.clone()),
            _ => None,
        };
        effects.iter().filter_map(step).collect()
    };
    assert!(matches!(&said(&opened)[..], [Step::Open(open)] if open.more.is_none()));
    let Step::States(mut rows) = only_row(Dot::new(THIRD, 5)) else { unreachable!("it is rows") };
    rows.checked = false;
    let accept = Step::Accept { context: all.clone(), lost: all.clone(), rows: None };
    tell(&mut bench, session, [(0, accept), (1, Step::States(rows)), (2, Step::Close)]);
    assert_eq!((bench.replica.context(), bench.store.rows().len()), (&all, 1));
    // It lacks what no log can bring it.
    bench.sync();
    let sketch = atoll_replication::sketch::Sketch::new(0, 0);
    let opening = atoll_replication::sketch::Opening::of(&sketch, 0, 7);
    let (context, cursor) = (VersionVector::new(), VersionVector::new());
    let open = Step::Open(std::sync::Arc::new(Open { context, cursor, opening, more: None }));
    let answers = bench.say(Message::Reconcile(Reconcile { session: SessionId(7), grant: 0, place: 0, step: open }));
    let steps = said(&answers);
    assert!(matches!(&steps[0], Step::Accept { rows: None, .. }), "{steps:?}");
    assert!(steps.iter().any(|step| matches!(step, Step::States(states) if !states.checked)), "{steps:?}");
    assert!(steps.iter().all(|step| !matches!(step, Step::Taken(_))), "{steps:?}");
}

#[test]
fn a_session_in_which_a_step_was_lost_is_given_up_and_another_is_begun() {
    let mut bench = Bench::new(0);
    let first = opened(&mut bench);
    tell(&mut bench, first, [(0, accept()), (2, Step::Close)]);
    assert!(holds_nothing(&bench));
    assert_eq!(opening(&bench.wait(Limits::default().reconcile_after)), None);
    let second = opening(&bench.wait(Limits::default().reconcile_after)).expect("another session");
    assert_ne!(first, second);
    // What comes late, of the session that was given up, has no effect on the other.
    tell(&mut bench, first, [(0, accept()), (1, Step::Close)]);
    assert!(holds_nothing(&bench));
    tell(&mut bench, second, [(0, accept()), (1, only_row(Dot::new(THIRD, 5))), (1, Step::Close), (2, Step::Close)]);
    assert_eq!(bench.store.rows().len(), 1);
}

#[test]
fn a_session_in_which_nothing_moves_is_given_up() {
    let mut bench = Bench::new(0);
    opened(&mut bench);
    let idle = Limits::default().reconcile_idle;
    for _ in 0..idle.as_secs() {
        // The link is heard meanwhile.
        bench.say(Message::Ping { sent_us: 1 });
        bench.wait(Duration::from_secs(1));
    }
    assert_eq!(bench.replica.counts().sessions_given_up, 1);
    assert!(holds_nothing(&bench));
}

#[test]
fn a_source_that_says_what_cannot_be_is_refused_and_nothing_is_applied() {
    let told = |context: &[_], lost: &[_]| Step::Accept { context: vector(context), lost: vector(lost), rows: Some(1) };
    let lies: [(&str, Vec<Step>, DisconnectReason); 4] = [
        ("rows beyond its context", vec![accept(), only_row(Dot::new(THIRD, 6))], DisconnectReason::Protocol),
        ("cursors beyond its context", vec![told(&[(THIRD, 5)], &[(THIRD, 6)])], DisconnectReason::Protocol),
        ("our own future", vec![told(&[(ME, 7), (THIRD, 5)], &[])], DisconnectReason::Impostor),
        ("rows before its context", vec![only_row(Dot::new(THIRD, 5))], DisconnectReason::Protocol),
    ];
    for (lie, steps, reason) in lies {
        let mut bench = Bench::new(0);
        let session = opened(&mut bench);
        // The grant is known by its first message alone.
        let grant = if matches!(steps[0], Step::Accept { .. }) { 9 } else { 0 };
        let mut effects = Vec::new();
        for (place, step) in (0..).zip(steps) {
            effects.extend(bench.say(Message::Reconcile(Reconcile { session, grant, place, step })));
        }
        assert_eq!(ended(&effects), Some(reason), "{lie}");
        assert!(holds_nothing(&bench), "{lie}");
    }
}

#[test]
fn after_a_failure_another_peer_is_asked_and_failures_in_a_row_are_ever_further_apart() {
    let mut bench = Bench::new(0);
    let session = opened(&mut bench);
    let other = LinkId(2);
    bench.greet_as(other, "other", ActorId::new(0xd));
    let log = LogState { wanted: VersionVector::new(), starts: vector(&[(THIRD, 6)]) };
    bench.say_on(other, Message::Durable(vector(&[(THIRD, 5)]), log));
    let asked = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Send(link, Message::Reconcile(Reconcile { session, step: Step::Open(_), .. })) => {
                Some((*link, *session))
            }
            _ => None,
        })
    };
    let pause = Limits::default().reconcile_after;
    tell(&mut bench, session, [(0, Step::Abort)]);
    assert_eq!(asked(&bench.wait(pause)), None);
    let (link, session) = asked(&bench.wait(pause)).expect("twice the first pause");
    assert_eq!(link, other);
    bench.say_on(other, Message::Reconcile(Reconcile { session, grant: 1, place: 0, step: Step::Abort }));
    bench.say(Message::Ping { sent_us: 1 });
    assert_eq!(asked(&bench.wait(pause * 3)), None);
    assert_eq!(asked(&bench.wait(pause)).map(|(link, _)| link), Some(LINK));
}

/// Everything of a session goes to disk.
fn on_disk() -> Bench {
    Bench::with_limits(0, Limits { reconcile_memory: 0, resume_bytes_min: 0, ..Limits::default() })
}

fn whole(effects: &[Effect]) -> Option<bool> {
    effects.iter().find_map(|effect| match effect {
        Effect::Send(LINK, Message::Reconcile(Reconcile { step: Step::Open(open), .. })) => {
            open.more.as_ref().map(|more| more.whole)
        }
        _ => None,
    })
}

#[test]
fn what_a_cut_off_session_left_on_disk_is_compared_by_the_next_which_wants_whole_rows() {
    let mut bench = on_disk();
    let session = opened(&mut bench);
    tell(&mut bench, session, [(0, accept()), (1, only_row(Dot::new(THIRD, 5))), (2, Step::Abort)]);
    assert!(holds_nothing(&bench));
    // Its rows are on their way to the disk when the pause is over, and there a tick later.
    let pause = Limits::default().reconcile_after;
    assert_eq!(opening(&bench.wait(pause * 2)), None);
    let effects = bench.wait(Duration::from_millis(50));
    assert_eq!((whole(&effects), bench.replica.counts().sessions_resumed), (Some(true), 1));
    let session = opening(&effects).expect("a session is opened");
    // The peer finds that nothing differs; what was sent before the cut counts.
    tell(&mut bench, session, [(0, accept()), (1, Step::Close)]);
    for _ in 0..4 {
        bench.wait(Duration::from_millis(50));
    }
    assert_eq!((bench.replica.context(), bench.store.rows().len()), (&vector(&[(THIRD, 5)]), 1));
}

#[test]
fn what_a_session_left_is_dropped_when_nobody_goes_on_with_it_in_time() {
    let mut bench = on_disk();
    let session = opened(&mut bench);
    tell(&mut bench, session, [(0, accept()), (1, only_row(Dot::new(THIRD, 5))), (2, Step::Abort)]);
    // The link is heard, and the peer would be asked: but the time is over.
    bench.us += Limits::default().resume_within.as_micros() as u64;
    bench.say(Message::Ping { sent_us: 1 });
    let effects = bench.wait(Duration::ZERO);
    assert_eq!((whole(&effects), bench.replica.counts().sessions_resumed), (Some(false), 0));
}

#[test]
fn what_is_little_is_not_kept_for_another_session() {
    let limits = Limits { reconcile_memory: 0, resume_bytes_min: 1 << 20, ..Limits::default() };
    let mut bench = Bench::with_limits(0, limits);
    let session = opened(&mut bench);
    tell(&mut bench, session, [(0, accept()), (1, only_row(Dot::new(THIRD, 5))), (2, Step::Abort)]);
    let mut reopened = None;
    for _ in 0..10 {
        bench.say(Message::Ping { sent_us: 1 });
        reopened = reopened.or(whole(&bench.wait(Limits::default().reconcile_after)));
    }
    assert_eq!((reopened, bench.replica.counts().sessions_resumed), (Some(false), 0));
}

#[test]
fn a_disk_without_room_ends_the_session_and_nothing_else_and_the_next_one_begins_anew() {
    let mut bench = on_disk();
    bench.store.fill(true);
    let session = opened(&mut bench);
    let effects = tell(&mut bench, session, [(0, accept()), (1, only_row(Dot::new(THIRD, 5)))]);
    let gives_up = |effect: &Effect| {
        matches!(effect, Effect::Send(LINK, Message::Reconcile(Reconcile { step: Step::GiveUp, .. })))
    };
    assert!(effects.iter().any(gives_up) && ended(&effects).is_none(), "{effects:?}");
    let counts = bench.replica.counts();
    assert_eq!((counts.sessions_disk_full, counts.sessions_given_up), (1, 1));
    assert!(holds_nothing(&bench));
    assert_eq!(bench.replica.readiness(), Readiness::Serving);
    bench.write(crate::bench::put(), |_| {});
    bench.sync();
    assert_eq!(bench.store.rows().len(), 1, "writes go on");

    bench.store.fill(false);
    let mut opened = None;
    for _ in 0..10 {
        bench.say(Message::Ping { sent_us: 1 });
        let effects = bench.wait(Limits::default().reconcile_after);
        opened = opened.or_else(|| opening(&effects).zip(whole(&effects)));
    }
    let (session, whole) = opened.expect("another session is opened");
    assert!(!whole, "nothing was kept");
    tell(&mut bench, session, [(0, accept()), (1, only_row(Dot::new(THIRD, 5))), (2, Step::Close)]);
    for _ in 0..10 {
        bench.wait(Duration::ZERO);
    }
    assert_eq!(bench.replica.counts().sessions_finished, 1);
    assert_eq!(bench.replica.context(), &vector(&[(ME, 1), (THIRD, 5)]));
}

#[test]
fn a_source_is_told_what_was_taken_in_and_one_that_sends_more_is_refused() {
    let told = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Send(LINK, Message::Reconcile(Reconcile { step: Step::Taken(chunks), .. })) => Some(*chunks),
            _ => None,
        })
    };
    let mut bench = Bench::new(0);
    let session = opened(&mut bench);
    tell(&mut bench, session, [(0, accept())]);
    let nothing = || Step::States(States { span: Span::Ids(Vec::new()), rows: Vec::new(), checked: true });
    let mut last = None;
    for place in 1..=20 {
        last = told(&tell(&mut bench, session, [(place, nothing())])).or(last);
    }
    assert_eq!(last, Some(16));

    // A disk that takes nothing in.
    let mut bench = on_disk();
    bench.store.stall(true);
    let session = opened(&mut bench);
    tell(&mut bench, session, [(0, accept()), (1, only_row(Dot::new(THIRD, 5)))]);
    let mut effects = Vec::new();
    for place in 2..=70 {
        effects.extend(tell(&mut bench, session, [(place, nothing())]));
    }
    assert_eq!((told(&effects), ended(&effects)), (None, Some(DisconnectReason::Protocol)));
    assert!(holds_nothing(&bench));
}

#[test]
fn a_joining_node_says_by_rows_how_far_it_is() {
    let mut bench = Bench::new(1);
    bench.link_up(LINK, Some(0));
    let mut hello = crate::bench::hello();
    (hello.founded, hello.durable) = (true, vector(&[(THIRD, 5)]));
    hello.log.starts = vector(&[(THIRD, 6)]);
    bench.say(Message::Hello(hello));
    bench.wait(Duration::ZERO);
    let session = opening(&bench.wait(Limits::default().reconcile_after)).expect("a session is opened");
    let accept = Step::Accept { context: vector(&[(THIRD, 5)]), lost: vector(&[(THIRD, 5)]), rows: Some(4) };
    tell(&mut bench, session, [(0, accept), (1, only_row(Dot::new(THIRD, 5)))]);
    assert_eq!(bench.replica.readiness(), Readiness::Joining { percent: 25 });
    tell(&mut bench, session, [(2, Step::Close)]);
    bench.sync();
    assert_eq!(bench.replica.readiness(), Readiness::Serving);
}
