//! Single steps of the protocol, by hand.

use crate::bench::{
    Bench, LINK, ME, PEER, WALL_MS, asks_for, counter, durable, ended, hello, name, put, record, region, register,
    replies, vector,
};
use atoll_crdt::{ActorId, Dot, Hlc, Op, RowOp, VersionVector};
use atoll_replication::sketch::Cell;
use atoll_replication::wire::{Details, Hello, Message, VectorDigest};
use atoll_replication::{
    Answer, Command, DisconnectReason, Effect, Input, Instant, Limits, LinkId, LinkState, Readiness, Record, SeedIndex,
    Store as _, WriteError,
};
use std::time::Duration;

#[test]
fn a_write_is_answered_when_it_is_durable_and_not_before() {
    let mut bench = Bench::new(0);
    assert!(replies(&bench.write(Command::CounterAdd { key: counter(), amount: 5 }, |_| ())).is_empty());
    let effects = bench.sync();
    let outcome = replies(&effects)[0].as_ref().expect("a plain write");
    assert_eq!(outcome.answers, vec![Answer::Value(5)]);
    assert_eq!(outcome.token, vector(&[(ME, 1)]));
}

#[test]
fn a_write_leaves_for_peers_before_it_is_durable_and_is_reported_only_after() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    bench.us += 10_000;
    let effects = bench.write(put(), |_| ());
    let sent = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::Send(_, Message::Records(_))));
    let told = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::Send(_, Message::News(..))));
    assert!(sent(&effects) && !told(&effects));
    assert!(told(&bench.sync()));
}

#[test]
fn a_level_is_reached_by_another_regions_report_or_times_out_and_the_write_stands() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    bench.write(put(), |write| write.regions = 2);
    assert!(replies(&bench.sync()).is_empty());
    let effects = bench.say(durable(&[(ME, 1)]));
    let outcome = replies(&effects)[0].as_ref().expect("it was taken");
    assert_eq!((outcome.acked, outcome.reached), (2, true));
    bench.write(put(), |write| write.regions = 2);
    bench.sync();
    let effects = bench.wait(Duration::from_millis(1_001));
    let outcome = replies(&effects)[0].as_ref().expect("it stands");
    assert_eq!((outcome.acked, outcome.reached, outcome.dot), (1, false, Some(Dot::new(ME, 2))));
}

#[test]
fn a_write_with_a_token_waits_for_it_and_is_refused_when_it_does_not_come() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    bench.write(put(), |write| write.token = vector(&[(PEER, 1)]));
    assert!(replies(&bench.sync()).is_empty());
    bench.say(Message::Records(vec![record(PEER, 1, 0, &[])]));
    assert_eq!(replies(&bench.sync()).len(), 1);
    bench.write(put(), |write| write.token = vector(&[(PEER, 2)]));
    let effects = bench.wait(Duration::from_millis(201));
    assert_eq!(replies(&effects), vec![&Err(WriteError::SessionBehind)]);
}

#[test]
fn a_record_waits_for_what_its_writer_had_seen() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    let third = ActorId::new(0xc);
    bench.say(Message::Records(vec![record(PEER, 1, 0, &[(third, 1)])]));
    assert_eq!(bench.replica.context(), &VersionVector::new());
    bench.say(Message::Records(vec![record(third, 1, 0, &[])]));
    assert_eq!(bench.replica.context(), &vector(&[(PEER, 1), (third, 1)]));
}

#[test]
fn what_a_record_builds_on_is_asked_of_its_sender_at_once_when_its_writer_has_no_link() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    let third = ActorId::new(0xc);
    assert!(asks_for(third, &bench.say(Message::Records(vec![record(PEER, 1, 0, &[(third, 2)])]))));
    // Once, until it is late itself.
    assert!(!asks_for(third, &bench.say(Message::Records(vec![record(PEER, 2, 0, &[(third, 2)])]))));
    assert!(asks_for(third, &bench.wait(Limits::default().relay_after)));
    bench.say(Message::Records(vec![record(third, 1, 0, &[]), record(third, 2, 0, &[])]));
    assert_eq!(bench.replica.context(), &vector(&[(PEER, 2), (third, 2)]));
}

