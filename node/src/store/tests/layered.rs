//! Layers: built as a session would build one, and what must come of it.

use super::sketch;
use super::{Fixture, PATIENCE, Rows, copy, rows, set, small};
use crate::store::directory::Directory;
use crate::store::engine::Engine;
use crate::store::salvage::salvage;
use crate::store::{NodeStore, OpenError, StoreConfig};
use atoll_crdt::{ActorId, Dot, Payload, ReadError, Row, RowKey, RowSource, VersionVector};
use atoll_replication::sketch::DigestKey;
use atoll_replication::{Adoption, Aside, Merged, Pinned, Position, RowChange, RowChanges, Sides, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// A layer that is being built, kept plainly beside it.
pub(super) struct Built {
    /// The peer's rows that were put or noted.
    raw: Rows,
    /// Rows at the pin.
    pinned: Rows,
    /// The peer's context.
    pub(super) theirs: VersionVector,
    /// Rows that changed since the pin.
    pub(super) changed: BTreeSet<RowKey>,
}

fn spread(n: u64) -> u64 {
    (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

impl Built {
    /// Begins one over the rows as they are `now`, at a context. The peer has seen that, and more of `elsewhere`: it has a third of the
    /// members of all sets anew, and a third not. Every second one is merged as it is put.
    pub(super) fn begin(
        store: &mut NodeStore,
        seed: u8,
        now: Rows,
        (context, elsewhere): (&VersionVector, ActorId),
    ) -> Self {
        let mut theirs = context.clone();
        let mut raw = Rows::new();
        for n in 0..36_u64 {
            let key = set(&(n / 12).to_string()).member(&(n % 12).to_string()).expect("valid");
            let mut row = Row::empty();
            match spread(u64::from(seed) * 36 + n) % 3 {
                0 => {
                    let dot = Dot::new(elsewhere, theirs.get(elsewhere) + 1);
                    theirs.include(dot);
                    row.put(dot, Payload::Member);
                }
                1 if now.contains_key(&key) => {}
                _ => continue,
            }
            raw.insert(key, Arc::new(row));
        }
        let pin = store.pin();
        let sides = Sides { ours: context.clone(), theirs: theirs.clone() };
        store.begin_aside(pin, seed.is_multiple_of(2).then_some(sides));
        for part in raw.clone().into_iter().collect::<Vec<_>>().chunks(5) {
            // First something else, as a peer may that does not know its own mind.
            let other = part.iter().map(|(key, _)| (key.clone(), Arc::new(Row::empty()))).take(1).collect();
            store.put_aside(other);
            store.put_aside(part.to_vec());
        }
        Self { raw, pinned: now, theirs, changed: BTreeSet::new() }
    }

    /// Moves the pin on.
    pub(super) fn note(&mut self, store: &mut NodeStore, now: Rows) {
        let changed = std::mem::take(&mut self.changed);
        for key in &changed {
            let pinned = self.pinned.get(key).cloned().unwrap_or_default();
            self.raw.entry(key.clone()).or_insert(pinned);
        }
        let pin = store.pin();
        store.note_aside(changed.into_iter().collect(), pin);
        self.pinned = now;
    }

    /// The layer over its pin, and what it must show.
    pub(super) fn over(&self, store: &mut NodeStore) -> (Arc<dyn Pinned>, Rows) {
        let mut expected = self.pinned.clone();
        expected.extend(self.raw.clone());
        expected.retain(|_, row| !row.is_empty());
        (wait(|| store.over_aside()), expected)
    }

    /// The entry that ends it, and all that it makes of the rows that there are `now`, under a context.
    pub(super) fn close(self, store: &mut NodeStore, now: &Rows, context: &VersionVector) -> (Adoption, RowChanges) {
        let merged: Merged = wait(|| store.merged_aside());
        let after = |key: &RowKey| {
            let mine = now.get(key).cloned().unwrap_or_default();
            let theirs = self.raw.get(key).or_else(|| self.pinned.get(key)).cloned().unwrap_or_default();
            Arc::new(mine.merge(context, &theirs, &self.theirs))
        };
        let mut rows = Vec::new();
        for key in &self.changed {
            let raw = store.aside_row(key).expect("readable");
            assert_eq!(raw.as_ref(), self.raw.get(key), "raw rows stay as they were put");
            rows.push((key.clone(), after(key)));
        }
        let all: BTreeMap<&RowKey, ()> = self.raw.keys().chain(&self.changed).map(|key| (key, ())).collect();
        let change = |key: &RowKey| RowChange { key: key.clone(), before: now.get(key).cloned(), after: after(key) };
        let changes = all.into_keys().map(change).collect();
        let layer = Some(merged.layer);
        (Adoption { context: self.theirs.clone(), cursor: VersionVector::new(), rows, layer }, changes)
    }
}

/// Asks until there is an answer.
fn wait<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "nothing comes of it");
        std::thread::yield_now();
    }
}

