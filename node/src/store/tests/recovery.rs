//! What a crash, a torn write or a damaged disk leaves, and what opening makes of it.

use super::{Fixture, Rows, copy, rows, set, sketch, small};
use crate::store::checkpoint::Checkpoint;
use crate::store::digests::SketchSize;
use crate::store::directory::Directory;
use crate::store::engine::Engine;
use crate::store::{OpenError, StoreConfig};
use crate::store::{frame, segment, sketch_file};
use atoll_crdt::{RowSource, VersionVector};
use atoll_replication::sketch::DigestKey;
use atoll_replication::{Position, Store};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A store in one segment with writes of three members each, every write synced before the next.
fn written(dir: &Path, writes: u64) -> StoreConfig {
    let config = StoreConfig { segment_bytes: 64 << 10, memtable_bytes: 1 << 20, ..small(dir) };
    let mut fixture = Fixture::open(config.clone(), 1).expect("opens");
    for n in 0..writes {
        for m in 0..3 {
            fixture.add(&set("s"), &format!("{n}-{m}"));
        }
        fixture.commit();
    }
    config
}

/// The segment, the offsets at which frames of entries begin, and where the last one ends.
fn frames(config: &StoreConfig) -> (PathBuf, Vec<usize>, usize) {
    let path = segment::path(&config.dir.join("journal"), Position(1));
    let bytes = std::fs::read(&path).expect("read");
    let mut at = Vec::new();
    let scanned = crate::store::scan::scan(&bytes, Position(1), |_, offset, _| {
        at.push(offset);
        Ok::<_, std::convert::Infallible>(())
    });
    let Ok(scanned) = scanned;
    (path, at, scanned.end)
}

fn members(fixture: &Fixture) -> u64 {
    let count = fixture.opened.store.live_rows(&set("s")).expect("readable");
    assert_eq!(rows(&fixture.opened.store).len() as u64, count);
    assert_eq!(rows(&*fixture.opened.views.current()).len() as u64, count);
    count
}

#[test]
fn a_write_torn_at_any_byte_leaves_its_whole_entries_and_the_store_goes_on() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = written(dir.path(), 3);
    let (path, starts, end) = frames(&config);
    let whole = std::fs::read(&path).expect("read");
    let last_write = starts[6] - frame::MARK_BYTES;
    for torn_at in last_write..end {
        let mut torn = whole.clone();
        torn[torn_at..].fill(0);
        std::fs::write(&path, &torn).expect("written");
        let mut fixture = Fixture::open(config.clone(), 2).expect("opens");
        let found = members(&fixture);
        let whole_frames = starts.iter().skip(1).chain([&end]).filter(|end| **end <= torn_at).count() as u64;
        // A frame whose padding alone is cut is whole.
        assert!(found == whole_frames || found == whole_frames + 1, "torn at {torn_at}: {found}");
        assert_eq!(fixture.store().last(), Position(found));
        assert_eq!(fixture.recovered().clocks.context.get(atoll_crdt::ActorId::new(1)), found);
        // What follows is appended where the torn write began, and opens again.
        fixture.add(&set("s"), "after");
        fixture.commit();
        drop(fixture);
        let fixture = Fixture::open(config.clone(), 3).expect("opens after going on");
        assert_eq!(members(&fixture), found + 1);
        drop(fixture);
    }
}

#[test]
fn a_lost_page_of_an_unfinished_write_is_no_damage() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = written(dir.path(), 3);
    let (path, starts, _) = frames(&config);
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[starts[6]..starts[7]].fill(0);
    std::fs::write(&path, &bytes).expect("written");
    let fixture = Fixture::open(config.clone(), 2).expect("opens");
    assert_eq!(members(&fixture), 6);
    assert!(fixture.opened.store.stats().cut_bytes() > 0);
}

#[test]
fn a_flipped_bit_in_what_was_durable_refuses_to_open_and_names_the_place() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = written(dir.path(), 3);
    let (path, starts, _) = frames(&config);
    let whole = std::fs::read(&path).expect("read");
    for (at, entry) in [(starts[1], 2), (starts[4] + 20, 5), (starts[5] + 9, 6)] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x08;
        std::fs::write(&path, &damaged).expect("written");
        let error = Fixture::open(config.clone(), 2).err().expect("refused");
        let OpenError::Damaged { path: named, offset, what } = &error else { panic!("{error}") };
        assert_eq!((named, *offset), (&path, starts[entry - 1] as u64));
        assert!(what.contains(&format!("entry {entry} is missing")), "{what}");
        assert_eq!(std::fs::read(&path).expect("read"), damaged, "nothing was changed");
    }
    std::fs::write(&path, &whole).expect("written");
    assert_eq!(members(&Fixture::open(config, 2).expect("opens")), 9);
}

