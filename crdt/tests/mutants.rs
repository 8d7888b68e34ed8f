//! The suite notices: each known mistake, in the protocol's rules or in this crate's own code, breaks the model.
//!
//! `cargo test -p atoll-crdt --features mutants --test mutants` runs it; a mutant that survives fails the test.
//! `ATOLL_MODEL_SEED` and `ATOLL_MODEL_SEEDS` are as in `rules.rs`, and `-- --nocapture` tells which seed found what.

mod model;
mod rows;

use atoll_crdt::mutants::{self, Mutant};
use model::Reached;
use model::variant::Variant;
use std::sync::Mutex;

/// Seeds that a mutant may survive. The rarest of them need some thousands.
const SEEDS_MAX: u64 = 12_000;

/// The mistakes in the code are switched on in the whole process: whoever runs the model holds this.
static TURN: Mutex<()> = Mutex::new(());

/// Runs seeds until one breaks; says how many that took and what broke, or how many held.
fn seeds_to_break(variant: Option<Variant>) -> Result<String, u64> {
    let first = model::number_from("ATOLL_MODEL_SEED").unwrap_or(0);
    let most = model::number_from("ATOLL_MODEL_SEEDS").unwrap_or(SEEDS_MAX);
    for seed in first..first + most {
        if let Err(failure) = model::run(seed, variant, &mut Reached::new()) {
            return Ok(format!("    caught after {} seeds: {failure}", seed - first + 1));
        }
    }
    Err(most)
}

#[test]
fn every_rule_of_the_protocol_is_missed_when_it_is_left_out() {
    let _turn = TURN.lock();
    let mut survivors = Vec::new();
    for mutant in Variant::MUTANTS {
        println!("{mutant:?}: {}", mutant.meaning());
        match seeds_to_break(Some(mutant)) {
            Ok(caught) => println!("{caught}"),
            Err(seeds) => survivors.push(format!("{mutant:?} ({}) survived {seeds} seeds", mutant.meaning())),
        }
    }
    assert!(survivors.is_empty(), "{}", survivors.join("\n"));
}

#[test]
fn every_known_mistake_in_the_code_is_noticed() {
    let _turn = TURN.lock();
    let mut survivors = Vec::new();
    for mutant in mutants::ALL {
        mutants::switch(Some(mutant));
        println!("{mutant:?}");
        match seeds_to_break(None) {
            Ok(caught) => println!("{caught}"),
            Err(seeds) => survivors.push(format!("{mutant:?} survived {seeds} seeds")),
        }
    }
    mutants::switch(None);
    assert!(survivors.is_empty(), "{}", survivors.join("\n"));
}

#[test]
fn switched_off_the_mistakes_are_gone() {
    let _turn = TURN.lock();
    assert_eq!(mutants::ALL.map(|mutant| mutants::ALL.iter().filter(|other| **other == mutant).count()), [1; 22]);
    mutants::switch(Some(Mutant::ApplyLeavesKillsOut));
    assert!(seeds_to_break(None).is_ok());
    mutants::switch(None);
    for seed in 0..100 {
        model::run(seed, None, &mut Reached::new()).unwrap_or_else(|failure| panic!("{failure}"));
    }
}
