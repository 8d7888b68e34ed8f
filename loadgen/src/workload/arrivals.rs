//! When the writes of an open loop are due.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::Spread;
use crate::clock::Moment;

/// The moments at which writes are due, in order, until the duration is over.
///
/// They depend on nothing that happens: a slow answer does not make the next write later, so the
/// wait it causes is in the figures.
#[derive(Debug)]
pub struct Arrivals {
    rng: StdRng,
    spread: Spread,
    gap_us: f64,
    /// Not rounded, so that the rate is exact in the long run.
    next_us: f64,
    end_us: f64,
}

impl Arrivals {
    /// `per_second` arrivals a second for `duration`, the first one gap after the start.
    #[must_use]
    pub fn new(seed: u64, per_second: f64, spread: Spread, duration: Duration) -> Self {
        let mut arrivals = Self {
            rng: StdRng::seed_from_u64(seed),
            spread,
            gap_us: 1e6 / per_second,
            next_us: 0.0,
            end_us: duration.as_secs_f64() * 1e6,
        };
        arrivals.advance();
        arrivals
    }

    fn advance(&mut self) {
        self.next_us += match self.spread {
            Spread::Constant => self.gap_us,
            // Never infinite: a draw is below 1.
            Spread::Poisson => -(1.0 - self.rng.random::<f64>()).ln() * self.gap_us,
        };
    }
}

impl Iterator for Arrivals {
    type Item = Moment;

    fn next(&mut self) -> Option<Moment> {
        if self.next_us > self.end_us {
            return None;
        }
        let due = Moment::after_start(Duration::from_secs_f64(self.next_us / 1e6));
        self.advance();
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn both_spreads_keep_the_rate_and_the_order() {
        for spread in [Spread::Constant, Spread::Poisson] {
            let moments: Vec<_> = Arrivals::new(3, 1_000.0, spread, MINUTE).collect();
            assert!(moments.is_sorted());
            let n = moments.len();
            assert!((59_000..61_000).contains(&n), "{spread:?}: {n}");
        }
    }

    #[test]
    fn users_come_in_bursts_and_a_constant_rate_does_not() {
        let in_one_ms = |spread| {
            let mut counts = vec![0_u32; 60_001];
            for moment in Arrivals::new(3, 1_000.0, spread, MINUTE) {
                counts[usize::try_from(moment.us() / 1_000).unwrap()] += 1;
            }
            counts.into_iter().max().unwrap()
        };
        assert!(in_one_ms(Spread::Constant) <= 2);
        assert!(in_one_ms(Spread::Poisson) >= 5);
    }

    #[test]
    fn one_seed_gives_one_sequence() {
        let of = |seed| Arrivals::new(seed, 50.0, Spread::Poisson, MINUTE).collect::<Vec<_>>();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }
}
