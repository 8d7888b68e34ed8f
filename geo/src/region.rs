//! The name of a region, checked once where it enters.

use alloc::sync::Arc;
use core::fmt;
use core::str::FromStr;

/// The longest region name, in bytes: that of a DNS label (RFC 1035 §2.3.4).
pub const REGION_NAME_BYTES_MAX: usize = 63;

/// The name of a region: 1 to 63 bytes of lower-case letters, digits and inner hyphens.
///
/// Names order by their bytes and clone without copying. They need not be in the built-in table: a region
/// of one's own is as good as a cloud's.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionName(Arc<str>);

/// Why a text is not a region name. The caller's fault; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RegionNameError {
    /// The text is empty.
    #[error("a region name must not be empty")]
    Empty,
    /// The text is longer than [`REGION_NAME_BYTES_MAX`].
    #[error("a region name has at most {REGION_NAME_BYTES_MAX} bytes, this one has {bytes}")]
    TooLong {
        /// The length of the text in bytes.
        bytes: usize,
    },
    /// The text has a character outside `[a-z0-9-]`.
    #[error("a region name is made of a-z, 0-9 and '-', not {character:?} (at byte {at}); write it as in eu-west-1")]
    Character {
        /// The first character that is not allowed.
        character: char,
        /// Its place, in bytes from the start.
        at: usize,
    },
    /// The text begins or ends with a hyphen, so it could not be a DNS label.
    #[error("a region name neither begins nor ends with '-'")]
    OuterHyphen,
}

impl RegionName {
    /// Checks `text` and makes it a name.
    ///
    /// # Errors
    ///
    /// [`RegionNameError`] names the first rule that `text` breaks.
    pub fn new(text: &str) -> Result<Self, RegionNameError> {
        // G1
        if text.is_empty() {
            return Err(RegionNameError::Empty);
        }
        if text.len() > REGION_NAME_BYTES_MAX {
            return Err(RegionNameError::TooLong { bytes: text.len() });
        }
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if let Some((at, character)) = text.char_indices().find(|(_, c)| !allowed(*c)) {
            return Err(RegionNameError::Character { character, at });
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(RegionNameError::OuterHyphen);
        }
        Ok(Self(Arc::from(text)))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RegionName {
    type Err = RegionNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<&str> for RegionName {
    type Error = RegionNameError;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl AsRef<str> for RegionName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;

    #[test]
    fn a_name_is_kept_as_it_was_written() {
        for text in ["us-east-1", "x", "9", "a--b", &"z".repeat(63)] {
            assert_eq!(RegionName::new(text).unwrap().as_str(), text);
            assert_eq!(text.parse::<RegionName>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_could_not_be_a_dns_label_is_refused_with_its_reason() {
        assert_eq!(RegionName::new(""), Err(RegionNameError::Empty));
        assert_eq!(RegionName::new(&"z".repeat(64)), Err(RegionNameError::TooLong { bytes: 64 }));
        assert_eq!(RegionName::new("eu-West-1"), Err(RegionNameError::Character { character: 'W', at: 3 }));
        assert_eq!(RegionName::new("zürich"), Err(RegionNameError::Character { character: 'ü', at: 1 }));
        for text in ["eu/west", "eu west", "eu.west", "eu_west", "eu\n"] {
            assert!(matches!(RegionName::new(text), Err(RegionNameError::Character { .. })), "{text:?}");
        }
        for text in ["-", "-eu", "eu-"] {
            assert_eq!(RegionName::new(text), Err(RegionNameError::OuterHyphen), "{text:?}");
        }
    }

    #[test]
    fn names_line_up_in_a_table() {
        let name = RegionName::new("eu-west-1").unwrap();
        assert_eq!(format!("{name:<12}|"), "eu-west-1   |");
    }
}
