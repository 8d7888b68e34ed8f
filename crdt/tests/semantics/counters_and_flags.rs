//! Stories of counters and flags.

use crate::replicas::{Replica, meet, two_regions};
use atoll_crdt::{CollectionKey, DataType, Draft, RowKey, counters, flags};

fn stock() -> RowKey {
    CollectionKey::new("shop", DataType::Counter, "stock").expect("a valid name").row()
}

fn add(amount: i64) -> impl FnOnce(&mut Draft<'_>) {
    move |draft| {
        counters::add(draft, &stock(), amount).expect("in range");
    }
}

fn delete(draft: &mut Draft<'_>) {
    counters::reset(draft, &stock()).expect("readable");
}

fn value(replica: &Replica) -> Option<i128> {
    counters::value(&replica.row(&stock()))
}

#[test]
fn concurrent_increments_all_count() {
    let (mut a, mut b) = two_regions();
    a.write(add(5));
    b.write(add(7));
    b.write(add(-2));
    meet(&mut a, &mut b);
    assert_eq!(value(&a), Some(10));
}

#[test]
fn a_delete_keeps_exactly_the_increments_that_it_had_not_seen() {
    let (mut a, mut b) = two_regions();
    a.write(add(5));
    meet(&mut a, &mut b);
    a.write(add(1));
    a.write(add(2));
    b.write(delete);
    assert_eq!(value(&b), None);
    meet(&mut a, &mut b);
    assert_eq!(value(&b), Some(3));
    a.write(add(4));
    meet(&mut a, &mut b);
    assert_eq!(value(&b), Some(7), "and the run that was cut goes on counting");
}

#[test]
fn two_deletes_of_a_counter_are_one() {
    let (mut a, mut b) = two_regions();
    a.write(add(5));
    meet(&mut a, &mut b);
    a.write(delete);
    b.write(delete);
    meet(&mut a, &mut b);
    assert_eq!(value(&a), None);
    a.write(add(2));
    b.write(add(3));
    meet(&mut a, &mut b);
    assert_eq!(value(&b), Some(5), "and what is added afterwards counts from nothing");
}

#[test]
fn two_deletes_that_saw_different_increments_cut_each_increment_once() {
    let (mut a, mut b) = two_regions();
    let mut c = Replica::new(0xc);
    a.write(add(5));
    b.merge(&a);
    a.write(add(10));
    c.merge(&a);
    a.write(add(100));
    b.write(delete);
    c.write(delete);
    meet(&mut b, &mut c);
    meet(&mut a, &mut b);
    assert_eq!(value(&a), Some(100));
}

#[test]
fn a_deleted_counter_is_not_there_and_zero_is_a_value() {
    let (mut a, mut b) = two_regions();
    a.write(add(5));
    a.write(add(-5));
    meet(&mut a, &mut b);
    assert_eq!(value(&b), Some(0));
    b.write(delete);
    meet(&mut a, &mut b);
    assert_eq!(value(&a), None);
    assert!(a.try_write(None, delete).is_none(), "nothing is there to delete");
}

#[test]
fn a_delete_with_an_older_context_of_the_counter_takes_exactly_what_was_shown() {
    let (mut a, mut b) = two_regions();
    a.write(add(5));
    b.write(add(3));
    a.merge(&b);
    let shown = a.shown_counter(&stock());
    a.write(add(10));
    b.write(add(20));
    a.merge(&b);
    a.write_having_seen(&shown, delete);
    assert_eq!(value(&a), Some(30));
    b.write(add(100));
    meet(&mut a, &mut b);
    assert_eq!(value(&b), Some(130));
}

#[test]
fn a_delete_with_another_things_context_leaves_runs_that_moved_on_whole() {
    let (mut a, mut b) = two_regions();
    a.write(add(5));
    b.write(add(3));
    a.merge(&b);
    let shown_elsewhere = a.shown();
    a.write(add(10));
    a.write_having_seen(&shown_elsewhere, delete);
    meet(&mut a, &mut b);
    assert_eq!(value(&b), Some(15), "the run of b, which stood still, is gone; that of a is whole");
}

#[test]
fn a_batch_that_deletes_a_counter_and_adds_to_it_leaves_what_it_added() {
    let (mut a, mut b) = two_regions();
    a.write(add(5));
    meet(&mut a, &mut b);
    a.write(|draft| {
        delete(draft);
        add(3)(draft);
    });
    b.write(add(7));
    meet(&mut a, &mut b);
    assert_eq!(value(&b), Some(10));
}

#[test]
fn increments_before_a_delete_in_the_same_batch_never_were() {
    let (mut a, mut b) = two_regions();
    a.write(add(5));
    meet(&mut a, &mut b);
    a.write(|draft| {
        add(100)(draft);
        delete(draft);
        add(3)(draft);
        assert_eq!(counters::value(&draft.row(&stock()).expect("readable")), Some(3));
    });
    assert_eq!(value(&a), Some(3));
    a.write(add(1));
    meet(&mut a, &mut b);
    assert_eq!(value(&b), Some(4));
}

