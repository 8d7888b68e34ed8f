//! Comparing a node with another while writes go on: what cannot be is named, what is only on its way is not.

use super::bench::{Bench, LINK, ME, PEER, counter, name, put, region, register};
use atoll_crdt::{ActorId, Dot, Payload, Row};
use atoll_replication::{Command, Effect, Input, Verification};
use std::time::Duration;

/// Two nodes and the wire between them.
struct Pair {
    a: Bench,
    b: Bench,
}

impl Pair {
    fn new() -> Self {
        let (mut a, mut b) = (Bench::new(0), Bench::named("peer", "there", PEER));
        let first = a.link_up(LINK, None);
        let up = Input::LinkUp { link: LINK, node: name("me"), region: region("here"), dialled: false, seed: None };
        let second = b.handle(up);
        let mut pair = Self { a, b };
        pair.carry(first, second);
        pair
    }

    /// Carries messages to and fro until nobody has anything to say.
    fn carry(&mut self, from_a: Vec<Effect>, from_b: Vec<Effect>) {
        let (mut to_b, mut to_a) = (from_a, from_b);
        while !to_a.is_empty() || !to_b.is_empty() {
            let answers_b = deliver(&mut self.b, to_b);
            let answers_a = deliver(&mut self.a, to_a);
            (to_a, to_b) = (answers_b, answers_a);
        }
    }

    /// Lets time pass for both.
    fn wait(&mut self) {
        let (a, b) = (self.a.wait(Duration::from_millis(50)), self.b.wait(Duration::from_millis(50)));
        self.carry(a, b);
    }

    fn write(&mut self, command: Command) {
        let effects = self.a.write(command, |_| ());
        self.carry(effects, Vec::new());
        let effects = self.a.sync();
        self.carry(effects, Vec::new());
    }

    fn verify(&mut self, mut meanwhile: impl FnMut(&mut Self)) -> Verification {
        let effects = self.a.handle(Input::Verify);
        self.carry(effects, Vec::new());
        for _ in 0..2_000 {
            meanwhile(self);
            self.wait();
            let report = self.a.replica.verification().expect("one was begun");
            if report.running.is_none() {
                return Verification::clone(report);
            }
        }
        panic!("it does not end: {:?}", self.a.replica.verification());
    }

    /// The only verdict's number of rows, which it names.
    fn differing(&mut self) -> u64 {
        let report = self.verify(|_| ());
        assert!(report.peers[0].compared, "{report:?}");
        assert_eq!(report.peers[0].differing, report.peers[0].named.len() as u64);
        report.peers[0].differing
    }
}

fn deliver(to: &mut Bench, effects: Vec<Effect>) -> Vec<Effect> {
    let mut answers = Vec::new();
    for effect in effects {
        if let Effect::Send(link, message) = effect {
            answers.extend(to.handle(Input::LinkMessage(link, message)));
            answers.extend(to.sync());
        }
    }
    answers
}

fn row(dots: &[(ActorId, u64)], on: bool) -> Row {
    let mut row = Row::empty();
    for (actor, seq) in dots {
        row.put(Dot::new(*actor, *seq), Payload::Flag(on));
    }
    row
}

#[test]
fn equal_nodes_are_found_equal_also_while_one_writes() {
    let mut pair = Pair::new();
    pair.write(put());
    assert_eq!(pair.differing(), 0);
    let report = pair.verify(|pair| pair.write(Command::CounterAdd { key: counter(), amount: 1 }));
    assert_eq!((report.peers[0].compared, report.peers[0].differing), (true, 0));
    assert_eq!(report.count, 2);
}

#[test]
fn rows_that_cannot_both_be_right_are_named_whichever_side_is_wrong() {
    let key = register().row();
    // Both sides have seen the two writes, of which the second replaced the first.
    for (at_a, at_b, sides) in [
        (&[(ME, 1)][..], &[(ME, 2)][..], (1, 1)),
        (&[(ME, 2)], &[], (1, 0)),
        (&[], &[(ME, 2)], (0, 1)),
        (&[(ME, 1), (ME, 2)], &[(ME, 2)], (1, 0)),
    ] {
        let mut pair = Pair::new();
        pair.write(put());
        pair.write(put());
        pair.wait();
        pair.a.store.tamper(&key, row(at_a, true));
        pair.b.store.tamper(&key, row(at_b, true));
        let report = pair.verify(|_| ());
        let named = &report.peers[0].named;
        assert_eq!(named.len(), 1, "{at_a:?} {at_b:?} {report:?}");
        assert_eq!((named[0].here, named[0].there, named[0].contents), (sides.0, sides.1, false));
        assert_eq!(named[0].key, key);
    }
}

#[test]
fn contents_that_differ_under_one_dot_are_named() {
    let mut pair = Pair::new();
    pair.write(put());
    pair.wait();
    pair.a.store.tamper(&register().row(), row(&[(ME, 1)], true));
    pair.b.store.tamper(&register().row(), row(&[(ME, 1)], false));
    let report = pair.verify(|_| ());
    assert!(report.peers[0].named[0].contents, "{report:?}");
}

#[test]
fn a_peer_that_is_gone_is_told_as_not_compared() {
    let mut pair = Pair::new();
    pair.a.handle(Input::LinkDown(LINK));
    let report = pair.verify(|_| ());
    assert_eq!((report.peers[0].compared, report.peers[0].why), (false, "not connected"));
}

#[test]
fn roots_that_differ_name_the_rows_until_they_are_equal_again() {
    let key = register().row();
    let mut pair = Pair::new();
    pair.write(put());
    pair.wait();
    let right = row(&[(ME, 1)], true);
    pair.a.store.tamper(&key, right.clone());
    pair.b.store.tamper(&key, row(&[(ME, 1)], false));
    let mut ticks = 0;
    while pair.a.replica.divergent().is_empty() {
        pair.wait();
        ticks += 1;
        assert!(ticks < 1_000, "{:?}", pair.a.replica.counts());
    }
    let found = pair.a.replica.divergent();
    assert_eq!((found[0].node.as_str(), found[0].differing), ("peer", 1));
    assert_eq!((&found[0].named[0].key, found[0].named[0].contents), (&key, true));
    assert!(pair.a.replica.counts().divergences > 0);
    assert_eq!(pair.a.replica.verification(), None, "no operator has asked");
    assert_eq!(pair.a.replica.counts().contradictions, 0);
    // An operator's verification goes first, and is whole.
    assert_eq!(pair.differing(), 1);
    // What was wrong is put right, by whatever hand.
    pair.b.store.tamper(&key, right);
    while !pair.a.replica.divergent().is_empty() {
        pair.wait();
        ticks += 1;
        assert!(ticks < 2_000);
    }
}
