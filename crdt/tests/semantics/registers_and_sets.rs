//! Stories of registers and sets.

use crate::replicas::{Replica, meet, two_regions};
use atoll_crdt::{CollectionKey, DataType, Draft, RowKey, SIBLINGS_MAX, registers, sets};

fn greeting() -> RowKey {
    CollectionKey::new("shop", DataType::Register, "greeting").expect("a valid name").row()
}

fn put(text: &str) -> impl FnOnce(&mut Draft<'_>) {
    move |draft| {
        registers::put(draft, &greeting(), "text/plain", text.as_bytes()).expect("readable");
    }
}

fn delete(draft: &mut Draft<'_>) {
    draft.remove(&greeting()).expect("readable");
}

/// The siblings' texts, the winner first.
fn siblings(replica: &Replica) -> Vec<String> {
    let siblings = registers::siblings(&replica.row(&greeting()));
    siblings.iter().map(|sibling| String::from_utf8(sibling.bytes.to_vec()).expect("text")).collect()
}

#[test]
fn two_puts_both_stay_and_the_higher_stamp_is_shown() {
    let (mut a, mut b) = two_regions();
    (a.clock_ms, b.clock_ms) = (2_000, 1_000);
    a.write(put("late"));
    b.write(put("early"));
    meet(&mut a, &mut b);
    assert_eq!(siblings(&a), ["late", "early"]);
    let row = a.row(&greeting());
    assert_eq!(registers::winner(&row).map(|(_, _, bytes)| bytes.to_vec()), Some(b"late".to_vec()));
}

#[test]
fn with_equal_stamps_the_higher_actor_is_shown() {
    let (mut a, mut b) = two_regions();
    a.write(put("of a"));
    b.write(put("of b"));
    meet(&mut a, &mut b);
    assert_eq!(siblings(&a), ["of b", "of a"]);
}

#[test]
fn a_put_survives_a_concurrent_delete() {
    let (mut a, mut b) = two_regions();
    a.write(put("old"));
    meet(&mut a, &mut b);
    a.write(put("new"));
    b.write(delete);
    meet(&mut a, &mut b);
    assert_eq!(siblings(&a), ["new"]);
}

#[test]
fn two_deletes_are_one() {
    let (mut a, mut b) = two_regions();
    a.write(put("old"));
    meet(&mut a, &mut b);
    a.write(delete);
    b.write(delete);
    meet(&mut a, &mut b);
    assert_eq!(a.row(&greeting()).iter().len(), 0);
}

#[test]
fn a_put_that_saw_another_replaces_it_whatever_the_clocks_say() {
    let (mut a, mut b) = two_regions();
    a.clock_ms = 9_000_000;
    a.write(put("from the future"));
    meet(&mut a, &mut b);
    b.clock_ms = 1;
    b.write(put("after it"));
    meet(&mut a, &mut b);
    assert_eq!(siblings(&a), ["after it"]);
}

#[test]
fn a_put_that_saw_siblings_replaces_them_all() {
    let (mut a, mut b) = two_regions();
    a.write(put("one"));
    b.write(put("two"));
    meet(&mut a, &mut b);
    a.write(put("three"));
    meet(&mut a, &mut b);
    assert_eq!(siblings(&b), ["three"]);
}

#[test]
fn a_put_with_an_older_context_replaces_exactly_what_was_shown() {
    let (mut a, mut b) = two_regions();
    a.write(put("shown"));
    let shown = a.shown();
    a.clock_ms += 1;
    a.write(put("not shown"));
    b.merge(&a);
    a.clock_ms += 1;
    a.write_having_seen(&shown, put("of the client"));
    meet(&mut a, &mut b);
    assert_eq!(siblings(&b), ["of the client", "not shown"]);
}

#[test]
fn a_delete_with_an_older_context_removes_exactly_what_was_shown() {
    let (mut a, mut b) = two_regions();
    a.write(put("shown"));
    let shown = a.shown();
    b.write(put("not shown"));
    a.merge(&b);
    a.write_having_seen(&shown, delete);
    meet(&mut a, &mut b);
    assert_eq!(siblings(&b), ["not shown"]);
}

#[test]
fn beyond_the_cap_a_writers_record_removes_the_oldest_siblings_it_sees() {
    let mut a = Replica::new(1);
    let nothing = a.shown();
    for number in 0..SIBLINGS_MAX + 3 {
        a.clock_ms += 1;
        a.write_having_seen(&nothing, put(&number.to_string()));
    }
    let left = siblings(&a);
    assert_eq!(left.len(), SIBLINGS_MAX);
    assert_eq!((left[0].as_str(), left[SIBLINGS_MAX - 1].as_str()), ("66", "3"));
}

