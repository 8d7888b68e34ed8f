//! Integers modulo the prime 2^61 − 1, in which the sums of a sketch are taken.
//!
//! **What always holds.** M1: a [`Residue`] is below [`MODULUS`], so equal residues have equal bits. M2: nothing here
//! depends on the machine: integers alone, no branch on a float.
//!
//! **Why this way.** Sums that wrap at 2^64 cannot be divided, and dividing is how a cell names its row; exclusive or
//! can do neither that nor weigh a row by its id. Of the primes below 2^64 this one reduces with a shift and an addition.

use core::ops::{Add, AddAssign, Mul, Neg, Sub, SubAssign};

/// The modulus, the Mersenne prime 2^61 − 1.
pub const MODULUS: u64 = (1 << 61) - 1;

/// An integer modulo [`MODULUS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Residue(u64);

impl Residue {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);
    /// The product of nothing.
    pub const ONE: Self = Self(1);

    /// `value` if it is canonical; bytes from outside become residues only here. M1
    #[must_use]
    pub const fn new(value: u64) -> Option<Self> {
        if value < MODULUS { Some(Self(value)) } else { None }
    }

    /// Any number, reduced. Of 61 random bits this is uniform but for one value in 2^61.
    #[must_use]
    pub const fn reduced(value: u64) -> Self {
        let folded = (value & MODULUS) + (value >> 61);
        Self(if folded >= MODULUS { folded - MODULUS } else { folded })
    }

    /// The number below [`MODULUS`].
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether it is zero.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The number that gives one when multiplied by this; `None` for zero. Cost: 61 squarings, 11 products.
    #[must_use]
    pub fn inverse(self) -> Option<Self> {
        if self.is_zero() {
            return None;
        }
        // Fermat: the power p − 2 = 4 · (2^59 − 1) + 1. `ones(a, b)` has as many one bits in its exponent as both have.
        let ones = |high: Self, low: Self, low_bits: u32| high.squared(low_bits) * low;
        let two = ones(self, self, 1);
        let three = ones(two, self, 1);
        let six = ones(three, three, 3);
        let seven = ones(six, self, 1);
        let fourteen = ones(seven, seven, 7);
        let twenty_eight = ones(fourteen, fourteen, 14);
        let twenty_nine = ones(twenty_eight, self, 1);
        let fifty_eight = ones(twenty_nine, twenty_nine, 29);
        let fifty_nine = ones(fifty_eight, self, 1);
        Some(fifty_nine.squared(2) * self)
    }

    /// Squared `times` times.
    fn squared(self, times: u32) -> Self {
        (0..times).fold(self, |power, _| power * power)
    }
}

impl Add for Residue {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let sum = self.0 + other.0;
        Self(if sum >= MODULUS { sum - MODULUS } else { sum })
    }
}

impl Neg for Residue {
    type Output = Self;

    fn neg(self) -> Self {
        Self(if self.0 == 0 { 0 } else { MODULUS - self.0 })
    }
}

impl Sub for Residue {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let (difference, borrowed) = self.0.overflowing_sub(other.0);
        Self(if borrowed { difference.wrapping_add(MODULUS) } else { difference })
    }
}

impl Mul for Residue {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let product = u128::from(self.0) * u128::from(other.0);
        // Both halves are below 2^61, and 2^61 is 1 here.
        Self((product as u64) & MODULUS) + Self::reduced((product >> 61) as u64)
    }
}

impl AddAssign for Residue {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Residue {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WIDE: u128 = MODULUS as u128;

    /// Any residue, with the ends of the range far more often than chance has it.
    fn residue() -> impl Strategy<Value = Residue> {
        prop_oneof![4 => any::<u64>(), 1 => 0..3_u64, 1 => MODULUS - 3..MODULUS + 3].prop_map(Residue::reduced)
    }

    fn wide(residue: Residue) -> u128 {
        u128::from(residue.get())
    }

    proptest! {
        #[test]
        fn every_operation_is_that_of_wide_integers(a in residue(), b in residue(), any: u64) {
            prop_assert_eq!(wide(a + b), (wide(a) + wide(b)) % WIDE);
            prop_assert_eq!(wide(a - b), (wide(a) + WIDE - wide(b)) % WIDE);
            prop_assert_eq!(wide(-a), (WIDE - wide(a)) % WIDE);
            prop_assert_eq!(wide(a * b), wide(a) * wide(b) % WIDE);
            prop_assert_eq!(wide(Residue::reduced(any)), u128::from(any) % WIDE);
        }

        #[test]
        fn an_inverse_gives_one(a in residue()) {
            prop_assert_eq!(a.inverse().map(|inverse| inverse * a), (!a.is_zero()).then_some(Residue::ONE));
        }
    }

    #[test]
    fn products_at_the_ends_are_those_of_wide_integers() {
        let ends = [0, 1, 2, MODULUS / 2, MODULUS / 2 + 1, MODULUS - 2, MODULUS - 1];
        for (a, b) in ends.into_iter().flat_map(|a| ends.map(|b| (a, b))) {
            let product = Residue::new(a).unwrap() * Residue::new(b).unwrap();
            assert_eq!(wide(product), u128::from(a) * u128::from(b) % WIDE, "{a} times {b}");
        }
    }

    #[test]
    fn a_number_of_another_form_is_refused() {
        assert_eq!(Residue::new(MODULUS - 1).map(Residue::get), Some(MODULUS - 1));
        assert_eq!(Residue::new(MODULUS), None);
        assert_eq!(Residue::new(u64::MAX), None);
    }
}