#[test]
fn a_batch_with_an_older_context_that_adds_and_deletes_takes_what_was_shown() {
    let (mut a, mut b) = two_regions();
    a.write(add(5));
    let shown = a.shown_counter(&stock());
    a.write(add(10));
    a.write_having_seen(&shown, |draft| {
        add(100)(draft);
        delete(draft);
    });
    meet(&mut a, &mut b);
    assert_eq!(value(&b), Some(10));
}

#[test]
fn a_marker_goes_when_nobody_writes_on_with_what_it_cuts() {
    let (mut a, mut b) = two_regions();
    a.write(add(5));
    meet(&mut a, &mut b);
    a.write(add(1));
    b.write(delete);
    meet(&mut a, &mut b);
    let all_settled = |replica: &Replica| counters::purgeable(&replica.row(&stock()), &mut |_, _| true);
    assert_eq!(all_settled(&b), None, "it cuts the run that a goes on with");
    a.write(delete);
    meet(&mut a, &mut b);
    assert_eq!(counters::purgeable(&b.row(&stock()), &mut |_, _| false), None, "a may have written unseen");
    let purge = all_settled(&b).expect("nothing needs it any more");
    assert!(purge.is_whole());
    let purged = b.write(|draft| counters::purge(draft, &stock(), purge).expect("readable"));
    assert!(b.row(&stock()).is_empty());
    a.write(add(3));
    assert!(a.receive(&purged), "what it builds on is there");
    assert_eq!(value(&a), Some(3), "a run that was born after the delete is whole");
}

#[test]
fn a_marker_is_written_anew_without_those_who_have_seen_it() {
    let (mut a, mut b) = two_regions();
    a.write(add(5));
    b.write(add(7));
    meet(&mut a, &mut b);
    a.write(add(1));
    b.write(delete);
    meet(&mut a, &mut b);
    let own = b.actor;
    let purge = counters::purgeable(&b.row(&stock()), &mut |actor, _| actor == own).expect("half of it may go");
    assert!(!purge.is_whole());
    b.write(|draft| counters::purge(draft, &stock(), purge).expect("readable"));
    assert_eq!(value(&b), Some(1), "what was cut stays cut");
    meet(&mut a, &mut b);
    assert!(counters::floors(&a.row(&stock())).keys().eq([&a.actor]));
}

#[test]
fn an_increment_beyond_the_range_is_refused_and_sums_are_kept_wider() {
    let (mut a, mut b) = two_regions();
    a.write(add(i64::MAX));
    b.write(add(i64::MAX));
    let refused = a.try_write(None, |draft| {
        assert_eq!(counters::add(draft, &stock(), 1), Err(counters::AddError::OutOfRange));
    });
    assert!(refused.is_none());
    meet(&mut a, &mut b);
    assert_eq!(value(&a), Some(2 * i128::from(i64::MAX)));
    assert_eq!(counters::clamped(value(&a).expect("there")), i64::MAX);
    a.write(add(-i64::MAX));
    assert_eq!(value(&a), Some(i128::from(i64::MAX)));
}

fn beta() -> RowKey {
    CollectionKey::new("shop", DataType::Flag, "beta").expect("a valid name").row()
}

fn set(enabled: bool) -> impl FnOnce(&mut Draft<'_>) {
    move |draft| flags::set(draft, &beta(), enabled).expect("readable")
}

fn state(replica: &Replica) -> Option<bool> {
    flags::state(&replica.row(&beta()))
}

#[test]
fn an_enable_wins_over_a_concurrent_disable() {
    let (mut a, mut b) = two_regions();
    (a.clock_ms, b.clock_ms) = (1, 9_000);
    a.write(set(true));
    b.write(set(false));
    meet(&mut a, &mut b);
    assert_eq!(state(&b), Some(true));
}

#[test]
fn a_disable_that_saw_the_enable_disables() {
    let (mut a, mut b) = two_regions();
    a.write(set(true));
    meet(&mut a, &mut b);
    b.write(set(false));
    meet(&mut a, &mut b);
    assert_eq!(state(&a), Some(false));
}

#[test]
fn two_disables_are_one() {
    let (mut a, mut b) = two_regions();
    a.write(set(false));
    b.write(set(false));
    meet(&mut a, &mut b);
    assert_eq!(state(&a), Some(false));
}

#[test]
fn a_flag_set_while_it_is_deleted_stays_as_it_was_set() {
    let (mut a, mut b) = two_regions();
    a.write(set(true));
    meet(&mut a, &mut b);
    a.write(set(false));
    b.write(|draft| draft.remove(&beta()).expect("readable"));
    assert_eq!(state(&b), None);
    meet(&mut a, &mut b);
    assert_eq!(state(&b), Some(false));
}
