//! A state that is read page by page while writes go on, and a directory that is made of it.

use super::layered::{member, roomy, with_layer};
use super::{Fixture, Rows, rows, set, small};
use crate::roster;
use crate::store::backup::BackupSource;
use crate::store::{BackupRow, OpenError, Origin, Restore, RestoreError, cell, decode_pair};
use atoll_crdt::codec::{Reader, Writer};
use atoll_crdt::{CollectionKey, DataType, Draft, Row, RowSource as _, registers, sets};
use atoll_replication::Clocks;
use atoll_replication::sketch::{Cell, RowDigest, RowId};
use std::path::Path;
use std::sync::Arc;

/// Rows of which some are in the engine, some in memory, and some are gone.
fn filled(dir: &Path) -> Fixture {
    let mut fixture = Fixture::open(small(dir), 1).expect("opened");
    fixture.start();
    for n in 0..60 {
        fixture.add(&set(&(n % 3).to_string()), &format!("member {n}"));
    }
    fixture.commit();
    fixture.store().checkpoint();
    for n in 50..70 {
        fixture.add(&set(&(n % 3).to_string()), &format!("member {n}"));
    }
    fixture.write(|draft| sets::remove(draft, &set("0").member("member 0").expect("valid")));
    for node in ["members/n1", "standing/n1", "actors/0000000000000001"] {
        let key = CollectionKey::new("_system", DataType::Register, node).expect("valid");
        fixture.write(|draft| put(draft, &key));
    }
    fixture.commit();
    fixture
}

fn put(draft: &mut Draft<'_>, key: &CollectionKey) -> Result<(), atoll_crdt::ReadError> {
    registers::put(draft, &key.row(), "text/plain", b"x")
}

/// All pages of rows.
fn every_row(source: &BackupSource) -> Vec<u8> {
    let (mut bytes, mut after) = (Vec::new(), Vec::new());
    loop {
        let page = source.rows_after(&after).expect("readable");
        for row in decoded(&page.bytes) {
            after = row.row.expect("a row").0.as_bytes().to_vec();
        }
        bytes.extend_from_slice(&page.bytes);
        if page.is_last {
            return bytes;
        }
    }
}

fn decoded(bytes: &[u8]) -> Vec<BackupRow<'_>> {
    let (mut input, mut rows) = (Reader::new(bytes), Vec::new());
    while !input.is_empty() {
        rows.push(BackupRow::decode(&mut input).expect("a row"));
    }
    rows
}

/// All pages of ids.
fn every_id(source: &BackupSource) -> Vec<(RowId, RowDigest)> {
    let mut ids: Vec<(RowId, RowDigest)> = Vec::new();
    loop {
        let page = source.ids_after(ids.last().map(|(id, _)| *id)).expect("readable");
        let mut input = Reader::new(&page.bytes);
        while !input.is_empty() {
            ids.push(decode_pair(&mut input).expect("a pair"));
        }
        if page.is_last {
            return ids;
        }
    }
}

fn as_rows(stored: &[BackupRow<'_>]) -> Rows {
    let row = |bytes: &[u8]| Arc::new(Row::decode(&mut Reader::new(bytes)).expect("a row"));
    stored.iter().filter_map(|one| one.row.as_ref()).map(|(key, bytes)| (key.clone(), row(bytes))).collect()
}

fn sum(pairs: impl Iterator<Item = (RowId, RowDigest)>) -> Cell {
    pairs.fold(Cell::EMPTY, |mut sum, (id, digest)| {
        sum += cell(id, digest);
        sum
    })
}

fn origin(fixture: &Fixture, source: &BackupSource) -> Origin {
    let context = source.context().clone();
    let mut state = fixture.recovered().clone();
    state.starts = source.starts().to_vec();
    state.clocks = Clocks { cursor: context.clone(), unlogged: context.clone(), context };
    let (rows, root, fingerprint) = (source.rows(), source.root(), source.fingerprint());
    Origin { state, rows, root, fingerprint, cluster: "shop".into() }
}

#[test]
fn pages_show_each_row_once_as_it_was_and_add_up_whatever_is_written_meanwhile() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut fixture = filled(dir.path());
    let shown = rows(&*fixture.opened.views.current());
    let source = fixture.store().backup();
    // U1
    for n in 0..80 {
        fixture.add(&set("later"), &n.to_string());
    }
    fixture.write(|draft| sets::remove(draft, &set("1").member("member 1").expect("valid")));
    fixture.commit();
    fixture.store().checkpoint();
    let bytes = every_row(&source);
    let stored = decoded(&bytes);
    assert_eq!(as_rows(&stored), shown);
    assert_eq!(stored.len() as u64, source.rows());
    // U3
    assert_eq!(sum(stored.iter().map(|row| (row.id, row.digest))), source.root());
    let ids = every_id(&source);
    assert!(ids.windows(2).all(|pair| pair[0].0 < pair[1].0), "U2");
    assert_eq!(ids.len(), stored.len());
    let mut same: Vec<_> = stored.iter().map(|row| (row.id, row.digest)).collect();
    same.sort_unstable();
    assert_eq!(ids, same);
    let wanted: Vec<RowId> = ids.iter().step_by(3).map(|(id, _)| *id).collect();
    let (page, answered) = source.rows_of(&wanted).expect("readable");
    assert_eq!((answered, page.is_last), (wanted.len(), true));
    let found = decoded(&page.bytes);
    assert_eq!(found.iter().map(|row| row.id).collect::<Vec<_>>(), wanted);
    assert!(found.iter().all(|row| stored.contains(row)));
}

