//! Disks that refuse writes and syncs, run full, or lose what was not synced.

use super::{Fixture, PATIENCE, copy, rows, set, small};
use crate::store::faults::Faults;
use crate::store::{StoreConfig, StoreFailure};
use atoll_replication::Position;
use proptest::prelude::*;
use rustix::io::Errno;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

/// A store on a disk that can be made to fail, with ten members in a set, and where its failure is told.
fn on_faulty_disk(dir: &Path) -> (Arc<Faults>, StoreConfig, Fixture, Receiver<StoreFailure>) {
    let config = StoreConfig { memtable_bytes: 1 << 20, segment_bytes: 64 << 10, ..small(dir) };
    let faults = Faults::arm(&dir.join("journal"));
    let (tell, told) = sync_channel(1);
    let fixture = Fixture::open_telling(config.clone(), 1, move |failure| {
        let _ = tell.try_send(failure);
    });
    let mut fixture = fixture.expect("opens");
    add(&mut fixture, 0..10);
    fixture.commit();
    (faults, config, fixture, told)
}

fn add(fixture: &mut Fixture, members: std::ops::Range<u64>) {
    for member in members {
        fixture.add(&set("s"), &member.to_string());
    }
}

/// How many members there are, of which none in the middle may be missing. S1
fn members(fixture: &Fixture) -> u64 {
    let rows = rows(&fixture.opened.store);
    let count = rows.len() as u64;
    for member in 0..count {
        let key = set("s").member(&member.to_string()).expect("a valid member");
        assert!(rows.contains_key(&key), "{member} of {count} is missing");
    }
    count
}

/// After a failed write or sync: told once as the journal's, and no position was reported after `reported`.
fn check_told(fixture: &Fixture, told: &Receiver<StoreFailure>, errno: Errno) {
    let failure = told.recv_timeout(PATIENCE).expect("a failure is told");
    let StoreFailure::Journal(error) = &failure else { panic!("{failure}") };
    assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()));
    assert!(fixture.synced.try_recv().is_err(), "nothing is reported durable after a failure");
}

#[test]
fn a_write_that_fails_in_the_middle_is_told_reports_nothing_and_the_next_start_has_all_that_was_reported() {
    for (errno, bytes) in [(Errno::IO, 0), (Errno::IO, 100), (Errno::NOSPC, 0), (Errno::NOSPC, 333)] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (faults, config, mut fixture, told) = on_faulty_disk(dir.path());
        faults.fail_writes_after(bytes, errno.raw_os_error());
        add(&mut fixture, 10..20);
        fixture.submit();
        check_told(&fixture, &told, errno);
        // Whatever is handed in later is not written, and not reported.
        faults.heal();
        add(&mut fixture, 20..30);
        fixture.submit();
        drop(fixture);
        let mut fixture = Fixture::open(config, 2).expect("opens");
        let found = members(&fixture);
        assert!((10..20).contains(&found), "{found} after {bytes} bytes");
        add(&mut fixture, found..found + 5);
        fixture.commit();
        assert_eq!(members(&fixture), found + 5);
    }
}

#[test]
fn a_sync_that_fails_is_told_is_not_tried_again_and_what_it_lost_was_never_reported() {
    let (dir, cut) = (tempfile::tempdir().expect("temporary"), tempfile::tempdir().expect("temporary"));
    let (faults, config, mut fixture, told) = on_faulty_disk(dir.path());
    faults.fail_syncs_after(0, Errno::IO.raw_os_error());
    add(&mut fixture, 10..20);
    fixture.submit();
    check_told(&fixture, &told, Errno::IO);
    // The kernel has dropped the pages that it could not write.
    let (journal, copied) = (dir.path().join("journal"), cut.path().join("journal"));
    let lost = faults.power_cut(&journal, &copied, || copy(dir.path(), cut.path()), || true).expect("cut");
    assert!(lost > 0);
    drop(fixture);
    let fixture = Fixture::open(StoreConfig { dir: cut.path().into(), ..config }, 2).expect("opens");
    assert_eq!(members(&fixture), 10);
}

