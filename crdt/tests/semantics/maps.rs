//! Stories of maps.

use crate::replicas::{Replica, meet, two_regions};
use atoll_crdt::maps::{self, MapError, Shown, Value, View};
use atoll_crdt::{CollectionKey, DataType, Draft, LeafKind, MapPath, counters};

fn user() -> CollectionKey {
    CollectionKey::new("shop", DataType::Map, "user").expect("a valid name")
}

fn at(pointer: &str) -> MapPath {
    MapPath::from_pointer(pointer).expect("a valid pointer")
}

fn json(text: &str) -> Value {
    Value::Json(text.as_bytes().into())
}

fn set<'p>(pointer: &'p str, text: &'p str) -> impl FnOnce(&mut Draft<'_>) + 'p {
    move |draft| maps::set(draft, &user(), &at(pointer), &json(text)).expect("a place that can be")
}

fn set_object<'p>(pointer: &'p str, members: &'p [(&'p str, &'p str)]) -> impl FnOnce(&mut Draft<'_>) + 'p {
    move |draft| {
        let members = members.iter().map(|(name, text)| ((*name).to_owned(), json(text))).collect();
        maps::set(draft, &user(), &at(pointer), &Value::Object(members)).expect("a place that can be");
    }
}

fn add(pointer: &str, amount: i64) -> impl FnOnce(&mut Draft<'_>) + '_ {
    move |draft| {
        maps::add(draft, &user(), &at(pointer), amount).expect("in range");
    }
}

fn add_member<'p>(pointer: &'p str, member: &'p str) -> impl FnOnce(&mut Draft<'_>) + 'p {
    move |draft| maps::add_member(draft, &user(), &at(pointer), member).expect("short")
}

fn remove_member<'p>(pointer: &'p str, member: &'p str) -> impl FnOnce(&mut Draft<'_>) + 'p {
    move |draft| maps::remove_member(draft, &user(), &at(pointer), member).expect("short")
}