#[test]
fn what_a_record_builds_on_is_asked_of_its_sender_when_its_writer_has_a_link_and_is_late() {
    let mut bench = Bench::new(0);
    bench.greet(|hello| hello.former = vec![ActorId::new(0xc)]);
    let third = ActorId::new(0xc);
    assert!(!asks_for(third, &bench.say(Message::Records(vec![record(PEER, 1, 0, &[(third, 1)])]))));
    assert!(asks_for(third, &bench.wait(Limits::default().ask_after)));
}

#[test]
fn a_relay_once_asked_for_goes_on_until_the_peer_is_served_sooner_by_another() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    bench.say(Message::Records(vec![record(PEER, 1, 0, &[])]));
    let other = LinkId(2);
    bench.greet_as(other, "other", ActorId::new(0xd));
    let relayed = |effects: &[Effect]| {
        effects.iter().any(|effect| matches!(effect, Effect::Send(to, Message::Records(_)) if *to == other))
    };
    assert!(!relayed(&bench.say(Message::Records(vec![record(PEER, 2, 0, &[])]))));
    assert!(relayed(&bench.say_on(other, Message::Resume { actor: PEER, from: 1 })));
    assert!(relayed(&bench.say(Message::Records(vec![record(PEER, 3, 0, &[])]))));
    bench.say_on(other, durable(&[(PEER, 4)]));
    assert!(!relayed(&bench.say(Message::Records(vec![record(PEER, 4, 0, &[]), record(PEER, 5, 0, &[])]))));
}

#[test]
fn a_record_that_kills_what_its_writer_cannot_have_seen_is_parked() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    let kills = vec![Dot::new(ActorId::new(0xc), 1)];
    let op = Op::Row(RowOp { key: register().row(), kills, put: None });
    let dot = Dot::new(PEER, 1);
    let lie = Record { dot, at: Hlc::at_ms(WALL_MS), deps: VersionVector::new(), ops: vec![op] }.encode();
    bench.say(Message::Records(vec![lie]));
    assert_eq!(bench.replica.parked(), [PEER]);
    assert_eq!(bench.replica.context(), &VersionVector::new());
}

#[test]
fn equal_contexts_with_another_root_are_counted_and_roots_are_told_once_a_period() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    bench.say(Message::Records(vec![record(PEER, 1, 0, &[])]));
    bench.sync();
    let all = vector(&[(PEER, 1)]);
    bench.say(durable(&[(PEER, 1)]));
    let roots = |effects: &[Effect]| {
        effects.iter().filter(|effect| matches!(effect, Effect::Send(LINK, Message::Proof { .. }))).count()
    };
    // The peer is told first what is durable here.
    assert_eq!(roots(&bench.wait(Duration::from_millis(10))), 0);
    assert_eq!(roots(&bench.wait(Duration::from_millis(10))), 1);
    assert_eq!(roots(&bench.wait(Limits::default().prove_every / 4)), 0);
    let root = bench.store.synced_root();
    let durable = VectorDigest::of([&all]);
    bench.say(Message::Proof { durable, root });
    assert_eq!((bench.replica.counts().proofs, bench.replica.counts().divergences), (1, 0));
    // Another context says nothing.
    bench.say(Message::Proof { durable: VectorDigest::of([&vector(&[(PEER, 2)])]), root: Cell::EMPTY });
    assert_eq!(bench.replica.counts().proofs, 1);
    bench.say(Message::Root { durable: all, root: Cell::EMPTY });
    assert_eq!((bench.replica.counts().proofs, bench.replica.counts().divergences), (2, 1));
}