#[test]
fn damage_below_the_checkpoint_is_found_in_the_last_write_too() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = written(dir.path(), 2);
    let mut fixture = Fixture::open(config.clone(), 2).expect("opens");
    fixture.store().checkpoint();
    drop(fixture);
    let (path, starts, _) = frames(&config);
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[starts[5] + 20] ^= 1;
    std::fs::write(&path, &bytes).expect("written");
    let error = Fixture::open(config, 3).err().expect("refused");
    assert!(error.to_string().contains("entry 6 is missing, and everything up to 6 was durable"), "{error}");
}

#[test]
fn rows_ahead_of_the_journal_refuse_to_open() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = written(dir.path(), 1);
    let mut fixture = Fixture::open(config.clone(), 2).expect("opens");
    fixture.store().checkpoint();
    drop(fixture);
    std::fs::remove_dir_all(config.dir.join("journal")).expect("removed");
    let error = Fixture::open(config, 3).err().expect("refused");
    assert!(error.to_string().contains("entries 1 to 3 are missing"), "{error}");
}

#[test]
fn a_missing_segment_in_the_middle_refuses_to_open() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = StoreConfig { memtable_bytes: 1 << 20, ..small(dir.path()) };
    let mut fixture = Fixture::open(config.clone(), 1).expect("opens");
    for n in 0..200 {
        fixture.add(&set("s"), &n.to_string());
    }
    fixture.commit();
    drop(fixture);
    let journal = config.dir.join("journal");
    let segments = segment::list(&journal).expect("listed");
    assert!(segments.len() > 2, "{segments:?}");
    for missing in [segments[0], segments[1]] {
        let path = segment::path(&journal, missing);
        let aside = path.with_extension("aside");
        std::fs::rename(&path, &aside).expect("moved");
        let error = Fixture::open(config.clone(), 2).err().expect("refused");
        assert!(error.to_string().contains("are missing"), "{error}");
        std::fs::rename(&aside, &path).expect("moved back");
    }
    assert_eq!(members(&Fixture::open(config, 2).expect("opens")), 200);
}

#[test]
fn an_unknown_kind_of_entry_refuses_to_open() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = written(dir.path(), 1);
    let (path, starts, end) = frames(&config);
    let mut bytes = std::fs::read(&path).expect("read");
    // A whole frame of a kind that is kept for later.
    let start = Fixture::open(config.clone(), 2).map(|fixture| fixture.opened.store.last()).expect("opens");
    let mut future = Vec::new();
    frame::append_entry(
        &mut future,
        Position(start.0 + 1),
        &atoll_replication::Entry::Ceiling(atoll_crdt::Hlc::default()),
    );
    future[frame::HEADER_BYTES] = 77;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&future[..4]);
    hasher.update(&future[8..frame::HEADER_BYTES + 2]);
    future[4..8].copy_from_slice(&hasher.finalize().to_le_bytes());
    bytes[end..end + future.len()].copy_from_slice(&future);
    assert_eq!(starts.len(), 3);
    std::fs::write(&path, &bytes).expect("written");
    let error = Fixture::open(config, 2).err().expect("refused");
    assert!(error.to_string().contains("journal entry 77"), "{error}");
    assert!(error.to_string().contains("run the version that wrote it"), "{error}");
}

#[test]
fn rows_moved_away_are_built_again_from_the_journal() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = written(dir.path(), 4);
    let mut fixture = Fixture::open(config.clone(), 2).expect("opens");
    fixture.store().checkpoint();
    let before = rows(&fixture.opened.store);
    drop(fixture);
    std::fs::rename(config.dir.join("rows"), config.dir.join("aside")).expect("moved");
    let fixture = Fixture::open(config, 3).expect("opens");
    assert_eq!(rows(&fixture.opened.store), before);
    assert_eq!(members(&fixture), 12);
}