#[test]
fn a_restored_directory_holds_what_was_backed_up_and_its_rows_cannot_be_taken_for_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut fixture = filled(&dir.path().join("old"));
    let (source, shown) = (fixture.store().backup(), rows(&*fixture.opened.views.current()));
    let bytes = every_row(&source);
    let target = dir.path().join("new");
    let mut restore = Restore::begin(&target).expect("empty");
    decoded(&bytes).iter().for_each(|row| restore.put(row).expect("written"));
    let refused = Fixture::open(small(&target), 2).map(drop);
    assert!(matches!(refused, Err(OpenError::HalfRestored { .. })), "{refused:?}");
    restore.finish(&origin(&fixture, &source), "shop").expect("whole");
    assert!(matches!(Restore::begin(&target).map(drop), Err(RestoreError::NotEmpty { .. })));
    let other = crate::store::StoreConfig { cluster: "second".into(), ..small(&target) };
    assert!(matches!(Fixture::open(other, 2).map(drop), Err(OpenError::Cluster { .. })));

    let mut restored = Fixture::open(small(&target), 2).expect("opened");
    let view = restored.opened.views.current();
    assert_eq!((rows(&*view), view.root(), view.rows()), (shown, source.root(), source.rows()));
    assert_eq!(view.live_rows(&set("0")), fixture.opened.views.current().live_rows(&set("0")));
    let clocks = &restored.recovered().clocks;
    assert_eq!((&clocks.context, &clocks.unlogged), (source.context(), source.context()));
    drop(view);
    restored.start();
    restored.add(&set("0"), "after");
    restored.commit();
    drop(restored);
    assert_eq!(Fixture::open(small(&target), 3).expect("opened").opened.views.current().rows(), source.rows() + 1);
    // Y4
    std::fs::remove_dir_all(target.join("rows")).expect("removed");
    let refused = Fixture::open(small(&target), 4).map(drop);
    assert!(matches!(refused, Err(OpenError::Damaged { .. })), "{refused:?}");
}

#[test]
fn what_a_later_backup_has_for_an_id_replaces_what_was_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut fixture = filled(&dir.path().join("old"));
    let before = fixture.store().backup();
    fixture.write(|draft| sets::remove(draft, &set("2").member("member 2").expect("valid")));
    fixture.add(&set("2"), "new");
    fixture.add(&set("2"), "member 5");
    fixture.commit();
    let (after, shown) = (fixture.store().backup(), rows(&*fixture.opened.views.current()));
    let target = dir.path().join("new");
    let mut restore = Restore::begin(&target).expect("empty");
    let bytes = every_row(&before);
    decoded(&bytes).iter().for_each(|row| restore.put(row).expect("written"));
    restore.settle().expect("written");
    let (old, new) = (every_id(&before), every_id(&after));
    let changed: Vec<RowId> = new.iter().filter(|pair| !old.contains(pair)).map(|(id, _)| *id).collect();
    assert_eq!(changed.len(), 2);
    let (page, _) = after.rows_of(&changed).expect("readable");
    decoded(&page.bytes).iter().for_each(|row| restore.replace(row.id, std::slice::from_ref(row)).expect("written"));
    for (gone, _) in old.iter().filter(|(id, _)| !new.iter().any(|(other, _)| other == id)) {
        restore.replace(*gone, &[BackupRow::gone(*gone)]).expect("written");
    }
    restore.finish(&origin(&fixture, &after), "shop").expect("it adds up");
    let restored = Fixture::open(small(&target), 2).expect("opened");
    assert_eq!(rows(&*restored.opened.views.current()), shown);
}

