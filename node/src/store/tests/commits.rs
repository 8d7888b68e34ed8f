//! What is reported durable, when, and what a failing disk does.

use super::{Fixture, PATIENCE, set, small};
use crate::store::directory::Directory;
use crate::store::engine::Engine;
use crate::store::{NodeStore, OpenError, StoreConfig, StoreFailure, SyncMode};
use atoll_crdt::RowSource;
use atoll_replication::{Position, Store};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

#[test]
fn a_second_open_of_one_directory_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let first = Fixture::open(small(dir.path()), 1).expect("opens");
    assert!(matches!(Fixture::open(small(dir.path()), 2).err(), Some(OpenError::InUse { .. })));
    drop(first);
    Fixture::open(small(dir.path()), 2).expect("opens");
}

#[test]
fn readers_see_nothing_before_it_is_published_and_the_replica_sees_it_at_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut fixture = Fixture::open(small(dir.path()), 1).expect("opens");
    fixture.add(&set("s"), "a");
    assert_eq!(fixture.opened.store.live_rows(&set("s")), Ok(1));
    assert_eq!(fixture.opened.store.log(fixture.actor, 1, 1 << 20).map(|log| log.len()), Ok(1));
    let last = fixture.submit().expect("something was appended");
    fixture.wait_for(last);
    assert_eq!(fixture.opened.views.current().live_rows(&set("s")), Ok(0), "synced is not yet published");
    assert!(!fixture.store().publish(last).changed_system);
    assert_eq!(fixture.opened.views.current().live_rows(&set("s")), Ok(1));
}

#[test]
fn a_change_of_the_system_namespace_is_told() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut fixture = Fixture::open(small(dir.path()), 1).expect("opens");
    let members = atoll_crdt::CollectionKey::new("_system", atoll_crdt::DataType::Set, "members").expect("valid");
    fixture.add(&members, "n1");
    let last = fixture.submit().expect("appended");
    fixture.wait_for(last);
    assert!(fixture.store().publish(last).changed_system);
    assert!(!fixture.store().publish(last).changed_system, "once");
}

#[test]
fn positions_count_on_across_restarts() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for boot in 1..=3 {
        let mut fixture = Fixture::open(small(dir.path()), boot).expect("opens");
        assert_eq!(fixture.recovered().starts.len() as u64, boot - 1);
        assert_eq!(fixture.start(), Position(2 * boot - 1));
        assert_eq!(fixture.add(&set("s"), &boot.to_string()), Position(2 * boot));
        fixture.commit();
    }
}

#[test]
fn synced_at_intervals_a_write_is_reported_at_once_and_the_disk_follows() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let every = Duration::from_secs(3_600);
    let config = StoreConfig { sync: SyncMode::Interval(every), ..small(dir.path()) };
    let mut fixture = Fixture::open(config.clone(), 1).expect("opens");
    for n in 0..5 {
        fixture.add(&set("s"), &n.to_string());
        fixture.commit();
    }
    let stats = fixture.opened.commits.stats();
    assert_eq!((stats.writes(), stats.syncs()), (5, 0));
    // The end of the thread syncs what is left.
    drop(fixture);
    assert_eq!(stats.syncs(), 1);

    let config = StoreConfig { sync: SyncMode::Interval(Duration::from_millis(1)), ..config };
    let mut fixture = Fixture::open(config, 2).expect("opens");
    fixture.add(&set("s"), "x");
    fixture.commit();
    // A checkpoint waits for the disk, so after it the interval has passed.
    fixture.store().checkpoint();
    assert!(fixture.opened.commits.stats().syncs() >= 1);
    assert_eq!(fixture.opened.store.stats().checkpoints(), 1);
}

#[test]
fn a_checkpoint_is_never_ahead_of_the_journal_on_disk() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let sync = SyncMode::Interval(Duration::from_secs(3_600));
    let mut fixture = Fixture::open(StoreConfig { sync, memtable_bytes: 1, ..small(dir.path()) }, 1).expect("opens");
    fixture.add(&set("s"), "a");
    // This begins a checkpoint; the journal is not synced for an hour.
    fixture.commit();
    // The flush thread ends before the commit thread, whose end syncs.
    drop(fixture);
    let directory = std::sync::Arc::new(Directory::open(dir.path()).expect("opens"));
    let (_, checkpoint) = Engine::open(&directory, 1 << 20, &small(dir.path()).digest_key).expect("opens");
    assert_eq!(checkpoint.position, Position(0));
}

#[test]
fn groups_that_gather_become_one_write() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut fixture = Fixture::open(StoreConfig { segment_bytes: 1 << 20, ..small(dir.path()) }, 1).expect("opens");
    let stats = fixture.opened.commits.stats();
    for n in 0..2_000 {
        fixture.add(&set("s"), &n.to_string());
        fixture.submit();
    }
    fixture.wait_for(Position(2_000));
    assert_eq!(stats.entries(), 2_000);
    assert!(stats.writes() < 2_000 && stats.writes() == stats.syncs(), "{stats:?}");
    assert!(stats.bytes() > 2_000 * 40, "{stats:?}");
    assert_eq!(stats.buckets().iter().sum::<u64>(), stats.syncs());
}

#[test]
fn after_a_failed_write_nothing_is_reported_and_the_failure_is_told_once() {
    let dir = tempfile::tempdir().expect("temporary directory");
    // The next segment cannot be made where a directory stands in the way of its name.
    let config = StoreConfig { memtable_bytes: 1 << 20, ..small(dir.path()) };
    let (to_synced, synced) = sync_channel(1 << 12);
    let (to_failed, failed) = sync_channel(16);
    let opened = NodeStore::open(
        config.clone(),
        move |position| to_synced.send(position).expect("room"),
        move |failure| to_failed.send(failure).expect("room"),
    );
    let mut opened = opened.expect("opens");
    let large = || atoll_replication::Entry::Ceiling(atoll_crdt::Hlc::at_ms(1));
    let in_the_way = |first: u64| crate::store::segment::path(&config.dir.join("journal"), Position(first));
    // A ceiling's frame takes 24 bytes, and each is a write with its mark: the 85th begins the second segment.
    for _ in 0..84 {
        opened.store.append(large(), Vec::new());
        opened.commits.submit(opened.store.take_group().expect("appended"));
    }
    while synced.recv_timeout(PATIENCE).expect("reported") < Position(84) {}
    std::fs::create_dir(in_the_way(85)).expect("made");
    for _ in 0..3 {
        opened.store.append(large(), Vec::new());
        opened.commits.submit(opened.store.take_group().expect("appended"));
    }
    assert!(matches!(failed.recv_timeout(PATIENCE), Ok(StoreFailure::Journal(_))));
    drop(opened);
    assert_eq!(synced.try_iter().count(), 0);
    assert_eq!(failed.try_iter().count(), 0);
}