#[test]
fn a_store_copied_while_it_runs_opens_at_a_prefix_with_every_synced_entry() {
    let (dir, copies) = (tempfile::tempdir().expect("temporary"), tempfile::tempdir().expect("temporary"));
    // Large enough that the engine's own files do not change while they are copied.
    let config = StoreConfig { memtable_bytes: 1 << 30, ..small(dir.path()) };
    let mut fixture = Fixture::open(config.clone(), 1).expect("opens");
    for round in 0..20 {
        for m in 0..10 {
            fixture.add(&set("s"), &format!("{round}-{m}"));
        }
        let synced = fixture.commit();
        fixture.add(&set("s"), &format!("{round}-in-flight"));
        fixture.submit();
        let target = copies.path().join(round.to_string());
        copy(dir.path(), &target);
        let copied = Fixture::open(StoreConfig { dir: target, ..config.clone() }, 2).expect("opens");
        let found = members(&copied);
        assert!(found >= synced.0 && found <= synced.0 + 1, "round {round}: {found} of {}", synced.0);
        fixture.commit();
    }
}

#[test]
fn sealed_segments_below_the_checkpoint_are_taken_in_by_their_stored_index() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = StoreConfig { memtable_bytes: 1 << 20, ..small(dir.path()) };
    let mut fixture = Fixture::open(config.clone(), 1).expect("opens");
    for n in 0..400 {
        fixture.add(&set("s"), &n.to_string());
        if n % 50 == 0 {
            fixture.commit();
        }
    }
    fixture.commit();
    fixture.store().checkpoint();
    let actor = fixture.actor;
    let expected = fixture.store().log(actor, 1, 1 << 20).expect("readable");
    drop(fixture);
    let journal = config.dir.join("journal");
    let segments = segment::list(&journal).expect("listed");
    let sealed = &segments[..segments.len() - 1];
    let stored = sealed.iter().filter(|first| segment::index_path(&journal, **first).exists()).count();
    assert!(stored > 2, "{stored} of {}", sealed.len());
    // Proof that it is the index that is read: a body that is damaged below the checkpoint is found when it is asked for.
    let path = segment::path(&journal, segments[1]);
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[segment::HEADER_BYTES + frame::MARK_BYTES + 24] ^= 1;
    std::fs::write(&path, &bytes).expect("written");
    let mut fixture = Fixture::open(config.clone(), 2).expect("opens by the stored index");
    assert_eq!(fixture.context, VersionVector::from_iter([atoll_crdt::Dot::new(actor, 400)]));
    let error = fixture.store().log(actor, 1, 1 << 20).expect_err("damaged");
    assert!(error.to_string().contains("is damaged at byte"), "{error}");
    drop(fixture);
    // Without it, or with a damaged one, the segment is read, and the damage found at once.
    std::fs::write(segment::index_path(&journal, segments[1]), b"nonsense").expect("written");
    assert!(matches!(Fixture::open(config.clone(), 3).err(), Some(OpenError::Damaged { .. })));
    bytes[segment::HEADER_BYTES + frame::MARK_BYTES + 24] ^= 1;
    std::fs::write(&path, &bytes).expect("written");
    let mut fixture = Fixture::open(config, 4).expect("opens by reading");
    assert_eq!(fixture.store().log(actor, 1, 1 << 20), Ok(expected));
}

/// A store with a hundred rows in a checkpoint, ended in order.
fn ended(dir: &Path) -> (StoreConfig, Rows) {
    let config = StoreConfig { memtable_bytes: 1 << 20, ..small(dir) };
    let mut fixture = Fixture::open(config.clone(), 1).expect("opens");
    for n in 0..100 {
        fixture.add(&set("s"), &n.to_string());
    }
    fixture.commit();
    fixture.store().checkpoint();
    let rows = rows(&fixture.opened.store);
    (config, rows)
}

/// What a store says of its rows, by every way there is.
fn check_digests(fixture: &mut Fixture, key: &DigestKey, expected: &Rows) {
    let sketch = sketch(key, expected);
    assert_eq!(fixture.opened.views.current().root(), sketch.root());
    let pin = fixture.store().pin();
    assert!(*pin.sketch() == sketch);
    let mut ids: Vec<_> = expected.keys().map(|row| key.id(row)).collect();
    ids.sort_unstable();
    let mut found = Rows::new();
    pin.visit_ids(&ids, &mut |row_key, row| {
        found.insert(row_key.clone(), Arc::clone(row));
    })
    .expect("readable");
    assert_eq!(&found, expected);
}

