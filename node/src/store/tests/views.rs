//! Readers: consistent views while checkpoints run, and waiting for one.

use super::{Fixture, PATIENCE, rows, set, small};
use crate::store::{Behind, StoreConfig};
use atoll_crdt::{ActorId, Dot, RowSource, VersionVector};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

fn token(actor: u64, seq: u64) -> VersionVector {
    [Dot::new(ActorId::new(actor), seq)].into_iter().collect()
}

/// Lets every task that can go on do so.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn views_stay_whole_while_checkpoints_run_under_readers() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut fixture = Fixture::open(small(dir.path()), 1).expect("opens");
    let (views, stop) = (Arc::clone(&fixture.opened.views), Arc::new(AtomicBool::new(false)));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (views, stop, actor) = (Arc::clone(&views), Arc::clone(&stop), fixture.actor);
            std::thread::spawn(move || {
                let mut read = 0;
                while !stop.load(Ordering::Relaxed) {
                    let view = views.current();
                    // Every record adds one member and takes the one fifty before it away.
                    let seq = view.context().get(actor);
                    let found = rows(&*view);
                    assert_eq!(found.len() as u64, seq.min(50), "at {seq}");
                    assert_eq!(view.live_rows(&set("s")), Ok(seq.min(50)), "at {seq}");
                    for n in seq.saturating_sub(60)..=seq {
                        let key = set("s").member(&n.to_string()).expect("valid");
                        let is_there = view.row(&key).expect("readable").is_some();
                        assert_eq!(is_there, n < seq && n + 50 >= seq, "member {n} at {seq}");
                    }
                    read += 1;
                }
                read
            })
        })
        .collect();
    for n in 0..3_000_u64 {
        let add = set("s").member(&n.to_string()).expect("valid");
        let gone = n.checked_sub(50).map(|n| set("s").member(&n.to_string()).expect("valid"));
        fixture.write(|draft| {
            atoll_crdt::sets::add(draft, &add)?;
            gone.iter().try_for_each(|gone| atoll_crdt::sets::remove(draft, gone))
        });
        fixture.commit();
    }
    stop.store(true, Ordering::Relaxed);
    let read: Vec<u64> = readers.into_iter().map(|reader| reader.join().expect("no reader failed")).collect();
    let checkpoints = fixture.opened.store.stats().checkpoints();
    assert!(checkpoints > 5 && read.iter().all(|n| *n > 5), "{checkpoints} checkpoints, {read:?} reads");
}

#[test]
fn a_row_that_is_hot_in_the_cache_is_never_read_stale() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut fixture = Fixture::open(StoreConfig { memtable_bytes: 1, ..small(dir.path()) }, 1).expect("opens");
    let key = set("s").member("hot").expect("valid");
    let mut views = Vec::new();
    for n in 1..=200_u64 {
        if n % 3 == 0 {
            fixture.write(|draft| atoll_crdt::sets::remove(draft, &key));
        } else {
            fixture.add(&set("s"), "hot");
        }
        fixture.commit();
        let dot = (n % 3 != 0).then(|| Dot::new(fixture.actor, n));
        let view = fixture.opened.views.current();
        views.push((Arc::clone(&view), dot));
        for (view, dot) in views.iter().rev().take(4) {
            let row = view.row(&key).expect("readable");
            assert_eq!(row.and_then(|row| row.dots().last()), *dot);
        }
        if n % 20 == 0 {
            views.clear();
            fixture.store().checkpoint();
            // From the engine, then from the cache.
            for _ in 0..2 {
                let row = fixture.opened.views.current().row(&key).expect("readable");
                assert_eq!(row.and_then(|row| row.dots().last()), dot);
            }
        }
    }
    fixture.add(&set("s"), "another");
    fixture.commit();
    assert!(fixture.opened.store.stats().row_cache_bytes() > 0, "the cache was in use");
}

#[tokio::test]
async fn a_covered_token_gets_the_current_view_and_a_missing_one_waits_for_its_dot() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut fixture = Fixture::open(small(dir.path()), 1).expect("opens");
    let views = Arc::clone(&fixture.opened.views);
    let deadline = Instant::now() + PATIENCE;
    assert!(views.covers(&VersionVector::new(), deadline).await.is_ok());

    let wait = |seq: u64| {
        let views = Arc::clone(&views);
        tokio::spawn(async move { views.covers(&token(1, seq), deadline).await.map(|view| view.position()) })
    };
    let (first, third, again) = (wait(1), wait(3), wait(3));
    settle().await;
    assert_eq!(views.waiting(), 3);
    fixture.add(&set("s"), "a");
    let position = fixture.commit();
    assert_eq!(first.await.expect("ran"), Ok(position));
    settle().await;
    assert_eq!(views.waiting(), 2, "exactly the one whose dot was reached");
    fixture.add(&set("s"), "b");
    fixture.commit();
    settle().await;
    assert_eq!(views.waiting(), 2);
    fixture.add(&set("s"), "c");
    let position = fixture.commit();
    assert_eq!((third.await.expect("ran"), again.await.expect("ran")), (Ok(position), Ok(position)));
    assert_eq!(views.waiting(), 0);
}

#[tokio::test]
async fn a_wait_ends_at_its_deadline_or_with_its_request_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut fixture = Fixture::open(small(dir.path()), 1).expect("opens");
    let views = Arc::clone(&fixture.opened.views);
    let missing = Dot::new(ActorId::new(9), 4);
    let soon = Instant::now() + Duration::from_millis(1);
    assert_eq!(views.covers(&token(9, 4), soon).await.err(), Some(Behind::Deadline { missing }));
    assert_eq!(views.waiting(), 0);

    let waiting = {
        let views = Arc::clone(&views);
        tokio::spawn(async move { views.covers(&token(9, 4), Instant::now() + PATIENCE).await.map(|_| ()) })
    };
    settle().await;
    assert_eq!(views.waiting(), 1);
    waiting.abort();
    assert!(waiting.await.is_err());
    assert_eq!(views.waiting(), 0);
    fixture.add(&set("s"), "a");
    fixture.commit();

    let waiting = {
        let views = Arc::clone(&views);
        tokio::spawn(async move { views.covers(&token(9, 4), Instant::now() + PATIENCE).await.map(|_| ()) })
    };
    settle().await;
    drop(fixture);
    assert_eq!(waiting.await.expect("ran"), Err(Behind::Stopped));
}
