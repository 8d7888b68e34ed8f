//! The replication protocol as a randomized model over the real types: what every node's rows must be, after every step.
//!
//! **How it goes.** A seed makes a [`World`](world::World): two to four nodes, two clients, and an adversary with a temper
//! of its own. It takes [`STEPS`] steps: writes, pulls, reconciliation sessions, crashes that lose the unsynced end of a
//! journal, restored and replaced disks, truncated logs, reads, reports. After each step every node that changed is
//! checked; at the end the world heals and must settle.
//!
//! **What always holds**, and which file checks it:
//! * T1 `state(row) = f(CC)`: a row holds the dots put into it by records in the node's context, less those killed in it by
//!   records in the context; the context is closed under kills and clears (`checks`).
//! * T2: what a row holds is what was *meant*: a write is there unless something that saw it replaced or removed it, and a
//!   counter shows the sum of the increments that no reset had seen (`checks`, from the ghosts in `history`).
//! * T3: `LV ≤ CC`; a batch is there whole or not at all; one actor never has more than the cap of siblings (`checks`).
//! * T4: a client reads its own writes, never reads backwards, and writes after what it saw (`client`).
//! * T5: what a node reported as durable survives its crash (`node`); a dot names one record (`write`).
//! * T6: a healed world converges, its clocks settle, and every token can be covered (`adversary`).
//!
//! **What is not here.** Bytes, timers, transports and stores: the simulator drives the real protocol core through those.
//! The records here are small structures of their own, because this crate may not name those of the layer above.
//!
//! **Why check after every step.** Most mistakes converge: an end-of-run comparison of digests does not see them.
#![allow(dead_code, reason = "two test binaries share the model, and each uses a part of it")]

pub(crate) mod adversary;
pub(crate) mod checks;
pub(crate) mod client;
pub(crate) mod dice;
pub(crate) mod history;
pub(crate) mod node;
pub(crate) mod places;
pub(crate) mod session;
pub(crate) mod variant;
pub(crate) mod wish;
pub(crate) mod world;
pub(crate) mod write;

use std::collections::BTreeMap;
use std::fmt;
use variant::Variant;
use world::World;

/// Steps that the adversary takes in one run.
pub(crate) const STEPS: usize = 90;

/// Something that must hold does not.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) String);

/// Of everything that can break.
pub(crate) type Outcome<T = ()> = Result<T, Broken>;

/// How often each thing that only some runs come to was come to.
pub(crate) type Reached = BTreeMap<&'static str, u64>;

/// A run that broke: enough to run it again.
#[derive(Debug)]
pub(crate) struct Failure {
    seed: u64,
    step: usize,
    why: String,
    last_steps: String,
}

impl Failure {
    /// What to run again.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, step {}: {} (before it: {})", self.seed, self.step, self.why, self.last_steps)
    }
}

/// Fails with a sentence unless the condition holds.
macro_rules! demand {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err(crate::model::Broken(format!($($words)+)));
        }
    };
}
pub(crate) use demand;

/// One run. The same seed and variant make the same run, on every machine.
pub(crate) fn run(seed: u64, variant: Option<Variant>, reached: &mut Reached) -> Result<(), Box<Failure>> {
    let mut world = World::new(seed, variant);
    for step in 0..STEPS {
        world.step().and_then(|()| world.check()).map_err(|broken| world.failure(seed, step, broken))?;
    }
    world.heal().and_then(|()| world.check()).map_err(|broken| world.failure(seed, STEPS, broken))?;
    for (what, times) in &world.reached {
        *reached.entry(what).or_default() += times;
    }
    Ok(())
}

impl World {
    fn failure(&self, seed: u64, step: usize, Broken(why): Broken) -> Box<Failure> {
        Box::new(Failure { seed, step, why, last_steps: self.last_steps() })
    }
}

/// The number in an environment variable, when it is set.
pub(crate) fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}