#[test]
fn sums_under_another_secret_are_not_compared() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    bench.say(Message::Details(Details { digests: 2 }));
    let all = bench.replica.durable().clone();
    bench.say(Message::Root { durable: all, root: Cell::EMPTY });
    assert_eq!((bench.replica.counts().proofs, bench.replica.counts().foreign_digests), (0, 1));
}

#[test]
fn a_peer_of_the_version_before_is_spoken_to_in_its_own_words() {
    for (versions, knows) in [((1, 1), false), ((1, 2), true), ((2, 7), true)] {
        let mut bench = Bench::new(0);
        let said = bench.greet(|hello| hello.protocol = versions);
        let details = said.iter().any(|effect| matches!(effect, Effect::Send(LINK, Message::Details(_))));
        assert_eq!((ended(&said), details), (None, knows), "{versions:?}");
        bench.say(Message::Records(vec![record(PEER, 1, 0, &[])]));
        assert!(bench.replica.context().covers(Dot::new(PEER, 1)));
    }
}

#[test]
fn a_record_of_the_future_is_parked_and_applied_when_the_clock_gets_there() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    bench.say(Message::Records(vec![record(PEER, 1, 2_000, &[])]));
    assert_eq!(bench.replica.parked(), [PEER]);
    assert!(!bench.replica.context().covers(Dot::new(PEER, 1)));
    bench.wait(Duration::from_millis(1_400));
    assert_eq!(bench.replica.parked(), [PEER]);
    bench.wait(Duration::from_millis(150));
    assert!(bench.replica.parked().is_empty());
    assert!(bench.replica.context().covers(Dot::new(PEER, 1)));
}

#[test]
fn a_clock_away_from_its_peers_refuses_what_clocks_decide_and_nothing_else() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    bench.us += 100_000;
    let wall_ms = WALL_MS + 100 + 1_000;
    bench.say(Message::Pong { sent_us: 0, wall_ms, durable: VersionVector::new() });
    // Half the round trip of 100 ms explains 50 ms either way.
    assert_eq!(bench.replica.clock_skew_ms(), 1_000);
    let effects = bench.write(put(), |_| ());
    assert_eq!(replies(&effects), vec![&Err(WriteError::ClockSkew { skew_ms: 1_000 })]);
    bench.write(Command::CounterAdd { key: counter(), amount: 1 }, |_| ());
    assert!(replies(&bench.sync())[0].is_ok());
}

#[test]
fn freshness_is_when_the_ping_left_and_only_once_its_answer_is_readable() {
    let mut bench = Bench::new(0);
    assert_eq!(bench.replica.fresh_as_of(Instant::from_micros(0)), None);
    bench.greet(|_| ());
    bench.us = 80_000;
    bench.say(Message::Pong { sent_us: 10_000, wall_ms: WALL_MS, durable: vector(&[(PEER, 1)]) });
    assert_eq!(bench.replica.fresh_as_of(Instant::from_micros(80_000)), None);
    bench.say(Message::Records(vec![record(PEER, 1, 0, &[])]));
    assert_eq!(bench.replica.fresh_as_of(Instant::from_micros(80_000)), None, "not yet durable here");
    bench.sync();
    assert_eq!(bench.replica.fresh_as_of(Instant::from_micros(80_000)), Some(Instant::from_micros(10_000)));
}

#[test]
fn who_is_not_who_the_certificate_says_or_speaks_for_us_is_refused() {
    type Change = fn(&mut Hello);
    let cases: [(Change, DisconnectReason); 7] = [
        (|hello| hello.node = "other".into(), DisconnectReason::Identity),
        (|hello| hello.region = "elsewhere".into(), DisconnectReason::Identity),
        (|hello| hello.cluster = "other".into(), DisconnectReason::Identity),
        (|hello| hello.protocol = (3, 4), DisconnectReason::Version),
        (|hello| hello.actor = ME, DisconnectReason::Impostor),
        (|hello| hello.former = vec![ME], DisconnectReason::Impostor),
        (|hello| hello.durable = vector(&[(ME, 1)]), DisconnectReason::Impostor),
    ];
    for (change, reason) in cases {
        let mut bench = Bench::new(0);
        assert_eq!(ended(&bench.greet(change)), Some(reason));
    }
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    assert_eq!(ended(&bench.say(Message::Records(vec![record(ME, 1, 0, &[])]))), Some(DisconnectReason::Impostor));
    assert_eq!(bench.replica.context(), &VersionVector::new());
}

