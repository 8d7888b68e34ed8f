//! Which types are written, in which proportion.

use atoll_client::api::DataType;
use rand::Rng;
use serde::{Deserialize, Serialize};

/// Weights by type: a type with twice the weight is written twice as often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// Puts of values.
    #[serde(default)]
    pub registers: u16,
    /// Additions.
    #[serde(default)]
    pub counters: u16,
    /// Adds, and removes of what was added.
    #[serde(default)]
    pub sets: u16,
    /// Values, counters and member sets by path.
    #[serde(default)]
    pub maps: u16,
    /// Switches.
    #[serde(default)]
    pub flags: u16,
}

impl Default for Mix {
    /// Every type.
    fn default() -> Self {
        Self { registers: 30, counters: 20, sets: 25, maps: 20, flags: 5 }
    }
}

impl Mix {
    /// Registers only.
    #[must_use]
    pub const fn of_registers(weight: u16) -> Self {
        Self { registers: weight, counters: 0, sets: 0, maps: 0, flags: 0 }
    }

    const fn weights(self) -> [(DataType, u16); 5] {
        [
            (DataType::Registers, self.registers),
            (DataType::Counters, self.counters),
            (DataType::Sets, self.sets),
            (DataType::Maps, self.maps),
            (DataType::Flags, self.flags),
        ]
    }

    /// The sum of the weights.
    #[must_use]
    pub fn total(self) -> u32 {
        self.weights().iter().map(|&(_, weight)| u32::from(weight)).sum()
    }

    /// Draws a type. A mix without weights gives registers.
    pub(super) fn draw(self, rng: &mut impl Rng) -> DataType {
        let mut at = rng.random_range(0..self.total().max(1));
        for (data_type, weight) in self.weights() {
            let weight = u32::from(weight);
            if at < weight {
                return data_type;
            }
            at -= weight;
        }
        DataType::Registers
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn types_are_drawn_in_proportion_to_their_weights() {
        let mix = Mix { registers: 1, counters: 0, sets: 3, maps: 0, flags: 0 };
        let mut rng = StdRng::seed_from_u64(7);
        let drawn: Vec<_> = (0..10_000).map(|_| mix.draw(&mut rng)).collect();
        let sets = drawn.iter().filter(|&&drawn| drawn == DataType::Sets).count();
        assert!((7_300..7_700).contains(&sets), "{sets}");
        assert!(drawn.iter().all(|one| matches!(one, DataType::Registers | DataType::Sets)));
    }
}