fn cart() -> CollectionKey {
    CollectionKey::new("shop", DataType::Set, "cart").expect("a valid name")
}

fn add(member: &'static str) -> impl FnOnce(&mut Draft<'_>) {
    move |draft| sets::add(draft, &cart().member(member).expect("short")).expect("readable")
}

fn remove(member: &'static str) -> impl FnOnce(&mut Draft<'_>) {
    move |draft| sets::remove(draft, &cart().member(member).expect("short")).expect("readable")
}

fn delete_cart(draft: &mut Draft<'_>) {
    sets::delete(draft, &cart()).expect("readable");
}

#[test]
fn an_add_wins_over_a_concurrent_remove() {
    let (mut a, mut b) = two_regions();
    a.write(add("milk"));
    meet(&mut a, &mut b);
    a.write(add("milk"));
    b.write(remove("milk"));
    meet(&mut a, &mut b);
    assert_eq!(b.members(&cart()), ["milk"]);
}

#[test]
fn two_adds_are_one_and_one_remove_that_saw_both_ends_them() {
    let (mut a, mut b) = two_regions();
    a.write(add("milk"));
    b.write(add("milk"));
    meet(&mut a, &mut b);
    assert_eq!(a.members(&cart()), ["milk"]);
    a.write(remove("milk"));
    meet(&mut a, &mut b);
    assert!(b.members(&cart()).is_empty());
}

#[test]
fn two_removes_are_one() {
    let (mut a, mut b) = two_regions();
    a.write(add("milk"));
    meet(&mut a, &mut b);
    a.write(remove("milk"));
    b.write(remove("milk"));
    meet(&mut a, &mut b);
    assert!(a.members(&cart()).is_empty());
}

#[test]
fn a_member_added_while_the_set_is_deleted_stays_alone() {
    let (mut a, mut b) = two_regions();
    a.write(add("milk"));
    a.write(add("bread"));
    meet(&mut a, &mut b);
    a.write(add("salt"));
    b.write(delete_cart);
    meet(&mut a, &mut b);
    assert_eq!(b.members(&cart()), ["salt"]);
}

#[test]
fn a_set_deleted_with_an_older_context_keeps_what_was_not_shown() {
    let (mut a, mut b) = two_regions();
    a.write(add("milk"));
    let shown = a.shown();
    a.write(add("bread"));
    b.write(add("salt"));
    a.merge(&b);
    a.write_having_seen(&shown, delete_cart);
    meet(&mut a, &mut b);
    assert_eq!(b.members(&cart()), ["bread", "salt"]);
}

#[test]
fn a_batch_that_deletes_a_set_and_adds_to_it_leaves_what_it_added() {
    let (mut a, mut b) = two_regions();
    a.write(add("milk"));
    meet(&mut a, &mut b);
    a.write(|draft| {
        add("bread")(draft);
        delete_cart(draft);
        add("salt")(draft);
    });
    b.write(add("milk"));
    meet(&mut a, &mut b);
    assert_eq!(b.members(&cart()), ["milk", "salt"]);
}

#[test]
fn one_name_with_two_types_is_two_things() {
    let (mut a, mut b) = two_regions();
    a.write(|draft| {
        let register = CollectionKey::new("shop", DataType::Register, "cart").expect("a valid name").row();
        registers::put(draft, &register, "text/plain", b"a register").expect("readable");
    });
    b.write(add("milk"));
    meet(&mut a, &mut b);
    a.write(delete_cart);
    meet(&mut a, &mut b);
    assert!(b.members(&cart()).is_empty());
    assert_eq!(b.rows.iter().count(), 1);
}

#[test]
fn a_region_that_was_away_brings_nothing_back() {
    let (mut a, mut b) = two_regions();
    let mut away = Replica::new(0xc);
    a.write(add("milk"));
    a.write(put("hello"));
    away.merge(&a);
    b.merge(&a);
    b.write(remove("milk"));
    b.write(delete);
    b.write(add("bread"));
    meet(&mut b, &mut away);
    assert_eq!(away.members(&cart()), ["bread"]);
    assert!(siblings(&away).is_empty());
    assert_eq!(away.rows.iter().count(), 1, "and no trace of what was deleted");
}