#[test]
fn a_peer_that_falls_silent_is_given_up_and_one_that_never_greets_too() {
    let mut bench = Bench::new(0);
    bench.link_up(LINK, None);
    assert_eq!(ended(&bench.wait(Duration::from_millis(2_999))), None);
    assert_eq!(ended(&bench.wait(Duration::from_millis(1))), Some(DisconnectReason::Silent));
    bench.greet(|_| ());
    bench.wait(Duration::from_millis(2_000));
    bench.say(Message::Ping { sent_us: 0 });
    assert_eq!(ended(&bench.wait(Duration::from_millis(2_000))), None);
    assert_eq!(ended(&bench.wait(Duration::from_millis(1_000))), Some(DisconnectReason::Silent));
}

#[test]
fn empty_nodes_found_together_once_every_seed_has_answered() {
    let mut bench = Bench::new(2);
    assert_eq!(bench.replica.readiness(), Readiness::Asking);
    assert_eq!(replies(&bench.write(put(), |_| ())), vec![&Err(WriteError::NotReady)]);
    bench.handle(Input::SeedIsSelf(SeedIndex(0)));
    assert_eq!(bench.replica.readiness(), Readiness::Asking);
    bench.link_up(LINK, Some(1));
    let mut empty = hello();
    empty.founded = false;
    bench.say(Message::Hello(empty));
    assert_eq!(bench.replica.readiness(), Readiness::Serving);
}

#[test]
fn a_seed_that_is_joining_itself_is_no_leave_to_found_anew() {
    let mut bench = Bench::new(1);
    bench.link_up(LINK, Some(0));
    bench.say(Message::Hello(Hello { founded: false, durable: vector(&[(PEER, 4)]), ..hello() }));
    assert_eq!(bench.replica.readiness(), Readiness::Asking);
    bench.say(Message::Records(vec![record(PEER, 1, 0, &[])]));
    assert_eq!(bench.replica.readiness(), Readiness::Joining { percent: 25 });
}

#[test]
fn a_node_does_not_join_for_ever_for_what_went_with_the_last_disk_that_held_it() {
    let mut bench = Bench::new(1);
    bench.link_up(LINK, Some(0));
    bench.say(Message::Hello(Hello { durable: vector(&[(PEER, 4)]), ..hello() }));
    assert_eq!(bench.replica.readiness(), Readiness::Joining { percent: 0 });
    // The seed comes back from an older disk, which has one record.
    let actor = ActorId::new(0xd);
    bench.greet(|hello| (hello.actor, hello.former, hello.durable) = (actor, vec![PEER], vector(&[(PEER, 1)])));
    bench.say(Message::Records(vec![record(PEER, 1, 0, &[])]));
    bench.sync();
    let patience = Limits::default().join_patience;
    for _ in 0..patience.as_secs() {
        bench.say(Message::Ping { sent_us: 1 });
        bench.wait(Duration::from_secs(1));
        assert_ne!(bench.replica.readiness(), Readiness::Serving);
    }
    bench.say(Message::Ping { sent_us: 1 });
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.replica.readiness(), Readiness::Serving);
}