const PEER: ActorId = ActorId::new(0xee);
/// Several batches of a move.
const LARGE: u64 = 6_000;

/// Where the memtable holds all: checkpoints come when they are asked for.
pub(super) fn roomy(dir: &std::path::Path) -> StoreConfig {
    StoreConfig { memtable_bytes: 8 << 20, segment_bytes: 1 << 20, ..small(dir) }
}

pub(super) fn member(n: u64) -> RowKey {
    set(&(n % 3).to_string()).member(&format!("{n:06}")).expect("valid")
}

/// A store with a thousand members, over which a layer of a peer lies ready that has the first half of them no more and `LARGE` others.
pub(super) fn with_layer(config: &StoreConfig) -> (Fixture, Adoption) {
    let mut fixture = Fixture::open(config.clone(), 1).expect("opens");
    for n in 0..1_000 {
        let key = member(n);
        fixture.write(|draft| atoll_crdt::sets::add(draft, &key));
    }
    fixture.commit();
    let pin = fixture.store().pin();
    fixture.store().begin_aside(pin, None);
    let mut theirs = fixture.context.clone();
    let mut raw: Vec<_> = (0..500).map(|n| (member(n), Arc::new(Row::empty()))).collect();
    for n in 1_000..1_000 + LARGE {
        let dot = Dot::new(PEER, n - 999);
        theirs.include(dot);
        let mut row = Row::empty();
        row.put(dot, Payload::Member);
        raw.push((member(n), Arc::new(row)));
    }
    fixture.store().put_aside(raw);
    let context = fixture.context.clone();
    fixture.store().merge_aside(Sides { ours: context, theirs: theirs.clone() });
    let merged = wait(|| fixture.store().merged_aside());
    assert_eq!(merged.rows, 500 + LARGE);
    let layer = Some(merged.layer);
    (fixture, Adoption { context: theirs, cursor: VersionVector::new(), rows: Vec::new(), layer })
}

/// What must be there once it is adopted.
fn check_adopted(source: &dyn RowSource) {
    let found: Vec<RowKey> = rows(source).into_keys().collect();
    let mut expected: Vec<RowKey> = (500..1_000 + LARGE).map(member).collect();
    expected.sort();
    assert!(found == expected, "{} rows, {} expected", found.len(), expected.len());
    for n in 0..3 {
        let count = (500..1_000 + LARGE).filter(|member| member % 3 == n).count() as u64;
        assert_eq!(source.live_rows(&set(&n.to_string())), Ok(count));
    }
}

/// Until every row is moved.
fn moved(fixture: &mut Fixture) {
    wait(|| {
        fixture.store().publish(Position(0));
        fixture.store().truncate(&VersionVector::new());
        (!fixture.store().is_moving_aside()).then_some(())
    });
}

