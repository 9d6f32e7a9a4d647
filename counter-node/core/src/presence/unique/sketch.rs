//! A HyperLogLog sketch: about how many different hashes it has been shown, in 2 KiB, whatever their number.
//!
//! Registers and estimator are those of Ertl, "New cardinality estimation algorithms for HyperLogLog sketches" (2017), which needs
//! no tables and no ranges of its own. What goes over the wire is the registers alone, so a peer's sketch is checked whole; it is
//! never one that says other than its registers.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The hash's first bits name the register: 2,048 of them, for a standard error of 1.04 / √2048 = 2.3 %.
const INDEX_BITS: u32 = 11;
const REGISTERS: usize = 1 << INDEX_BITS;
/// The highest value of a register: all other bits of the hash are 0.
const RANK_MAX: u8 = 64 - 11 + 1;

/// See the module's text.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Sketch(Box<[u8]>);

impl Default for Sketch {
    fn default() -> Self {
        Self(vec![0; REGISTERS].into_boxed_slice())
    }
}

impl Sketch {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Shows it a hash, all bits of which must be as good as random.
    pub(super) fn add(&mut self, hash: u64) {
        let index = usize::try_from(hash >> (64 - INDEX_BITS)).unwrap_or(0);
        let zeros = (hash << INDEX_BITS).leading_zeros().min(64 - INDEX_BITS);
        let rank = u8::try_from(zeros.saturating_add(1)).unwrap_or(RANK_MAX);
        if let Some(register) = self.0.get_mut(index) {
            *register = rank.max(*register);
        }
    }

    /// Shows it all that the other has been shown.
    pub(super) fn merge(&mut self, other: &Self) {
        for (register, theirs) in self.0.iter_mut().zip(&other.0) {
            *register = (*theirs).max(*register);
        }
    }

    /// About how many different hashes there were.
    pub(super) fn estimate(&self) -> u64 {
        let mut having = [0.0_f64; RANK_MAX as usize + 1];
        for register in &self.0 {
            having[usize::from(*register)] += 1.0;
        }
        let registers: f64 = having.iter().sum();
        let [none, between @ .., full] = having;
        let mut sum = registers * tau(1.0 - full / registers);
        for count in between.iter().rev() {
            sum = 0.5 * (sum + count);
        }
        sum += registers * sigma(none / registers);
        let estimate = registers * registers / (2.0 * std::f64::consts::LN_2 * sum);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is not negative, and saturates")]
        let rounded = estimate.round() as u64;
        rounded
    }
}

/// Σ x^(2^k) · 2^(k−1) over k ≥ 1, and x.
fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut weight, mut sum) = (1.0, x);
    loop {
        x *= x;
        let before = sum;
        sum += x * weight;
        weight += weight;
        if sum <= before {
            return sum;
        }
    }
}

/// (1 − x − Σ (1 − x^(2^−k))² · 2^−k over k ≥ 1) / 3.
fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut weight, mut sum) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = sum;
        weight *= 0.5;
        sum -= (1.0 - x).powi(2) * weight;
        if sum >= before {
            return sum / 3.0;
        }
    }
}

impl fmt::Debug for Sketch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sketch(about {})", self.estimate())
    }
}

impl Serialize for Sketch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Sketch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Registers;
        impl serde::de::Visitor<'_> for Registers {
            type Value = Sketch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{REGISTERS} registers, none above {RANK_MAX}")
            }

            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Sketch, E> {
                if bytes.len() != REGISTERS || bytes.iter().any(|rank| *rank > RANK_MAX) {
                    return Err(E::invalid_length(bytes.len(), &self));
                }
                Ok(Sketch(bytes.into()))
            }
        }
        deserializer.deserialize_bytes(Registers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_range_are_no_surprise() {
        assert_eq!(Sketch::default().estimate(), 0);
        let mut one = Sketch::default();
        one.add(0);
        one.add(0);
        assert_eq!((one.estimate(), one.0[0]), (1, RANK_MAX));
        let full = Sketch(vec![RANK_MAX; REGISTERS].into_boxed_slice());
        assert_eq!(full.estimate(), u64::MAX);
    }

    #[test]
    fn only_registers_are_taken_from_a_peer() {
        let read = |bytes: &[u8]| postcard::from_bytes::<Sketch>(&postcard::to_stdvec(bytes).unwrap());
        let mut registers = vec![1; REGISTERS];
        assert!(read(&registers).is_ok());
        assert!(read(&registers[1..]).is_err());
        registers[9] = RANK_MAX + 1;
        assert!(read(&registers).is_err());
    }
}