#[test]
fn a_segment_that_found_no_room_ahead_is_tried_again_when_it_is_needed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = StoreConfig { memtable_bytes: 1 << 20, ..small(dir.path()) };
    let faults = Faults::arm(&dir.path().join("journal"));
    let mut fixture = Fixture::open(config, 1).expect("opens");
    faults.refuse_zeros(1);
    // Some segments' worth; a failure would end this test.
    for member in 0..200 {
        fixture.add(&set("s"), &member.to_string());
        fixture.commit();
    }
    assert_eq!((faults.zeros_refused(), members(&fixture)), (0, 200));
}

#[test]
fn a_disk_without_room_for_the_next_segment_ends_the_process_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = StoreConfig { memtable_bytes: 1 << 20, ..small(dir.path()) };
    let faults = Faults::arm(&dir.path().join("journal"));
    let (tell, told) = sync_channel(1);
    let fixture = Fixture::open_telling(config.clone(), 1, move |failure| {
        let _ = tell.try_send(failure);
    });
    let mut fixture = fixture.expect("opens");
    faults.refuse_zeros(usize::MAX);
    let mut reported = Position(0);
    for member in 0..200 {
        fixture.add(&set("s"), &member.to_string());
        fixture.submit();
    }
    let failure = told.recv_timeout(PATIENCE).expect("a failure is told");
    while let Ok(position) = fixture.synced.try_recv() {
        reported = position;
    }
    assert!(
        matches!(&failure, StoreFailure::Journal(error) if error.raw_os_error() == Some(Errno::NOSPC.raw_os_error()))
    );
    drop(fixture);
    faults.heal();
    let found = members(&Fixture::open(config, 2).expect("opens"));
    assert!((reported.0..200).contains(&found), "{found} of {reported:?}");
}

#[test]
fn rows_of_an_older_checkpoint_are_brought_up_to_date_by_the_journal() {
    let (dir, older) = (tempfile::tempdir().expect("temporary"), tempfile::tempdir().expect("temporary"));
    let config = StoreConfig { memtable_bytes: 1 << 20, ..small(dir.path()) };
    let mut fixture = Fixture::open(config.clone(), 1).expect("opens");
    add(&mut fixture, 0..50);
    fixture.commit();
    fixture.store().checkpoint();
    drop(fixture);
    // All that the engine wrote later is lost: an old copy of its files stands for that.
    copy(&dir.path().join("rows"), older.path());
    let mut fixture = Fixture::open(config.clone(), 2).expect("opens");
    add(&mut fixture, 50..90);
    fixture.commit();
    fixture.store().checkpoint();
    drop(fixture);
    std::fs::remove_dir_all(dir.path().join("rows")).expect("removed");
    copy(older.path(), &dir.path().join("rows"));
    let fixture = Fixture::open(config, 3).expect("opens");
    assert_eq!(members(&fixture), 90);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// S2: whatever sectors of what was not synced a power cut keeps.
    #[test]
    fn a_power_cut_loses_nothing_that_was_reported(
        groups in prop::collection::vec(1..6_u64, 1..40),
        waits in any::<u64>(),
        lost_of_16 in 0..=16_u64,
        seed in any::<u64>(),
    ) {
        let (dir, cut) = (tempfile::tempdir().expect("temporary"), tempfile::tempdir().expect("temporary"));
        let config = StoreConfig { memtable_bytes: 1 << 30, ..small(dir.path()) };
        let journal = dir.path().join("journal");
        let faults = Faults::arm(&journal);
        let mut fixture = Fixture::open(config.clone(), 1).expect("opens");
        let (mut appended, mut reported) = (0, Position(0));
        for (nth, count) in groups.iter().enumerate() {
            add(&mut fixture, appended..appended + count);
            appended += count;
            let last = fixture.submit().expect("there is something");
            if waits >> (nth % 64) & 1 == 1 {
                fixture.wait_for(last);
                reported = last;
            }
        }
        let mut state = seed | 1;
        let is_lost = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % 16 < lost_of_16
        };
        let copied = cut.path().join("journal");
        faults.power_cut(&journal, &copied, || copy(dir.path(), cut.path()), is_lost).expect("cut");
        let fixture = Fixture::open(StoreConfig { dir: cut.path().into(), ..config }, 2).expect("opens");
        let found = members(&fixture);
        prop_assert!((reported.0..=appended).contains(&found), "{found} of {reported:?} and {appended}");
    }
}