#[test]
fn a_seed_has_answered_whichever_of_two_connections_to_it_stays() {
    // "me" is lower than "peer": of the two, the one that "peer" dialled goes, but it was the first to greet.
    let empty = || Message::Hello(Hello { founded: false, ..hello() });
    for greets_first in [true, false] {
        let mut bench = Bench::new(1);
        let (node, there) = (name("peer"), region("there"));
        bench.handle(Input::LinkUp { link: LinkId(2), node, region: there, dialled: false, seed: None });
        if greets_first {
            bench.handle(Input::LinkMessage(LinkId(2), empty()));
        }
        bench.link_up(LINK, Some(0));
        if !greets_first {
            assert_eq!(bench.replica.readiness(), Readiness::Asking);
            bench.handle(Input::LinkMessage(LinkId(2), empty()));
        }
        assert_eq!(bench.replica.readiness(), Readiness::Serving);
    }
}

#[test]
fn a_node_without_data_joins_and_is_not_ready_until_it_holds_what_there_was() {
    let mut bench = Bench::new(2);
    bench.link_up(LINK, Some(1));
    let mut full = hello();
    full.durable = vector(&[(PEER, 4)]);
    bench.say(Message::Hello(full));
    assert_eq!(bench.replica.readiness(), Readiness::Joining { percent: 0 });
    bench.say(Message::Records(vec![record(PEER, 1, 0, &[]), record(PEER, 2, 0, &[])]));
    assert_eq!(bench.replica.readiness(), Readiness::Joining { percent: 50 });
    assert_eq!(replies(&bench.write(put(), |_| ())), vec![&Err(WriteError::NotReady)]);
    bench.say(Message::Records(vec![record(PEER, 3, 0, &[]), record(PEER, 4, 0, &[])]));
    // Readers see what is synced.
    assert_eq!(bench.replica.readiness(), Readiness::Joining { percent: 100 });
    bench.sync();
    assert_eq!(bench.replica.readiness(), Readiness::Serving);
}

#[test]
fn a_node_that_restarts_while_it_joins_goes_on_joining_and_one_that_has_joined_serves() {
    let mut bench = Bench::new(1);
    let (first, second, third) = (ActorId::new(0xa1), ActorId::new(0xa2), ActorId::new(0xa3));
    let full = || Message::Hello(Hello { durable: vector(&[(PEER, 4)]), ..hello() });
    bench.link_up(LINK, Some(0));
    bench.say(full());
    bench.say(Message::Records(vec![record(PEER, 1, 0, &[]), record(PEER, 2, 0, &[])]));
    bench.sync();

    // It has data, and not what there was.
    let mut bench = bench.restart(1, first);
    assert_eq!(bench.replica.readiness(), Readiness::Asking);
    assert_eq!(replies(&bench.write(put(), |_| ())), vec![&Err(WriteError::NotReady)]);
    let says = bench.link_up(LINK, Some(0));
    let is_founded =
        says.iter().any(|effect| matches!(effect, Effect::Send(LINK, Message::Hello(hello)) if hello.founded));
    assert!(!is_founded, "nobody may join by it");
    bench.say(full());
    assert_eq!(bench.replica.readiness(), Readiness::Joining { percent: 50 });
    bench.say(Message::Records(vec![record(PEER, 3, 0, &[]), record(PEER, 4, 0, &[])]));
    bench.sync();
    assert_eq!(bench.replica.readiness(), Readiness::Serving);

    // What says so is one more entry: without it there is nothing to serve by.
    let mut bench = bench.restart(1, second);
    assert_eq!(bench.replica.readiness(), Readiness::Asking);
    bench.link_up(LINK, Some(0));
    bench.say(full());
    bench.sync();
    assert_eq!(bench.replica.readiness(), Readiness::Serving);
    let bench = bench.restart(1, third);
    assert_eq!(bench.replica.readiness(), Readiness::Serving, "nobody needs to be asked");
}

