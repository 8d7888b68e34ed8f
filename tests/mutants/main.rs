//! Every known-wrong variant of the protocol must be caught by the simulator, within a bounded number of seeds.
//!
//! Needs the feature: `cargo test -p atoll-tests --features mutants --test mutants`. `ATOLL_MUTANT` names the only one to be
//! played.

use atoll_replication::mutants::{Mutant, choose};
use atoll_tests::sim::{Options, World};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds within which each mutant must show.
const SEEDS_MAX: u64 = 2_000;

/// A seed that fails, and how; every core plays.
fn first_failure(seeds: u64) -> Option<(u64, String)> {
    let (next, found) = (AtomicU64::new(0), Mutex::new(None));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let play = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            // Without the rarer faults, and with them.
            let plain = World::run(Options::plain(seed));
            if let Err(what) = plain.and_then(|_| World::run(Options::draw(seed))) {
                next.store(seeds, Ordering::Relaxed);
                found.lock().expect("no panic holds it").get_or_insert((seed, what));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(play);
        }
    });
    found.into_inner().expect("no panic holds it")
}

// One test: the choice is the process's.
#[test]
fn every_mutant_is_caught() {
    let only = std::env::var("ATOLL_MUTANT").ok();
    let is_meant = |mutant: &Mutant| only.as_ref().is_none_or(|name| format!("{mutant:?}") == *name);
    for mutant in Mutant::ALL.into_iter().filter(is_meant) {
        choose(mutant);
        let (seed, what) = first_failure(SEEDS_MAX).unwrap_or_else(|| panic!("{mutant:?} survived {SEEDS_MAX} seeds"));
        println!("{mutant:?}: caught by seed {seed}: {}", what.chars().take(160).collect::<String>());
    }
    choose(Mutant::None);
    if let Some((_, what)) = first_failure(20) {
        panic!("the rules themselves: {what}");
    }
}
