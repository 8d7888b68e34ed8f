//! The protocol's rules hold: the model of `model/`, run over many seeds.
//!
//! `ATOLL_MODEL_SEEDS` says how many seeds to run (default 6,000); `ATOLL_MODEL_SEED` runs one alone.

mod model;
mod rows;

use model::Reached;
use model::variant::Variant;

/// Seeds of a run that nobody asked to be longer.
const SEEDS: u64 = 6_000;

/// What must have happened in a run of [`SEEDS`], or the run proves little.
const MUST_REACH: [(&str, u64); 12] = [
    ("sessions finished", 10_000),
    ("sessions aborted", 2_000),
    ("crashes that lose entries", 2_000),
    ("disks restored or replaced", 2_000),
    ("markers purged", 200),
    ("markers written anew", 200),
    ("session reads", 10_000),
    ("session writes", 3_000),
    ("reads that must wait", 3_000),
    ("writes that must wait", 1_000),
    ("contexts that must wait", 500),
    ("bursts of blind puts", 500),
];

fn seeds(default: u64) -> std::ops::Range<u64> {
    match model::number_from("ATOLL_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..model::number_from("ATOLL_MODEL_SEEDS").unwrap_or(default),
    }
}

fn run_all(seeds: std::ops::Range<u64>, variant: Option<Variant>) -> Reached {
    let mut reached = Reached::new();
    for seed in seeds {
        if let Err(failure) = model::run(seed, variant, &mut reached) {
            panic!(
                "{failure}\nrun it alone: ATOLL_MODEL_SEED={} cargo test -p atoll-crdt --test rules",
                failure.seed()
            );
        }
    }
    reached
}

#[test]
fn state_is_a_function_of_the_context_after_every_step_of_every_seed() {
    let seeds = seeds(SEEDS);
    let count = seeds.end - seeds.start;
    let reached = run_all(seeds, None);
    println!("{count} seeds reached: {reached:?}");
    if count >= SEEDS {
        for (what, least) in MUST_REACH {
            let times = reached.get(what).copied().unwrap_or(0);
            assert!(times >= least, "only {times} of at least {least} {what}: the adversary has become tame");
        }
    }
}

#[test]
fn the_two_liberties_never_hurt() {
    for liberty in Variant::LIBERTIES {
        run_all(seeds(SEEDS / 4), Some(liberty));
    }
}

#[test]
fn the_same_seed_makes_the_same_run() {
    let twice = [(); 2].map(|()| {
        let mut reached = Reached::new();
        let outcomes =
            (0..50).map(|seed| model::run(seed, Some(Variant::NoDeps), &mut reached).map_err(|f| f.to_string()));
        (outcomes.collect::<Vec<_>>(), reached)
    });
    assert_eq!(twice[0], twice[1]);
}