fn remove(pointer: &str) -> impl FnOnce(&mut Draft<'_>) + '_ {
    move |draft| maps::remove(draft, &user(), &at(pointer)).expect("readable")
}

/// What the whole map shows, as JSON with members in order; `-` when it is not there.
fn shown(replica: &Replica) -> String {
    let mut view = View::default();
    for (key, row) in replica.rows.under(user().as_bytes()) {
        view.row(key, row);
    }
    view.shown(&MapPath::root()).map_or_else(|| "-".to_owned(), |shown| text(&shown))
}

fn text(shown: &Shown) -> String {
    match shown {
        Shown::Object(members) => {
            let members = members.iter().map(|(name, shown)| format!("{name}:{}", text(shown)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Shown::Members(members) => format!("[{}]", members.join(",")),
        Shown::Counter(value) => value.to_string(),
        Shown::Json(json) => String::from_utf8(json.to_vec()).expect("text"),
    }
}

#[test]
fn two_values_at_one_place_are_siblings_and_the_higher_stamp_is_shown() {
    let (mut a, mut b) = two_regions();
    (a.clock_ms, b.clock_ms) = (2_000, 1_000);
    a.write(set("/city", "Paris"));
    b.write(set("/city", "Rome"));
    meet(&mut a, &mut b);
    assert_eq!(shown(&a), "{city:Paris}");
    let row = a.row(&at("/city").leaf(&user(), LeafKind::Value));
    assert_eq!(maps::stamps(&row).len(), 2);
    b.clock_ms = 1;
    b.write(set("/city", "Oslo"));
    meet(&mut a, &mut b);
    assert_eq!(shown(&a), "{city:Oslo}");
}

#[test]
fn values_at_different_places_do_not_touch() {
    let (mut a, mut b) = two_regions();
    a.write(set("/address/city", "Paris"));
    b.write(set("/address/zip", "75001"));
    meet(&mut a, &mut b);
    assert_eq!(shown(&b), "{address:{city:Paris,zip:75001}}");
}

#[test]
fn a_value_over_a_place_and_a_value_under_it_both_stay_and_the_object_is_shown() {
    let (mut a, mut b) = two_regions();
    a.clock_ms = 9_000;
    a.write(set("/a", "1"));
    b.write(set("/a/b", "2"));
    meet(&mut a, &mut b);
    assert_eq!(shown(&a), "{a:{b:2}}");
    a.write(remove("/a/b"));
    meet(&mut a, &mut b);
    assert_eq!(shown(&b), "{a:1}", "the value was only hidden");
}

#[test]
fn a_value_set_over_a_place_removes_what_it_saw_under_it_and_no_more() {
    let (mut a, mut b) = two_regions();
    a.write(set("/a/seen", "1"));
    a.write(add("/a/n", 5));
    meet(&mut a, &mut b);
    b.write(add("/a/n", 2));
    b.write(set("/a/unseen", "2"));
    a.write(set("/a", "whole"));
    assert_eq!(shown(&a), "{a:whole}");
    meet(&mut a, &mut b);
    assert_eq!(shown(&b), "{a:{n:2,unseen:2}}");
}

#[test]
fn a_write_under_a_place_removes_the_value_that_it_saw_there() {
    let (mut a, mut b) = two_regions();
    a.write(set("/a", "1"));
    meet(&mut a, &mut b);
    b.write(set("/a/b", "2"));
    meet(&mut a, &mut b);
    b.write(remove("/a/b"));
    meet(&mut a, &mut b);
    assert_eq!(shown(&a), "-", "the value is gone, not hidden");
}

#[test]
fn a_write_under_a_place_survives_the_concurrent_removal_of_the_place_alone() {
    let (mut a, mut b) = two_regions();
    a.write(set("/a/b", "1"));
    a.write(set("/a/c", "2"));
    meet(&mut a, &mut b);
    a.write(set("/a/b", "3"));
    b.write(remove("/a"));
    meet(&mut a, &mut b);
    assert_eq!(shown(&b), "{a:{b:3}}");
}

#[test]
fn a_deleted_map_keeps_unseen_leaves_and_unseen_increments() {
    let (mut a, mut b) = two_regions();
    a.write(set("/name", "Ann"));
    a.write(add("/visits", 5));
    a.write(add_member("/tags", "old"));
    meet(&mut a, &mut b);
    a.write(add("/visits", 2));
    a.write(add_member("/tags", "new"));
    b.write(remove(""));
    assert_eq!(shown(&b), "-");
    meet(&mut a, &mut b);
    assert_eq!(shown(&b), "{tags:[new],visits:2}");
}

/// A reader finds the counters, and the deletion is of what it saw: but of counters as they stand, since a total of back
/// then is nowhere any more.
#[test]
fn a_map_deleted_as_a_reader_found_it_keeps_later_leaves_and_cuts_its_counters_as_they_stand() {
    let (mut a, mut b) = two_regions();
    a.write(set("/name", "Ann"));
    a.write(add("/visits", 5));
    a.write(add_member("/tags", "old"));
    meet(&mut a, &mut b);
    let found = maps::look(&a.rows, &user(), a.context.clone()).expect("readable");
    a.write(set("/name", "Bob"));
    a.write(add("/visits", 2));
    a.write(add("/later", 3));
    b.write(add("/visits", 1));
    a.write(|draft| maps::remove_found(draft, &user(), &found).expect("readable"));
    assert_eq!(shown(&a), "{later:3,name:Bob}");
    meet(&mut a, &mut b);
    assert_eq!(shown(&b), "{later:3,name:Bob,visits:1}");
    let nothing = maps::look(&a.rows, &user(), a.context.clone()).expect("readable");
    a.write(|draft| maps::remove_found(draft, &user(), &nothing).expect("readable"));
    assert_eq!(shown(&a), "-");
    let nothing = maps::look(&a.rows, &user(), a.context.clone()).expect("readable");
    assert!(a.try_write(None, |draft| maps::remove_found(draft, &user(), &nothing).expect("readable")).is_none());
}

#[test]
fn a_map_deleted_twice_still_cuts_what_only_the_first_delete_saw() {
    let (mut a, mut b) = two_regions();
    a.write(add("/visits", 5));
    b.merge(&a);
    a.write(add("/visits", 2));
    b.write(remove(""));
    b.write(set("/name", "Ann"));
    b.write(remove(""));
    meet(&mut a, &mut b);
    assert_eq!(shown(&a), "{visits:2}", "the second delete took the first one's marker along");
}

#[test]
fn a_map_of_which_only_a_marker_is_left_is_not_there_and_cannot_be_deleted() {
    let (mut a, mut b) = two_regions();
    a.write(add("/visits", 5));
    b.merge(&a);
    b.write(remove(""));
    assert_eq!(b.rows.iter().count(), 1, "the marker");
    assert_eq!(shown(&b), "-");
    assert!(b.try_write(None, remove("")).is_none());
    a.write(add("/visits", 2));
    meet(&mut a, &mut b);
    assert_eq!(shown(&b), "{visits:2}");
}

#[test]
fn a_map_deleted_with_an_older_context_keeps_what_was_not_shown() {
    let (mut a, mut b) = two_regions();
    a.write(set("/name", "Ann"));
    a.write(add("/still", 5));
    a.write(add("/moving", 5));
    let shown_then = a.shown();
    a.write(set("/city", "Paris"));
    a.write(add("/moving", 2));
    a.write_having_seen(&shown_then, remove(""));
    meet(&mut a, &mut b);
    assert_eq!(shown(&b), "{city:Paris,moving:7}");
}

#[test]
fn a_counter_removed_in_one_region_and_increased_in_another_keeps_the_increment() {
    let (mut a, mut b) = two_regions();
    a.write(add("/visits", 5));
    meet(&mut a, &mut b);
    a.write(remove("/visits"));
    b.write(add("/visits", 1));
    meet(&mut a, &mut b);
    assert_eq!(shown(&a), "{visits:1}");
    assert_eq!(counters::value(&a.row(&at("/visits").leaf(&user(), LeafKind::Counter))), Some(1));
}

#[test]
fn a_member_added_in_one_region_and_removed_in_another_stays() {
    let (mut a, mut b) = two_regions();
    a.write(add_member("/tags", "x"));
    meet(&mut a, &mut b);
    a.write(add_member("/tags", "x"));
    b.write(remove_member("/tags", "x"));
    meet(&mut a, &mut b);
    assert_eq!(shown(&b), "{tags:[x]}");
}

#[test]
fn a_counter_a_set_and_a_value_at_one_place_are_three_things() {
    let (mut a, mut b) = two_regions();
    let mut c = Replica::new(0xc);
    a.write(set("/x", "value"));
    b.write(add("/x", 5));
    c.write(add_member("/x", "m"));
    meet(&mut a, &mut b);
    assert_eq!(shown(&a), "{x:5}", "a counter is shown before a value");
    meet(&mut a, &mut c);
    assert_eq!(shown(&a), "{x:[m]}", "a set is shown before a counter");
    b.write(set("/x/deep", "1"));
    meet(&mut a, &mut b);
    assert_eq!(shown(&a), "{x:{deep:1}}", "an object is shown before all");
    a.write(remove("/x"));
    assert_eq!(shown(&a), "-", "a removal takes all");
}

#[test]
fn two_objects_at_one_place_are_merged_member_by_member() {
    let (mut a, mut b) = two_regions();
    a.write(set_object("/address", &[("city", "Paris")]));
    b.write(set_object("/address", &[("zip", "75001")]));
    meet(&mut a, &mut b);
    assert_eq!(shown(&a), "{address:{city:Paris,zip:75001}}");
}

#[test]
fn an_object_replaces_what_it_saw_and_an_empty_one_is_nothing() {
    let (mut a, mut b) = two_regions();
    a.write(set_object("/address", &[("city", "Paris"), ("zip", "75001")]));
    meet(&mut a, &mut b);
    b.write(set_object("/address", &[("city", "Rome")]));
    meet(&mut a, &mut b);
    assert_eq!(shown(&a), "{address:{city:Rome}}");
    b.write(set_object("/address", &[]));
    assert_eq!(shown(&b), "-");
}

#[test]
fn a_batch_that_deletes_a_map_and_writes_to_it_leaves_what_it_wrote() {
    let (mut a, mut b) = two_regions();
    a.write(add("/visits", 5));
    a.write(set("/name", "Ann"));
    meet(&mut a, &mut b);
    a.write(|draft| {
        add("/visits", 50)(draft);
        remove("")(draft);
        add("/visits", 1)(draft);
        set("/city", "Paris")(draft);
    });
    b.write(add("/visits", 2));
    meet(&mut a, &mut b);
    assert_eq!(shown(&b), "{city:Paris,visits:3}");
}

#[test]
fn the_whole_map_is_an_object_and_nothing_else() {
    let mut a = Replica::new(1);
    let refused = a.try_write(None, |draft| {
        assert_eq!(maps::set(draft, &user(), &MapPath::root(), &json("1")), Err(MapError::Root));
        assert_eq!(maps::add(draft, &user(), &MapPath::root(), 1), Err(MapError::Root));
        assert_eq!(maps::add_member(draft, &user(), &MapPath::root(), "m"), Err(MapError::Root));
    });
    assert!(refused.is_none());
    a.write(set_object("", &[("name", "Ann")]));
    assert_eq!(shown(&a), "{name:Ann}");
}
