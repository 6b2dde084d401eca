use std::{fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, Visitor},
};

/// An amount of memory, written as in "8GiB" or "500MB".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub struct MemoryLimit {
    /// As so many bytes.
    pub bytes: u64,
}

const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl FromStr for MemoryLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "{text:?} is no amount of memory: it is a number with GiB, MiB, GB or MB, such as \"8GiB\""
            )
        };
        let split = UNITS
            .iter()
            .find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
        let (number, unit) = split.ok_or_else(refused)?;
        let number: f64 = number.trim().parse().map_err(|_| refused())?;
        let bytes = number * unit as f64;
        // NaN too.
        if !(1.0..1e18).contains(&bytes) {
            return Err(refused());
        }
        Ok(Self {
            bytes: bytes as u64,
        })
    }
}

impl<'de> Deserialize<'de> for MemoryLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Amount;

        impl Visitor<'_> for Amount {
            type Value = MemoryLimit;

            // Of a number alone, nobody knows whether bytes or gigabytes are meant.
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of memory with its unit, such as \"8GiB\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<MemoryLimit, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Amount)
    }
}

impl From<MemoryLimit> for String {
    fn from(limit: MemoryLimit) -> Self {
        limit.to_string()
    }
}

/// With the largest unit that leaves a whole number.
impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, unit): &&(&str, u64)| self.bytes.is_multiple_of(*unit);
        let (name, unit) = UNITS.iter().find(whole).unwrap_or(&("B", 1));
        write!(f, "{}{name}", self.bytes / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_numbers_with_a_unit() {
        let read = |text: &str| text.parse::<MemoryLimit>().map(|limit| limit.bytes);
        assert_eq!(read("8GiB"), Ok(8 << 30));
        assert_eq!(read("1.5 GB"), Ok(1_500_000_000));
        for bad in ["8", "GiB", "-1GiB", "nanB", "8 gigabytes"] {
            assert!(read(bad).unwrap_err().contains("such as"), "{bad}");
        }
        for text in ["8GiB", "1500MB", "17B"] {
            assert_eq!(text.parse::<MemoryLimit>().unwrap().to_string(), text);
        }
    }
}