#[test]
fn readers_see_a_layer_when_its_entry_is_synced_and_a_view_from_before_never() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut fixture, adoption) = with_layer(&roomy(dir.path()));
    let before = fixture.opened.views.current();
    fixture.adopt(adoption);
    check_adopted(&fixture.opened.store);
    assert_eq!(rows(&*fixture.opened.views.current()).len(), 1_000);
    fixture.commit();
    check_adopted(&*fixture.opened.views.current());
    moved(&mut fixture);
    check_adopted(&fixture.opened.store);
    check_adopted(&*fixture.opened.views.current());
    assert_eq!(rows(&*before).len(), 1_000);
    assert_eq!(fixture.opened.views.current().rows(), 500 + LARGE);
}

#[test]
fn a_crash_between_any_two_steps_of_moving_a_layer_leaves_a_directory_that_opens_with_all_of_it() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = roomy(dir.path());
    let (mut fixture, adoption) = with_layer(&config);
    fixture.adopt(adoption);
    let last = fixture.submit().expect("an entry");
    fixture.wait_for(last);
    let mut copies = Vec::new();
    let keep = |copies: &mut Vec<tempfile::TempDir>| {
        let to = tempfile::tempdir().expect("temporary directory");
        copy(dir.path(), to.path());
        copies.push(to);
    };
    // Synced, and not in any checkpoint.
    keep(&mut copies);
    fixture.store().publish(last);
    while fixture.store().is_moving_aside() {
        keep(&mut copies);
        fixture.store().publish(last);
        fixture.store().truncate(&VersionVector::new());
    }
    keep(&mut copies);
    drop(fixture);
    for (n, copy) in copies.iter().enumerate() {
        let mut fixture = Fixture::open(roomy(copy.path()), 2).unwrap_or_else(|error| panic!("copy {n}: {error}"));
        check_adopted(&fixture.opened.store);
        check_adopted(&*fixture.opened.views.current());
        // It goes on where it was; the next opening reads every row and compares their sum with the checkpoint's.
        moved(&mut fixture);
        drop(fixture);
        check_adopted(&Fixture::open(roomy(copy.path()), 3).expect("opens again").opened.store);
    }
}

#[test]
fn a_layer_that_no_entry_names_has_no_effect_and_is_swept_after_a_restart() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = roomy(dir.path());
    drop(with_layer(&config));
    let fixture = Fixture::open(config, 2).expect("opens");
    assert_eq!(rows(&fixture.opened.store).len(), 1_000);
    wait(|| (fixture.opened.store.aside_entries() == 0).then_some(()));
}

#[test]
fn rows_moved_away_cannot_be_built_again_from_an_entry_whose_layer_went_with_them() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = roomy(dir.path());
    let (mut fixture, adoption) = with_layer(&config);
    fixture.adopt(adoption);
    fixture.commit();
    drop(fixture);
    std::fs::rename(dir.path().join("rows"), dir.path().join("moved-away")).expect("moved away");
    let error = Fixture::open(config, 2).err().expect("refused");
    let OpenError::Damaged { what, .. } = &error else { panic!("{error}") };
    assert!(what.contains("built aside"), "{what}");
}

/// What the peer has at `member(n)`.
fn their_row(n: u64) -> Arc<Row> {
    let mut row = Row::empty();
    row.put(Dot::new(PEER, n - 999), Payload::Member);
    Arc::new(row)
}

/// A repair from a peer.
fn repair(fixture: &mut Fixture, key: &RowKey, row: Arc<Row>) {
    let context = fixture.context.clone();
    let rows = vec![(key.clone(), row)];
    fixture.adopt(Adoption { context, cursor: VersionVector::new(), rows, layer: None });
    fixture.commit();
}

/// All rows are as the layer and a repair left them, and the sketch is theirs.
fn check_whole(fixture: &mut Fixture) {
    check_adopted(&fixture.opened.store);
    let found = rows(&fixture.opened.store);
    let expected = sketch(&DigestKey::derive(b"test"), &found);
    assert_eq!(fixture.store().pin().sketch().root(), expected.root());
}