#[test]
fn nodes_that_restarted_while_they_joined_serve_what_they_have_when_nobody_has_more() {
    // The seed lost its disk and is joining itself. In the one case it has something that is not here.
    for (held_there, expected) in [(1, Readiness::Serving), (2, Readiness::Asking)] {
        let mut bench = Bench::new(1);
        bench.link_up(LINK, Some(0));
        bench.say(Message::Hello(Hello { durable: vector(&[(PEER, 4)]), ..hello() }));
        bench.say(Message::Records(vec![record(PEER, 1, 0, &[])]));
        bench.sync();
        let mut bench = bench.restart(1, ActorId::new(0xa1));
        let patience = Limits::default().join_patience;
        let wait = |bench: &mut Bench, seconds: u64| {
            for _ in 0..seconds {
                bench.say(Message::Ping { sent_us: 1 });
                bench.wait(Duration::from_secs(1));
            }
        };
        // Nobody is there to tell.
        wait(&mut bench, 2 * patience.as_secs());
        assert_eq!(bench.replica.readiness(), Readiness::Asking);
        bench.link_up(LINK, Some(0));
        let (actor, former, durable) = (ActorId::new(0xd), vec![PEER], vector(&[(PEER, held_there)]));
        bench.say(Message::Hello(Hello { founded: false, actor, former, durable, ..hello() }));
        wait(&mut bench, patience.as_secs());
        assert_eq!(bench.replica.readiness(), Readiness::Asking);
        wait(&mut bench, 1);
        assert_eq!(bench.replica.readiness(), expected);
    }
}

#[test]
fn a_paused_link_is_ended_and_refused_until_it_is_resumed() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    assert_eq!(ended(&bench.handle(Input::Pause(name("peer"), true))), Some(DisconnectReason::Paused));
    assert_eq!(ended(&bench.link_up(LinkId(2), None)), Some(DisconnectReason::Paused));
    let state = |bench: &Bench| bench.replica.peers(Instant::from_micros(0))[0].state;
    assert_eq!(state(&bench), LinkState::Paused);
    bench.handle(Input::Pause(name("peer"), false));
    assert_eq!(ended(&bench.greet(|_| ())), None);
    assert_eq!(state(&bench), LinkState::Live);
}

#[test]
fn a_node_that_can_take_nothing_in_has_no_links_and_an_operators_pause_outlives_that() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    assert_eq!(ended(&bench.handle(Input::Hold(true))), Some(DisconnectReason::Paused));
    assert_eq!(ended(&bench.link_up(LinkId(2), None)), Some(DisconnectReason::Paused));
    let state = |bench: &Bench| bench.replica.peers(Instant::from_micros(0))[0].state;
    assert_eq!(state(&bench), LinkState::Paused);
    bench.handle(Input::Pause(name("peer"), true));
    bench.handle(Input::Hold(false));
    assert_eq!(ended(&bench.link_up(LinkId(3), None)), Some(DisconnectReason::Paused));
    bench.handle(Input::Pause(name("peer"), false));
    assert_eq!(ended(&bench.greet(|_| ())), None);
    assert_eq!(state(&bench), LinkState::Live);
}

#[test]
fn of_two_connections_the_lower_names_dial_stays_and_a_restarted_peer_replaces_its_old_one() {
    let mut bench = Bench::new(0);
    // "me" is lower than "peer" and dialled the first.
    bench.greet(|_| ());
    let (node, there) = (name("peer"), region("there"));
    let second = LinkId(2);
    bench.handle(Input::LinkUp { link: second, node: node.clone(), region: there.clone(), dialled: false, seed: None });
    let effects = bench.handle(Input::LinkMessage(second, Message::Hello(hello())));
    assert!(matches!(effects[..], [Effect::Disconnect(link, DisconnectReason::Duplicate), ..] if link == second));
    let third = LinkId(3);
    bench.handle(Input::LinkUp { link: third, node, region: there, dialled: false, seed: None });
    let restarted = Hello { actor: ActorId::new(0xd), former: vec![PEER], ..hello() };
    let effects = bench.handle(Input::LinkMessage(third, Message::Hello(restarted)));
    assert!(matches!(effects[..], [Effect::Disconnect(LINK, DisconnectReason::Duplicate), ..]));
}
