//! Many seeds, on as many threads as there are cores, summed up.

use super::{Options, Report, World, coverage};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Plays `seeds` seeds from `from` on.
///
/// # Errors
/// Of the first seed found to fail: what did not hold, when, and how to see it again.
///
/// # Panics
/// A thread panicked.
pub fn soak(from: u64, seeds: u64, threads: usize) -> Result<Report, String> {
    let (next, total) = (AtomicU64::new(0), Mutex::new(Ok(Report::default())));
    let play = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds || total.lock().expect("no panic holds it").is_err() {
                return;
            }
            let outcome = World::run(Options::draw(from.wrapping_add(seed)));
            let mut total = total.lock().expect("no panic holds it");
            match (outcome, &mut *total) {
                (Ok(report), Ok(sum)) => sum.add(&report),
                (Err(what), total) => *total = Err(what),
                (Ok(_), Err(_)) => {}
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(play);
        }
    });
    total.into_inner().expect("no panic holds it")
}

/// What so many seeds should have reached and did not.
#[must_use]
pub fn never_reached(seeds: u64, report: &Report) -> Vec<&'static str> {
    if seeds < coverage::SEEDS_MIN { Vec::new() } else { coverage::missing(report).collect() }
}

/// One line of sums.
#[must_use]
pub fn sums(seeds: u64, report: &Report) -> String {
    format!(
        "{seeds} seeds, {} events, {} records, {} faults, {} simulated seconds",
        report.events,
        report.records,
        report.faults,
        report.simulated_us / 1_000_000
    )
}
