//! What peers say again and again stays small, is made good when something of it was lost, and tells which writes no member
//! holds any more.

use crate::bench::{Bench, LINK, ME, PEER, put, record, replies, vector};
use atoll_crdt::{ActorId, Dot, VersionVector};
use atoll_replication::wire::{Beat, Message, VectorDigest};
use atoll_replication::{Effect, Instant, Limits, LinkId, WriteError};
use std::time::Duration;

/// A process of the peer's that has ended.
const ENDED: ActorId = ActorId::new(0xd);
const THIRD: ActorId = ActorId::new(0xe);
const OTHER: LinkId = LinkId(2);

fn beat(asked: Duration, durable: &VersionVector, volatile: &[(ActorId, u64)], links: &[ActorId]) -> Message {
    Message::Beat(Beat {
        sent_us: asked.as_micros() as u64,
        wall_ms: crate::bench::WALL_MS,
        news: VersionVector::new(),
        log: None,
        digest: VectorDigest::of([durable, &VersionVector::new(), &VersionVector::new()]),
        volatile: vector(volatile),
        links: links.to_vec(),
    })
}

/// Beside the peer's next process after `ENDED`.
fn beside_a_restarted_peer() -> Bench {
    let mut bench = Bench::new(0);
    bench.greet(|hello| hello.former = vec![ENDED]);
    bench
}

fn error_after_the_wait(bench: &mut Bench) -> WriteError {
    let effects = bench.wait(Duration::from_millis(250));
    replies(&effects)[0].as_ref().expect_err("nobody has what it waits for").clone()
}

const ASKED: Duration = Duration::from_millis(50);

fn waiting(bench: &mut Bench) {
    bench.write(put(), |write| write.token = vector(&[(ENDED, 7)]));
    bench.us += 100_000;
}

#[test]
fn a_write_of_an_ended_process_that_no_member_holds_is_lost() {
    let mut bench = beside_a_restarted_peer();
    waiting(&mut bench);
    bench.say(beat(ASKED, &VersionVector::new(), &[], &[ME]));
    assert_eq!(error_after_the_wait(&mut bench), WriteError::SessionLost);
}

#[test]
fn nothing_is_lost_while_nobody_has_answered_since_the_token_came() {
    let mut bench = beside_a_restarted_peer();
    bench.us += 100_000;
    bench.say(beat(ASKED, &VersionVector::new(), &[], &[ME]));
    waiting(&mut bench);
    assert_eq!(error_after_the_wait(&mut bench), WriteError::SessionBehind);
}

#[test]
fn what_a_member_has_taken_in_and_not_synced_is_not_lost() {
    let mut bench = beside_a_restarted_peer();
    waiting(&mut bench);
    bench.say(beat(ASKED, &VersionVector::new(), &[(ENDED, 7)], &[ME]));
    assert_eq!(error_after_the_wait(&mut bench), WriteError::SessionBehind);
}

#[test]
fn what_is_held_back_here_is_not_lost() {
    let mut bench = beside_a_restarted_peer();
    waiting(&mut bench);
    bench.say(Message::Records(vec![record(ENDED, 7, 0, &[])]));
    bench.say(beat(ASKED, &VersionVector::new(), &[], &[ME]));
    assert_eq!(error_after_the_wait(&mut bench), WriteError::SessionBehind);
}

#[test]
fn nothing_is_lost_while_a_member_may_still_hear_a_process_that_has_ended() {
    let mut bench = beside_a_restarted_peer();
    bench.greet_as(OTHER, "third", THIRD);
    waiting(&mut bench);
    bench.say(beat(ASKED, &VersionVector::new(), &[], &[ME, THIRD]));
    bench.say_on(OTHER, beat(ASKED, &VersionVector::new(), &[], &[ME, ENDED]));
    assert_eq!(error_after_the_wait(&mut bench), WriteError::SessionBehind);
    waiting(&mut bench);
    let asked = Duration::from_millis(400);
    bench.say(beat(asked, &VersionVector::new(), &[], &[ME, THIRD]));
    bench.say_on(OTHER, beat(asked, &VersionVector::new(), &[], &[ME, PEER]));
    assert_eq!(error_after_the_wait(&mut bench), WriteError::SessionLost);
}

#[test]
fn a_member_of_version_1_cannot_say_that_something_is_lost() {
    let mut bench = Bench::new(0);
    bench.greet(|hello| (hello.former, hello.protocol) = (vec![ENDED], (1, 1)));
    waiting(&mut bench);
    let (sent_us, wall_ms) = (ASKED.as_micros() as u64, crate::bench::WALL_MS);
    bench.say(Message::Pong { sent_us, wall_ms, durable: VersionVector::new() });
    assert_eq!(error_after_the_wait(&mut bench), WriteError::SessionBehind);
}