#[test]
fn a_row_of_an_adopted_layer_that_is_damaged_is_a_hole_wherever_it_lies_and_is_repaired() {
    // In memory while it is a hole; moved as one; and found by a replay.
    for stage in 0..3 {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut fixture, adoption) = with_layer(&roomy(dir.path()));
        let key = member(1_700);
        fixture.store().damage_aside(adoption.layer.expect("a layer"), &key);
        fixture.adopt(adoption);
        assert_eq!(fixture.opened.store.row(&key), Err(ReadError::Damaged(key.clone())));
        let mut before = 0;
        let visited = fixture.opened.store.visit(b"", b"", &mut |other, _| {
            before += usize::from(*other < key);
            true
        });
        assert_eq!((visited.is_err(), before), (true, (500..1_000 + LARGE).filter(|n| member(*n) < key).count()));
        if stage < 2 {
            assert_eq!(fixture.store().holes().len(), 1);
        }
        let last = fixture.submit().expect("an entry");
        fixture.wait_for(last);
        if stage < 2 {
            fixture.store().publish(last);
        }
        if stage == 1 {
            moved(&mut fixture);
        }
        if stage == 2 {
            drop(fixture);
            fixture = Fixture::open(roomy(dir.path()), 2).expect("opens");
        }
        assert!(fixture.store().holes().contains_key(&key), "stage {stage}");
        assert_eq!(fixture.opened.views.current().row(&key), Err(ReadError::Damaged(key.clone())));
        repair(&mut fixture, &key, their_row(1_700));
        assert!(fixture.store().holes().is_empty());
        check_whole(&mut fixture);
        moved(&mut fixture);
        drop(fixture);
        check_whole(&mut Fixture::open(roomy(dir.path()), 3).expect("opens: the sums are right"));
    }
}

#[test]
fn under_another_secret_a_damaged_row_of_an_adopted_layer_is_a_hole_and_the_others_are_as_they_were() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut fixture, adoption) = with_layer(&roomy(dir.path()));
    let (key, gone, layer) = (member(1_700), member(3), adoption.layer.expect("a layer"));
    fixture.store().damage_aside(layer, &key);
    // Of this one the layer says that it holds nothing any more.
    fixture.store().damage_aside(layer, &gone);
    fixture.adopt(adoption);
    let last = fixture.submit().expect("an entry");
    fixture.wait_for(last);
    let mut copies = Vec::new();
    let keep = |copies: &mut Vec<tempfile::TempDir>| {
        let to = tempfile::tempdir().expect("temporary directory");
        copy(dir.path(), to.path());
        copies.push(to);
    };
    keep(&mut copies);
    fixture.store().publish(last);
    while fixture.store().is_moving_aside() {
        keep(&mut copies);
        fixture.store().publish(last);
        fixture.store().truncate(&VersionVector::new());
    }
    keep(&mut copies);
    drop(fixture);
    for (n, copy) in copies.iter().enumerate() {
        let config = StoreConfig { digest_key: DigestKey::derive(b"another"), ..roomy(copy.path()) };
        let opened = Fixture::open(config.clone(), 2);
        let mut fixture = opened.unwrap_or_else(|error| panic!("copy {n}: {error}"));
        assert_eq!(fixture.opened.store.row(&key), Err(ReadError::Damaged(key.clone())), "copy {n}");
        assert_eq!(fixture.opened.store.row(&gone), Ok(None), "copy {n}");
        let mut before = Vec::new();
        let visited = fixture.opened.store.visit(gone.as_bytes(), b"", &mut |key, _| {
            before.push(key.clone());
            true
        });
        assert_eq!((visited, before), (Ok(()), Vec::new()), "copy {n}");
        assert!(fixture.store().holes().keys().eq([&key]), "copy {n}");
        repair(&mut fixture, &key, their_row(1_700));
        check_adopted(&fixture.opened.store);
        let found = rows(&fixture.opened.store);
        assert_eq!(fixture.store().pin().sketch().root(), sketch(&config.digest_key, &found).root(), "copy {n}");
        moved(&mut fixture);
        drop(fixture);
        check_adopted(&Fixture::open(config, 3).expect("opens: the sums are right").opened.store);
    }
}

