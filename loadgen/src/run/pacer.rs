//! Tells sessions when a write is due, from a thread of its own.
//!
//! The runtime's timers have a grain of a millisecond, which would be in every latency.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::clock::{Clock, Moment};
use crate::latency::Latency;
use crate::workload::{Arrivals, Pace, Spread, Workload};

/// The thread sleeps at least this long, so that it wakes at most 4,000 times a second: a wake is
/// what costs. A write may be handed over late by this much, which [`Pacer::finish`] reports.
const GRAIN: Duration = Duration::from_micros(250);

/// The thread, and what it shed so far.
pub(super) struct Pacer {
    thread: Option<JoinHandle<Latency>>,
    stop: Arc<AtomicBool>,
    shed: Arc<AtomicU64>,
}

impl Pacer {
    /// Starts handing arrivals to `regions`, one after the other, until the duration is over.
    pub(super) fn start(workload: &Workload, clock: Clock, regions: Vec<mpsc::Sender<Moment>>) -> io::Result<Self> {
        let (per_second, spread) = match workload.pace {
            Pace::Open { per_second, spread } => (per_second, spread),
            // A rate that never comes due within any duration.
            Pace::Closed => (f64::MIN_POSITIVE, Spread::Constant),
        };
        let arrivals = Arrivals::new(workload.seed, per_second, spread, workload.duration);
        let (stop, shed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::Builder::new().name("pacer".to_owned()).spawn({
            let (stop, shed) = (stop.clone(), shed.clone());
            move || hand_over(arrivals, clock, &regions, &stop, &shed)
        })?;
        Ok(Self { thread: Some(thread), stop, shed })
    }

    /// Ends it: how many arrivals were shed, and how late it was with the others.
    pub(super) fn finish(mut self) -> (u64, Latency) {
        let late = self.end();
        (self.shed.load(Ordering::Relaxed), late)
    }

    fn end(&mut self) -> Latency {
        let Some(thread) = self.thread.take() else { return Latency::new() };
        self.stop.store(true, Ordering::Relaxed);
        thread.thread().unpark();
        thread.join().unwrap_or_default()
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.end();
    }
}

fn hand_over(
    arrivals: Arrivals,
    clock: Clock,
    regions: &[mpsc::Sender<Moment>],
    stop: &AtomicBool,
    shed: &AtomicU64,
) -> Latency {
    let mut late = Latency::new();
    for (due, region) in arrivals.zip(regions.iter().cycle()) {
        let at = clock.instant(due);
        while let Some(left) = at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if stop.load(Ordering::Relaxed) {
                return late;
            }
            std::thread::park_timeout(left.max(GRAIN));
        }
        match region.try_send(due) {
            Ok(()) => late.record(clock.now().since(due)),
            Err(mpsc::error::TrySendError::Full(_)) => {
                shed.fetch_add(1, Ordering::Relaxed); // R2
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return late,
        }
    }
    late
}

#[cfg(test)]
mod tests {
    use atoll_client::api::Namespace;

    use super::*;

    fn workload(per_second: f64, duration: Duration) -> Workload {
        Workload::mixed(Namespace::new("load").unwrap(), per_second, duration)
    }

    #[test]
    fn arrivals_come_to_each_region_in_turn_and_never_early() {
        let (a, mut from_a) = mpsc::channel(1_000);
        let (b, mut from_b) = mpsc::channel(1_000);
        let clock = Clock::start();
        let spec = workload(1_000.0, Duration::from_millis(200));
        let pacer = Pacer::start(&spec, clock, vec![a, b]).unwrap();
        let mut counts = [0_u64; 2];
        for (from, count) in [&mut from_a, &mut from_b].into_iter().zip(&mut counts) {
            while let Some(due) = from.blocking_recv() {
                assert!(clock.now() >= due);
                *count += 1;
            }
        }
        let (shed, late) = pacer.finish();
        assert_eq!((shed, late.n()), (0, counts[0] + counts[1]));
        assert!(counts[0].abs_diff(counts[1]) <= 1, "{counts:?}");
        assert!(late.n() > 100);
    }

    #[test]
    fn what_a_full_queue_cannot_take_is_counted() {
        let (sender, mut receiver) = mpsc::channel(10);
        let spec = workload(1_000.0, Duration::from_millis(100));
        let pacer = Pacer::start(&spec, Clock::start(), vec![sender.clone()]).unwrap();
        while !pacer.thread.as_ref().unwrap().is_finished() {
            std::thread::yield_now();
        }
        let (shed, late) = pacer.finish();
        assert_eq!(late.n(), 10);
        assert!(shed > 30, "{shed}");
        drop(sender);
        assert!(receiver.try_recv().is_ok());
    }

    #[test]
    fn dropped_pacer_ends_before_its_time() {
        let (sender, _receiver) = mpsc::channel(10);
        let spec = workload(0.001, Duration::from_secs(80_000));
        drop(Pacer::start(&spec, Clock::start(), vec![sender]).unwrap());
    }
}
