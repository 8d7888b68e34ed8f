//! What goes of the journal and what stays, and that nobody notices but by `log_start`.

use super::{Fixture, copy, rows, set, small};
use crate::store::{Retention, StoreConfig, segment};
use atoll_crdt::{ActorId, Dot, VersionVector};
use atoll_replication::{Adoption, Position, Store};
use std::path::Path;
use std::time::{Duration, SystemTime};

const HOUR: Duration = Duration::from_secs(3_600);
const A: ActorId = ActorId::new(1);

fn held(seq: u64) -> VersionVector {
    [Dot::new(A, seq)].into_iter().collect()
}

/// Segments of some fifteen records.
fn tiny(dir: &Path) -> StoreConfig {
    StoreConfig { segment_bytes: 1 << 10, ..small(dir) }
}

/// Segments whose files are there.
fn files(dir: &Path) -> Vec<u64> {
    segment::list(&dir.join("journal")).expect("listed").into_iter().map(|first| first.0).collect()
}

/// Makes full segments look as if written that long ago.
fn age(dir: &Path, first: u64, by: Duration) {
    let path = segment::path(&dir.join("journal"), Position(first));
    let file = std::fs::File::options().write(true).open(path).expect("opened");
    file.set_modified(SystemTime::now() - by).expect("set");
}

/// A store with 200 records of one actor, each an entry, in many segments, and everything in a checkpoint.
fn written(config: &StoreConfig) -> Fixture {
    let mut fixture = Fixture::open(config.clone(), A.get()).expect("opens");
    for n in 0..200 {
        fixture.add(&set("s"), &n.to_string());
        if n % 10 == 9 {
            fixture.commit();
        }
    }
    fixture.store().checkpoint();
    fixture
}

/// What a log has from its beginning on; nothing lies before that.
fn log(fixture: &mut Fixture) -> Vec<u64> {
    let Some(start) = fixture.store().log_start(A) else { return Vec::new() };
    for gone in 1..start {
        assert_eq!(fixture.store().log(A, gone, 1 << 20), Ok(Vec::new()), "{gone} of a log that begins with {start}");
    }
    fixture.store().log(A, start, 1 << 20).expect("readable").iter().map(|record| record.dot().seq).collect()
}

#[test]
fn what_every_member_holds_goes_and_what_a_lagging_one_lacks_stays() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = tiny(dir.path());
    let mut fixture = written(&config);
    let before = files(dir.path());
    assert!(before.len() > 4, "{before:?}");
    assert!(!fixture.store().truncate(&VersionVector::new()), "nobody holds anything");
    // One short of the second segment's last record.
    assert!(fixture.store().truncate(&held(before[2] - 2)));
    assert_eq!(log(&mut fixture), (before[1]..=200).collect::<Vec<_>>());
    assert!(!fixture.store().truncate(&held(before[2] - 2)), "once");
    assert!(fixture.store().truncate(&held(before[2] - 1)));
    assert_eq!(log(&mut fixture), (before[2]..=200).collect::<Vec<_>>());
    // The segment that is written to stays, whatever everybody holds.
    assert!(fixture.store().truncate(&held(200)));
    let last = *before.last().expect("some");
    assert_eq!(log(&mut fixture), (last..=200).collect::<Vec<_>>());
    let stats = fixture.store().stats();
    assert_eq!((stats.segments_dropped(), stats.segments_dropped_by_cap()), (before.len() as u64 - 1, 0));
    assert_eq!(stats.log_bytes(), config.segment_bytes);
    let everything = rows(&fixture.opened.store);
    drop(fixture);
    assert_eq!(files(dir.path()), [last]);
    let mut fixture = Fixture::open(config, 2).expect("opens with what is left");
    assert_eq!(rows(&fixture.opened.store), everything);
    assert_eq!(log(&mut fixture), (last..=200).collect::<Vec<_>>());
    assert_eq!(fixture.recovered().clocks.context, held(200));
}

#[test]
fn what_the_row_engine_does_not_hold_stays_whatever_the_bounds_say() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let retain = Retention { min: Duration::ZERO, max: Duration::ZERO, max_bytes: 0 };
    let config = StoreConfig { retain, memtable_bytes: 1 << 20, ..tiny(dir.path()) };
    let mut fixture = Fixture::open(config, A.get()).expect("opens");
    for n in 0..200 {
        fixture.add(&set("s"), &n.to_string());
    }
    fixture.commit();
    assert!(!fixture.store().truncate(&held(200)));
    assert_eq!(fixture.store().log_start(A), Some(1));
    fixture.store().checkpoint();
    assert!(fixture.store().truncate(&VersionVector::new()));
    assert!(fixture.store().log_start(A).is_some_and(|start| start > 1));
}