/// A row that changes while a pass is under way is merged by the next one, wherever the first had it.
#[test]
fn what_is_noted_during_a_pass_is_merged_by_the_next() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for at_once in [false, true] {
        let config = roomy(&dir.path().join(at_once.to_string()));
        let mut fixture = Fixture::open(config, 1).expect("opens");
        fixture.commit();
        let pin = fixture.store().pin();
        let mut theirs = fixture.context.clone();
        theirs.include(Dot::new(PEER, LARGE));
        let ours = fixture.context.clone();
        fixture.store().begin_aside(pin, at_once.then(|| Sides { ours: ours.clone(), theirs: theirs.clone() }));
        let all: Vec<_> = (1_000..1_000 + LARGE).map(|n| (member(n), their_row(n))).collect();
        let last = all.iter().map(|(key, _)| key).max().cloned().expect("there are some");
        fixture.store().put_aside(all);
        // A pass over everything, of which the last row is merged last.
        let pin = fixture.store().pin();
        fixture.store().note_aside((1_000..1_000 + LARGE).map(member).collect(), pin);
        fixture.store().merge_aside(Sides { ours, theirs: theirs.clone() });
        fixture.write(|draft| atoll_crdt::sets::add(draft, &last));
        fixture.commit();
        let (pin, context) = (fixture.store().pin(), fixture.context.clone());
        fixture.store().note_aside(vec![last.clone()], pin);
        wait(|| fixture.store().merged_aside());
        fixture.store().merge_aside(Sides { ours: context, theirs: theirs.clone() });
        let layer = Some(wait(|| fixture.store().merged_aside()).layer);
        fixture.adopt(Adoption { context: theirs, cursor: VersionVector::new(), rows: Vec::new(), layer });
        let row = fixture.opened.store.row(&last).expect("readable").expect("it is there");
        assert_eq!(row.dots().count(), 2, "the peer's entry, and the one that was put meanwhile");
    }
}

#[test]
fn a_disk_without_room_ends_a_layer_and_leaves_the_store_as_it_was() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = StoreConfig { reserve_bytes: u64::MAX, ..roomy(dir.path()) };
    let mut fixture = Fixture::open(config.clone(), 1).expect("opens");
    let pin = fixture.store().pin();
    fixture.store().begin_aside(pin, None);
    fixture.store().put_aside((1_000..2_000).map(|n| (member(n), their_row(n))).collect());
    wait(|| fixture.store().aside_use().is_full.then_some(()));
    wait(|| (fixture.store().aside_use().waiting_bytes == 0).then_some(()));
    let (ours, theirs) = (fixture.context.clone(), fixture.context.clone());
    fixture.store().merge_aside(Sides { ours, theirs });
    fixture.store().drop_aside();
    wait(|| (fixture.opened.store.aside_entries() == 0).then_some(()));
    assert!(fixture.store().merged_aside().is_none());
    fixture.write(|draft| atoll_crdt::sets::add(draft, &member(1)));
    fixture.commit();
    fixture.store().checkpoint();
    drop(fixture);
    assert!(rows(&Fixture::open(config, 2).expect("opens").opened.store).keys().eq([&member(1)]));
}

#[test]
fn a_hole_that_is_not_repaired_outlives_the_move_and_the_sum_of_all_rows_can_be_told() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut fixture, adoption) = with_layer(&roomy(dir.path()));
    let key = member(2_345);
    fixture.store().damage_aside(adoption.layer.expect("a layer"), &key);
    fixture.adopt(adoption);
    fixture.commit();
    moved(&mut fixture);
    drop(fixture);
    let mut fixture = Fixture::open(roomy(dir.path()), 2).expect("opens");
    assert!(fixture.store().holes().keys().eq([&key]));
    repair(&mut fixture, &key, their_row(2_345));
    check_whole(&mut fixture);
}

