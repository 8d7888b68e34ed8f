//! Every known-wrong variant of the protocol must be caught by the simulator, within a bounded number of seeds.
//!
//! Needs the feature: `cargo test -p atoll-tests --features mutants --test mutants`.

use atoll_replication::mutants::{Mutant, choose};
use atoll_tests::sim::{Options, World};

/// Seeds within which each mutant must show.
const SEEDS_MAX: u64 = 2_000;

// One test: the choice is the process's.
#[test]
fn every_mutant_is_caught() {
    for mutant in Mutant::ALL {
        choose(mutant);
        let caught = (0..SEEDS_MAX).find_map(|seed| World::run(Options::draw(seed)).err().map(|what| (seed, what)));
        let (seed, what) = caught.unwrap_or_else(|| panic!("{mutant:?} survived {SEEDS_MAX} seeds"));
        println!("{mutant:?}: caught by seed {seed}: {}", what.chars().take(160).collect::<String>());
    }
    choose(Mutant::None);
    for seed in 0..20 {
        World::run(Options::draw(seed)).unwrap_or_else(|what| panic!("the rules themselves: {what}"));
    }
}