fn asked(effects: &[Effect]) -> Option<&Message> {
    effects.iter().find_map(|effect| match effect {
        Effect::Send(LINK, message @ (Message::Ping { .. } | Message::Probe { .. })) => Some(message),
        _ => None,
    })
}

#[test]
fn a_beat_that_does_not_add_up_counts_for_nothing_and_the_next_one_is_to_name_all() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    let every = Limits::default().ping_every;
    assert!(matches!(asked(&bench.wait(every)), Some(Message::Probe { whole: false, .. })));
    // It holds more than it was heard to say: a report was lost.
    let held = vector(&[(PEER, 1)]);
    bench.say(beat(Duration::ZERO, &held, &[], &[ME]));
    assert_eq!(bench.replica.fresh_as_of(Instant::from_micros(bench.us)), None);
    assert!(matches!(asked(&bench.wait(every)), Some(Message::Probe { whole: true, .. })));
    let Message::Beat(answer) = beat(Duration::ZERO, &held, &[], &[ME]) else { unreachable!() };
    let log = Some(atoll_replication::LogState::default());
    bench.say(Message::Beat(Beat { sent_us: bench.us, news: held, log, ..answer }));
    assert!(matches!(asked(&bench.wait(every)), Some(Message::Probe { whole: false, .. })));
}

#[test]
fn whoever_asks_for_all_is_told_all() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    bench.write(put(), |_| ());
    bench.sync();
    let told = |bench: &mut Bench, whole| {
        let effects = bench.say(Message::Probe { sent_us: 0, whole });
        effects.into_iter().find_map(|effect| match effect {
            Effect::Send(LINK, Message::Beat(beat)) => Some((beat.news, beat.log.is_some())),
            _ => None,
        })
    };
    let all = bench.replica.durable().clone();
    assert_eq!(told(&mut bench, true), Some((all, true)));
    assert_eq!(told(&mut bench, false), Some((VersionVector::new(), false)));
}

#[test]
fn a_peer_of_version_1_is_asked_and_told_in_its_words() {
    let mut bench = Bench::new(0);
    bench.greet(|hello| hello.protocol = (1, 1));
    // Both hold nothing yet, and that is equal.
    let first = bench.wait(Limits::default().ping_every);
    assert!(matches!(asked(&first), Some(Message::Ping { .. })));
    assert!(first.iter().any(|effect| matches!(effect, Effect::Send(LINK, Message::Root { .. }))), "{first:?}");
    bench.write(put(), |_| ());
    let told = bench.sync();
    assert!(told.iter().any(|effect| matches!(effect, Effect::Send(LINK, Message::Durable(..)))), "{told:?}");
}

fn bytes(effects: &[Effect], is: impl Fn(&Message) -> bool) -> usize {
    let frame = |effect: &Effect| match effect {
        Effect::Send(LINK, message) if is(message) => {
            let mut frame = Vec::new();
            message.encode(&mut frame);
            Some(frame.len())
        }
        _ => None,
    };
    effects.iter().filter_map(frame).sum()
}

#[test]
fn what_is_said_again_and_again_does_not_grow_with_the_processes_there_were() {
    let lives: VersionVector = (1..=3_000).map(|life| Dot::new(ActorId::new(life << 32), 1)).collect();
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    bench.say(Message::Records(lives.iter().map(|dot| record(dot.actor, dot.seq, 0, &[])).collect()));
    bench.sync();
    assert_eq!(bench.replica.durable().len(), lives.len());
    bench.wait(Duration::from_millis(10));
    bench.write(put(), |_| ());
    bench.us += 10_000;
    let news = bytes(&bench.sync(), |message| matches!(message, Message::News(..)));
    let beat =
        bytes(&bench.say(Message::Probe { sent_us: 5, whole: false }), |message| matches!(message, Message::Beat(_)));
    bench.say(Message::Durable(bench.replica.durable().clone(), atoll_replication::LogState::default()));
    let proof = bytes(&bench.wait(Duration::from_millis(10)), |message| matches!(message, Message::Proof { .. }));
    assert!((1..64).contains(&news) && (1..64).contains(&beat) && (1..64).contains(&proof), "{news} {beat} {proof}");
    // Version 1 says all of it each time.
    let pong = bytes(&bench.say(Message::Ping { sent_us: 5 }), |message| matches!(message, Message::Pong { .. }));
    assert!(pong > 9 * lives.len(), "{pong}");
}