#[test]
fn a_layer_repairs_a_hole_that_it_names() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut fixture, adoption) = with_layer(&roomy(dir.path()));
    let (gone, key) = (member(7), member(700));
    fixture.store().damage(&gone);
    fixture.store().damage(&key);
    // The next checkpoint shows it.
    fixture.write(|draft| atoll_crdt::sets::add(draft, &set("other").member("m").expect("valid")));
    fixture.commit();
    fixture.store().checkpoint();
    for key in [&gone, &key] {
        assert_eq!(fixture.opened.store.row(key), Err(ReadError::Damaged(key.clone())));
    }
    assert_eq!(fixture.store().holes().len(), 2);
    let mut adoption = adoption;
    adoption.context.join(&fixture.context);
    fixture.adopt(adoption);
    assert!(fixture.store().holes().keys().eq([&key]), "it was not in the layer");
    assert_eq!(fixture.opened.store.row(&gone), Ok(None));
    let last = fixture.submit().expect("an entry");
    fixture.wait_for(last);
    drop(fixture);
    let _ = std::fs::remove_file(dir.path().join("sketch"));
    let mut fixture = Fixture::open(roomy(dir.path()), 2).expect("opens: the sums are right");
    let holes = fixture.store().holes();
    assert!(holes.keys().eq([&key]), "{holes:?}");
    assert_eq!(fixture.opened.store.row(&gone), Ok(None));
}

#[test]
fn a_layer_that_needs_a_damaged_row_is_lost_and_the_process_goes_on() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut fixture, _) = with_layer(&roomy(dir.path()));
    fixture.store().drop_aside();
    let key = member(3);
    fixture.store().damage(&key);
    fixture.write(|draft| atoll_crdt::sets::add(draft, &set("other").member("m").expect("valid")));
    fixture.commit();
    fixture.store().checkpoint();
    let pin = fixture.store().pin();
    fixture.store().begin_aside(pin, None);
    assert!(!fixture.store().aside_use().is_lost);
    fixture.store().put_aside(vec![(key.clone(), Arc::new(Row::empty()))]);
    let context = fixture.context.clone();
    fixture.store().merge_aside(Sides { ours: context.clone(), theirs: context });
    wait(|| fixture.store().aside_use().is_lost.then_some(()));
    assert_eq!(fixture.store().merged_aside(), None);
    assert!(fixture.store().holes().keys().eq([&key]));
    // Another one begins anew.
    fixture.store().drop_aside();
    let pin = fixture.store().pin();
    fixture.store().begin_aside(pin, None);
    fixture.store().put_aside(vec![(member(4), Arc::new(Row::empty()))]);
    wait(|| fixture.store().over_aside());
    assert!(!fixture.store().aside_use().is_lost);
}

#[test]
fn files_made_anew_have_the_layer_that_is_adopted_and_the_one_that_an_entry_names() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut fixture, adoption) = with_layer(&roomy(dir.path()));
    let (layer, key) = (adoption.layer.expect("a layer"), member(1_700));
    fixture.adopt(adoption);
    let last = fixture.submit().expect("an entry");
    fixture.wait_for(last);
    let (named, adopted) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    copy(dir.path(), named.path());
    fixture.store().damage_aside(layer, &key);
    fixture.store().publish(last);
    fixture.store().checkpoint();
    copy(dir.path(), adopted.path());
    drop(fixture);
    for (copied, holes) in [(named, 0), (adopted, 1)] {
        let config = roomy(copied.path());
        let directory = Arc::new(Directory::open(&config.dir).expect("opens"));
        let (engine, _) = Engine::open(&directory, 1 << 20, &config.digest_key).expect("opens");
        salvage(engine, &directory, &config.digest_key).expect("made anew");
        drop(directory);
        let _ = std::fs::remove_file(config.dir.join("sketch"));
        let mut fixture = Fixture::open(config, 2).expect("opens: the sums are right");
        assert_eq!(fixture.store().holes().len(), holes);
        if holes == 1 {
            repair(&mut fixture, &key, their_row(1_700));
        }
        check_whole(&mut fixture);
        moved(&mut fixture);
        check_whole(&mut fixture);
    }
}
