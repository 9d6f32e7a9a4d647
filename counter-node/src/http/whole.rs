//! Whole numbers in bodies. `2.0` is one, too, as JSON Schema has it, and some programs write it so.

use std::fmt;

use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// Reads one that fits.
pub(super) fn whole<'de, D: Deserializer<'de>, T: TryFrom<u64>>(deserializer: D) -> Result<T, D::Error> {
    let number = deserializer.deserialize_u64(Whole)?;
    T::try_from(number).map_err(|_| D::Error::invalid_value(Unexpected::Unsigned(number), &"a lesser one"))
}

struct Whole;

impl Visitor<'_> for Whole {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<u64, E> {
        /// The first that has no place in 64 bits.
        const END: f64 = 18_446_744_073_709_551_616.0;
        if number.fract() != 0.0 || !(0.0..END).contains(&number) {
            return Err(E::invalid_value(Unexpected::Float(number), &self));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and within the range")]
        Ok(number as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: TryFrom<u64>>(text: &str) -> Option<T> {
        whole(&mut serde_json::Deserializer::from_str(text)).ok()
    }

    #[test]
    fn whole_numbers_are_read_however_they_are_written_and_nothing_else_is() {
        for (text, number) in [("0", 0), ("2.0", 2), ("1e3", 1_000), ("18446744073709551615", u64::MAX)] {
            assert_eq!(read(text), Some(number), "{text}");
        }
        // Above half of what a float holds exactly, as the nearest that there is to what was written.
        for (text, number) in [("2251799813685247.0", 2_251_799_813_685_247_u64), ("9007199254740991.0", 9_007_199_254_740_991)] {
            assert_eq!(read(text), Some(number), "{text}");
        }
        for text in ["-1", "-1.0", "0.5", "18446744073709551616", "1e20", "\"1\"", "null", "true"] {
            assert_eq!(read::<u64>(text), None, "{text}");
        }
        assert_eq!((read("4294967295.0"), read::<u32>("4294967296")), (Some(u32::MAX), None));
    }
}
