//! What the roster does to one replica: who is refused, who is counted, and when clients are.

use super::bench::{Bench, LINK, PEER, counter, ended, hello, name, put, region, replies};
use atoll_crdt::{ActorId, CollectionKey, DataType, VersionVector};
use atoll_replication::wire::{Hello, Message};
use atoll_replication::{
    Command, DisconnectReason, Fence, Input, Instant, LinkId, Member, Membership, WriteError, WriteOutcome,
};
use std::time::Duration;

fn member(node: &str, membership: Membership) -> Member {
    let home = if node == "me" { "here" } else { "there" };
    Member { node: name(node), region: region(home), membership }
}

fn told(bench: &mut Bench, own: Membership, peer: Membership) -> Option<DisconnectReason> {
    ended(&bench.handle(Input::Members(vec![member("me", own), member("peer", peer)])))
}

fn own_row() -> Command {
    let key = CollectionKey::new("_system", DataType::Register, "members/me").expect("a valid name");
    Command::RegisterPut { key, content_type: "text/plain".into(), bytes: b"v".as_slice().into() }
}

fn only(replies: &[&Result<WriteOutcome, WriteError>]) -> Option<Fence> {
    match replies {
        [Err(WriteError::Fenced(fence))] => Some(*fence),
        [Ok(_)] | [] => None,
        other => panic!("{other:?}"),
    }
}

/// Why a write is refused at once, if it is; the rest is answered when it is durable.
fn fenced(bench: &mut Bench, command: Command) -> Option<Fence> {
    let effects = bench.write(command, |_| ());
    let fence = only(&replies(&effects));
    bench.sync();
    fence
}

#[test]
fn a_removed_peer_is_sent_away_refused_and_waited_for_no_more() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    assert_eq!(told(&mut bench, Membership::Active, Membership::Draining), None, "it goes on replicating");
    let now = Instant::from_micros(0);
    assert_eq!(bench.replica.fresh_as_of(now), None, "it never answered a ping");
    assert_eq!(told(&mut bench, Membership::Active, Membership::Removed), Some(DisconnectReason::Removed));
    assert_eq!(ended(&bench.link_up(LinkId(2), None)), Some(DisconnectReason::Removed));
    assert!(bench.replica.peers(now).is_empty());
    assert_eq!(bench.replica.regions(), [region("here")], "nobody is left there");
    assert_eq!(bench.replica.fresh_as_of(now), Some(now));
}

#[test]
fn a_draining_node_takes_no_clients_write_and_goes_on_with_the_clusters_own() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    // It waits for what its session has seen at the peer.
    let seen: VersionVector = [atoll_crdt::Dot::new(PEER, 1)].into_iter().collect();
    let effects = bench.write(put(), |request| request.token = seen);
    assert!(replies(&effects).is_empty());
    told(&mut bench, Membership::Draining, Membership::Active);
    assert_eq!(fenced(&mut bench, Command::CounterAdd { key: counter(), amount: 1 }), Some(Fence::Draining));
    assert_eq!(fenced(&mut bench, own_row()), None);
    let effects = bench.say(Message::Records(vec![super::bench::record(PEER, 1, 0, &[])]));
    assert_eq!(only(&replies(&effects)), Some(Fence::Draining), "what had waited is refused as well");
    told(&mut bench, Membership::Active, Membership::Active);
    assert_eq!(fenced(&mut bench, put()), None);
}

#[test]
fn a_node_whose_peers_say_that_it_was_removed_writes_no_more() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    bench.handle(Input::Refused(LINK, DisconnectReason::Silent));
    assert_eq!(fenced(&mut bench, put()), None);
    bench.handle(Input::Refused(LINK, DisconnectReason::Removed));
    assert_eq!(fenced(&mut bench, put()), Some(Fence::Removed));
    assert_eq!(fenced(&mut bench, own_row()), Some(Fence::Removed));
    told(&mut bench, Membership::Active, Membership::Active);
    assert_eq!(bench.replica.fence(), Some(Fence::Removed), "its own rows do not know of it");
}

#[test]
fn of_two_processes_with_one_name_the_first_stays_until_it_is_gone() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    let clone = || Message::Hello(Hello { actor: ActorId::new(0xd), ..hello() });
    bench.link_up(LinkId(2), None);
    assert_eq!(ended(&bench.say_on(LinkId(2), clone())), Some(DisconnectReason::Twin));
    bench.handle(Input::LinkDown(LINK));
    bench.link_up(LinkId(3), None);
    assert_eq!(ended(&bench.say_on(LinkId(3), clone())), None);
}

#[test]
fn a_node_with_a_twin_writes_nothing_that_would_reach_nobody() {
    let mut bench = Bench::new(0);
    bench.greet(|_| ());
    bench.handle(Input::Refused(LINK, DisconnectReason::Twin));
    assert_eq!(fenced(&mut bench, put()), Some(Fence::Twin));
    bench.handle(Input::LinkDown(LINK));
    bench.wait(Duration::from_secs(14));
    assert_eq!(fenced(&mut bench, put()), Some(Fence::Twin));
    bench.wait(Duration::from_secs(1));
    assert_eq!(fenced(&mut bench, put()), None, "nobody has said so again");
    bench.greet(|_| ());
    bench.handle(Input::Refused(LINK, DisconnectReason::Twin));
    bench.handle(Input::LinkDown(LINK));
    bench.link_up(LinkId(2), None);
    bench.say_on(LinkId(2), Message::Hello(hello()));
    assert_eq!(fenced(&mut bench, put()), None, "a peer talks to it");
}
