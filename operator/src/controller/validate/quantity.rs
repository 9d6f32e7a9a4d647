//! Sizes of volumes, compared exactly as Kubernetes does.

use std::fmt;

/// What Kubernetes caps quantities at, in bytes.
const BYTES_MAX: u128 = 0x7fff_ffff_ffff_ffff;

/// A number of bytes, with the text that says it: the text is passed on as it was written.
#[derive(Clone, Debug, Default)]
pub struct Bytes {
    text: String,
    thousandths: u128,
}

impl Bytes {
    /// Reads a size such as `1Gi`, `1.5G` or `1073741824`; None when it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let scale = scale(&text[digits.len()..])?;
        let (whole, fraction) = match digits.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (digits, None),
        };
        let number = |part: &str, length_max: usize| -> Option<u128> {
            let fits = (1..=length_max).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
            if fits { part.parse().ok() } else { None }
        };
        let whole = number(whole, 15)?;
        let thousandths = match fraction {
            Some(part) => number(part, 3)? * 10_u128.pow(3 - u32::try_from(part.len()).ok()?),
            None => 0,
        };
        let thousandths = ((whole * 1000 + thousandths) * scale).min(BYTES_MAX * 1000);
        Some(Self { text: text.to_owned(), thousandths })
    }

    /// An amount of bytes as an API server gives it: any quantity that Kubernetes makes itself.
    #[must_use]
    pub fn of_claim(text: &str) -> Option<Self> {
        Self::parse(text).or_else(|| {
            // Fractions of bytes come back in milli-units.
            let thousandths = text.strip_suffix('m')?.parse().ok()?;
            Some(Self { text: text.to_owned(), thousandths })
        })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// So many hundredths of it, in whole bytes.
    #[must_use]
    pub fn percent(&self, hundredths: u128) -> u128 {
        self.thousandths.saturating_mul(hundredths) / 100_000
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.thousandths == 0
    }
}

/// Sizes are equal when they are the same number, however written.
impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        self.thousandths == other.thousandths
    }
}

impl Eq for Bytes {}

impl PartialOrd for Bytes {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bytes {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.thousandths.cmp(&other.thousandths)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn scale(suffix: &str) -> Option<u128> {
    Some(match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => return None,
    })
}