#[test]
fn a_backup_that_does_not_add_up_leaves_the_directory_empty_and_so_does_one_that_is_given_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut fixture = filled(&dir.path().join("old"));
    let source = fixture.store().backup();
    let bytes = every_row(&source);
    let target = dir.path().join("new");
    let is_empty = || std::fs::read_dir(&target).expect("there").next().is_none();
    let mut restore = Restore::begin(&target).expect("empty");
    decoded(&bytes)[1..].iter().for_each(|row| restore.put(row).expect("written"));
    let refused = restore.finish(&origin(&fixture, &source), "shop");
    assert!(matches!(refused, Err(RestoreError::Sum { .. })), "Y3: {refused:?}");
    assert!(is_empty(), "Y2");
    drop(Restore::begin(&target).expect("empty"));
    assert!(is_empty(), "Y2");
}

#[test]
fn a_directory_for_another_cluster_knows_no_member_and_is_indexed_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut fixture = filled(&dir.path().join("old"));
    let (source, mut shown) = (fixture.store().backup(), rows(&*fixture.opened.views.current()));
    let bytes = every_row(&source);
    let target = dir.path().join("new");
    let mut restore = Restore::begin(&target).expect("empty");
    decoded(&bytes).iter().for_each(|row| restore.put(row).expect("written"));
    let count = restore.finish(&origin(&fixture, &source), "second").expect("whole");
    // Y5
    let prefixes = roster::prefixes_of_members();
    shown.retain(|key, _| !prefixes.iter().any(|prefix| key.as_bytes().starts_with(prefix)));
    assert_eq!(count + 2, source.rows());
    let config = crate::store::StoreConfig {
        cluster: "second".into(),
        digest_key: atoll_replication::sketch::DigestKey::derive(b"second"),
        ..small(&target)
    };
    let restored = Fixture::open(config, 2).expect("opened");
    let view = restored.opened.views.current();
    assert_eq!((view.rows(), rows(&*view)), (count, shown));
}

#[test]
fn rows_of_a_layer_that_is_not_moved_are_shown_once_by_key_and_by_id() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut fixture, adoption) = with_layer(&roomy(dir.path()));
    let (peers, own) = (adoption.rows.len(), member(2_000));
    assert_eq!(peers, 0, "all are in the layer");
    fixture.adopt(adoption);
    fixture.commit();
    fixture.write(|draft| sets::remove(draft, &own));
    fixture.commit();
    let source = fixture.store().backup();
    assert!(source.is_on_layer(), "or this shows nothing");
    let bytes = every_row(&source);
    let stored = decoded(&bytes);
    assert_eq!(as_rows(&stored), rows(&*fixture.opened.views.current()));
    let mut pairs: Vec<_> = stored.iter().map(|row| (row.id, row.digest)).collect();
    pairs.sort_unstable();
    assert!(every_id(&source) == pairs);
    assert_eq!((sum(pairs.iter().copied()), pairs.len() as u64), (source.root(), source.rows()));
    let ids: Vec<RowId> = pairs.iter().take(500).map(|(id, _)| *id).collect();
    let (page, _) = source.rows_of(&ids).expect("readable");
    assert_eq!(decoded(&page.bytes).iter().map(|row| (row.id, row.digest)).collect::<Vec<_>>(), pairs[..500]);
}

#[test]
fn a_damaged_row_is_no_page() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut fixture = filled(dir.path());
    fixture.store().checkpoint();
    let key = set("0").member("member 3").expect("valid");
    fixture.store().damage(&key);
    // Snapshots from before do not see it.
    fixture.add(&set("0"), "later");
    fixture.commit();
    fixture.store().checkpoint();
    let source = fixture.store().backup();
    assert!(source.rows_after(&[]).is_err());
    let mut out = Writer::new();
    out.raw(&every_id(&source)[0].0.to_bits().to_be_bytes());
    assert_eq!(sum(every_id(&source).into_iter()), source.root(), "its digest is still known");
}
