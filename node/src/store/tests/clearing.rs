//! Clears of many rows: what is read at once, and what a crash between any two steps leaves.

use super::{Fixture, copy, rows, set, small};
use crate::store::StoreConfig;
use atoll_crdt::RowSource;
use atoll_replication::Store;
use std::path::Path;

const MEMBERS: u64 = 100;

/// A set of a hundred members in the engine, deleted but for its last two; one of another set stays.
fn cleared(dir: &Path) -> (StoreConfig, Fixture) {
    let config = StoreConfig { segment_bytes: 64 << 10, memtable_bytes: 1 << 20, ..small(dir) };
    let mut fixture = Fixture::open(config.clone(), 1).expect("opens");
    fixture.add(&set("t"), "other");
    for n in 0..MEMBERS {
        fixture.add(&set("s"), &format!("{n:03}"));
    }
    fixture.commit();
    fixture.store().checkpoint();
    fixture.clear_later(&set("s"), 2, true);
    (config, fixture)
}

fn is_as_cleared(source: &dyn RowSource) -> bool {
    let keys: Vec<_> = rows(source).into_keys().collect();
    let members = [("s", "098"), ("s", "099"), ("t", "other")];
    let expected = members.map(|(name, member)| set(name).member(member).expect("a valid member"));
    keys == expected && source.live_rows(&set("s")) == Ok(2)
}

#[test]
fn readers_see_all_of_a_clear_when_its_entry_is_synced_and_nothing_of_it_before() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (_, mut fixture) = cleared(dir.path());
    assert!(is_as_cleared(&fixture.opened.store), "the replica");
    let view = fixture.opened.views.current();
    assert_eq!((rows(&*view).len() as u64, view.live_rows(&set("s"))), (MEMBERS + 1, Ok(MEMBERS)));
    assert!(!fixture.store().clear_step(10).expect("readable"), "its entry is not synced");
    fixture.commit();
    let view = fixture.opened.views.current();
    assert!(is_as_cleared(&*view) && view.is_clearing());
    assert_eq!(view.rows(), MEMBERS + 1, "they lie there still");
}

#[test]
fn a_crash_after_any_step_leaves_what_was_read_and_the_steps_go_on() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, mut fixture) = cleared(dir.path());
    fixture.commit();
    let mut steps = 0;
    while fixture.store().clearing() > 0 {
        assert!(fixture.store().clear_step(9).expect("readable"));
        if steps % 3 == 1 {
            fixture.store().checkpoint();
        }
        assert!(is_as_cleared(&fixture.opened.store) && is_as_cleared(&*fixture.opened.views.current()));
        // A crash here, and one more while the next process goes on with it.
        let (crashed, again) = (dir.path().join(format!("{steps}")), dir.path().join(format!("{steps}-again")));
        copy(&dir.path().join("journal"), &crashed.join("journal"));
        copy(&dir.path().join("rows"), &crashed.join("rows"));
        std::fs::copy(dir.path().join("FORMAT"), crashed.join("FORMAT")).expect("copied");
        let mut later = Fixture::open(StoreConfig { dir: crashed.clone(), ..config.clone() }, 2).expect("opens");
        assert!(is_as_cleared(&later.opened.store) && is_as_cleared(&*later.opened.views.current()));
        later.store().clear_step(30).expect("readable");
        later.store().checkpoint();
        drop(later);
        copy(&crashed, &again);
        let mut last = Fixture::open(StoreConfig { dir: again, ..config.clone() }, 3).expect("opens");
        while last.store().clearing() > 0 {
            assert!(last.store().clear_step(30).expect("readable"));
        }
        let view = last.opened.views.current();
        assert!(is_as_cleared(&*view) && !view.is_clearing());
        assert_eq!(view.rows(), 3, "nothing lies there that is not read");
        steps += 1;
    }
    assert!(steps >= 11, "{steps} steps");
}

#[test]
fn a_damaged_row_under_a_clear_stays_unknown_and_is_equal_to_no_older_one() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (_, mut fixture) = cleared(dir.path());
    fixture.commit();
    let key = set("s").member("050").expect("a valid member");
    let before = fixture.store().synced_root();
    fixture.store().damage(&key);
    // The engine is read as of its last checkpoint.
    fixture.add(&set("t"), "another");
    fixture.commit();
    fixture.store().checkpoint();
    while fixture.store().clearing() > 0 {
        fixture.store().clear_step(30).expect("readable");
        fixture.store().holes();
    }
    assert!(fixture.store().holes().contains_key(&key));
    assert_ne!(fixture.store().synced_root(), before);
    // What is left without it, and something that no row has.
    let digests = super::DigestKey::derive(b"test");
    let expected = super::sketch(&digests, &{
        let mut left = super::Rows::new();
        let view = fixture.opened.views.current();
        for name in ["s", "t"] {
            let prefix = set(name);
            let from = if name == "s" { set("s").member("051").expect("a key") } else { prefix.row() };
            view.visit(prefix.as_bytes(), from.as_bytes(), &mut |key, row| {
                left.insert(key.clone(), row.clone());
                true
            })
            .expect("readable");
        }
        assert_eq!(left.len(), 4);
        left
    });
    let mut with_hole = expected;
    let unknown = digests.digest_of_bytes(key.as_bytes(), b"hole");
    with_hole.apply(super::Change::between(digests.id(&key), super::RowDigest::ABSENT, unknown));
    assert_eq!(fixture.store().synced_root(), with_hole.root());
}