#[test]
fn young_segments_stay_until_they_are_old_enough_and_a_cap_of_age_overrides_a_lagging_member() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let retain = Retention { min: HOUR, max: 72 * HOUR, max_bytes: u64::MAX };
    let mut fixture = written(&StoreConfig { retain, ..tiny(dir.path()) });
    let before = files(dir.path());
    assert!(!fixture.store().truncate(&held(200)), "too young");
    age(dir.path(), before[0], 2 * HOUR);
    // Not before the one in front of it.
    age(dir.path(), before[2], 2 * HOUR);
    assert!(fixture.store().truncate(&held(200)));
    assert_eq!(fixture.store().log_start(A), Some(before[1]));
    age(dir.path(), before[1], 71 * HOUR);
    assert!(!fixture.store().truncate(&VersionVector::new()), "a member lacks it");
    age(dir.path(), before[1], 73 * HOUR);
    assert!(fixture.store().truncate(&VersionVector::new()));
    assert_eq!(fixture.store().log_start(A), Some(before[2]));
    let stats = fixture.store().stats();
    assert_eq!((stats.segments_dropped(), stats.segments_dropped_by_cap()), (2, 1));
}

#[test]
fn a_cap_of_size_overrides_age_and_members_and_leaves_as_much_as_it_allows() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let tiny = tiny(dir.path());
    let retain = Retention { min: HOUR, max: 72 * HOUR, max_bytes: 3 * tiny.segment_bytes };
    let config = StoreConfig { retain, ..tiny };
    let mut fixture = written(&config);
    let before = files(dir.path());
    assert!(fixture.store().truncate(&VersionVector::new()));
    assert_eq!(fixture.store().stats().log_bytes(), 3 * config.segment_bytes);
    assert_eq!(fixture.store().log_start(A), Some(before[before.len() - 3]));
    assert!(!fixture.store().truncate(&held(200)), "within its bound, and young");
    drop(fixture);
    assert_eq!(files(dir.path()), before[before.len() - 3..]);
    let fixture = Fixture::open(config.clone(), 2).expect("opens");
    assert_eq!(fixture.opened.store.stats().log_bytes(), 3 * config.segment_bytes, "counted from the files");
}

#[test]
fn records_below_a_raised_cursor_are_held_for_nobody() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = tiny(dir.path());
    let mut fixture = written(&config);
    let before = files(dir.path());
    let adoption = Adoption { context: held(300), cursor: held(300), rows: Vec::new(), layer: None };
    fixture.adopt(adoption);
    fixture.commit();
    fixture.store().checkpoint();
    assert!(fixture.store().truncate(&VersionVector::new()));
    assert_eq!(fixture.store().log_start(A), before.last().copied());
    drop(fixture);
    let fixture = Fixture::open(config, 2).expect("opens");
    assert_eq!(fixture.recovered().clocks.unlogged, held(300));
}

#[test]
fn a_crash_between_any_two_deletions_leaves_a_directory_that_opens() {
    let (dir, copies) = (tempfile::tempdir().expect("temporary"), tempfile::tempdir().expect("temporary"));
    let config = tiny(dir.path());
    let mut fixture = written(&config);
    let everything = rows(&fixture.opened.store);
    fixture.store().checkpoint();
    drop(fixture);
    let (journal, before) = (dir.path().join("journal"), files(dir.path()));
    let steps = before[..before.len() - 1]
        .iter()
        .flat_map(|first| [segment::index_path(&journal, Position(*first)), segment::path(&journal, Position(*first))]);
    for (n, gone) in steps.enumerate() {
        // An index may not have been stored: nobody waits for it.
        let _ = std::fs::remove_file(&gone);
        let target = copies.path().join(n.to_string());
        copy(dir.path(), &target);
        let mut copied = Fixture::open(StoreConfig { dir: target, ..config.clone() }, 2).expect("opens");
        assert_eq!(rows(&copied.opened.store), everything);
        let start = files(dir.path())[0];
        assert_eq!(log(&mut copied), (start..=200).collect::<Vec<_>>());
    }
    assert_eq!(files(dir.path()).len(), 1);
}

#[test]
fn an_index_stored_after_its_segment_went_is_deleted_at_the_next_opening() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = tiny(dir.path());
    let fixture = written(&config);
    drop(fixture);
    let orphan = segment::index_path(&dir.path().join("journal"), Position(0));
    std::fs::write(&orphan, b"late").expect("written");
    drop(Fixture::open(config, 2).expect("opens"));
    assert!(!orphan.exists());
}