#[test]
fn under_another_secret_every_row_is_indexed_anew_and_a_crash_on_the_way_does_no_harm() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (mut config, expected) = ended(dir.path());
    for secret in ["one", "two", "one", "test"] {
        config.digest_key = DigestKey::derive(secret.as_bytes());
        for boot in 2..4 {
            let mut fixture = Fixture::open(config.clone(), boot).expect("opens");
            check_digests(&mut fixture, &config.digest_key, &expected);
        }
    }
    // As a crash in the midst of it would leave it: entries of several secrets, and the fingerprint of the old one.
    let directory = Arc::new(Directory::open(dir.path()).expect("opens"));
    let (engine, _) = Engine::open(&directory, 1 << 20, &config.digest_key).expect("opens");
    engine.leave_half_indexed(&DigestKey::derive(b"one"), expected.keys().take(40)).expect("written");
    drop((engine, directory));
    config.digest_key = DigestKey::derive(b"one");
    let mut fixture = Fixture::open(config.clone(), 9).expect("opens");
    check_digests(&mut fixture, &config.digest_key, &expected);
}

#[test]
fn the_stored_sketch_is_used_if_it_is_the_rows_own_and_else_the_rows_are_read() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, expected) = ended(dir.path());
    let path = dir.path().join("sketch");
    let whole = std::fs::read(&path).expect("stored");
    for at in [0, 1, 3, 20, 200, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        std::fs::write(&path, &damaged).expect("written");
        let mut fixture = Fixture::open(config.clone(), 2).expect("opens");
        check_digests(&mut fixture, &config.digest_key, &expected);
    }
    std::fs::write(&path, &whole).expect("written");
    let directory = Directory::open(dir.path()).expect("opens");
    let size = SketchSize { rows_min: 0, cells: 0 };
    let (engine, checkpoint) = Engine::open(&Arc::new(directory), 1 << 20, &config.digest_key).expect("opens");
    let key = engine.fingerprint();
    assert!(sketch_file::load(&path, &checkpoint, key, size).is_some());
    let larger = SketchSize { rows_min: 1 << 20, ..size };
    assert!(sketch_file::load(&path, &checkpoint, key, larger).is_none(), "too small for the rows");
    let later = Checkpoint { position: Position(checkpoint.position.0 + 1), ..checkpoint.clone() };
    assert!(sketch_file::load(&path, &later, key, size).is_none(), "of an older state");
    assert!(sketch_file::load(&path, &checkpoint, [0; 16], size).is_none(), "of another secret");
    drop(engine);
    // It is not there after a crash.
    let mut fixture = Fixture::open(config.clone(), 3).expect("opens");
    fixture.add(&set("s"), "later");
    fixture.commit();
    let expected = rows(&fixture.opened.store);
    drop(fixture);
    check_digests(&mut Fixture::open(config.clone(), 4).expect("opens"), &config.digest_key, &expected);
}

#[test]
fn rows_that_the_engine_lost_are_found_at_opening() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, expected) = ended(dir.path());
    std::fs::remove_file(dir.path().join("sketch")).expect("removed");
    let directory = Arc::new(Directory::open(dir.path()).expect("opens"));
    let (engine, _) = Engine::open(&directory, 1 << 20, &config.digest_key).expect("opens");
    engine.lose(expected.keys().nth(7).expect("it is there")).expect("written");
    drop((engine, directory));
    let mut fixture = Fixture::open(config, 2).expect("opens");
    let lost = expected.keys().nth(7).expect("it is there");
    assert_eq!(fixture.store().holes().keys().collect::<Vec<_>>(), [lost]);
    assert_eq!(fixture.opened.store.row(lost), Err(super::ReadError::Damaged(lost.clone())), "it is not absent");
}

#[test]
fn rows_and_index_that_both_lost_something_are_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, expected) = ended(dir.path());
    std::fs::remove_file(dir.path().join("sketch")).expect("removed");
    let directory = Arc::new(Directory::open(dir.path()).expect("opens"));
    let (engine, _) = Engine::open(&directory, 1 << 20, &config.digest_key).expect("opens");
    let lost = expected.keys().nth(7).expect("it is there");
    engine.lose(lost).expect("written");
    engine.lose_entry(lost).expect("written");
    drop((engine, directory));
    let error = Fixture::open(config, 2).err().expect("refused");
    assert!(matches!(error, OpenError::RowsDamaged { .. }), "{error}");
    assert!(error.to_string().contains("neither its rows nor their index"), "{error}");
}
