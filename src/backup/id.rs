//! The name of a backup: when it was taken, and a few random digits, so that names sort by age and never meet.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use time::OffsetDateTime;
use time::macros::format_description;

/// `20261121T053012.250Z-1f3a`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(String);

/// A text that names no backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a backup is called like 20261121T053012.250Z-1f3a")]
pub struct NoId;

impl BackupId {
    /// A name for a backup that is taken at this time.
    pub(super) fn at(ms: u64) -> Self {
        let form = format_description!("[year][month][day]T[hour][minute][second].[subsecond digits:3]Z");
        let at =
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Self(format!("{}-{:04x}", at.format(form).unwrap_or_default(), rand::random::<u16>()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BackupId {
    type Err = NoId;

    fn from_str(text: &str) -> Result<Self, NoId> {
        const FORM: &[u8] = b"00000000T000000.000Z-xxxx";
        let fits = |(form, byte): (&u8, u8)| match form {
            b'0' => byte.is_ascii_digit(),
            b'x' => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
            form => *form == byte,
        };
        let is_one = text.len() == FORM.len() && FORM.iter().zip(text.bytes()).all(fits);
        if is_one { Ok(Self(text.to_owned())) } else { Err(NoId) }
    }
}

impl TryFrom<String> for BackupId {
    type Error = NoId;

    fn try_from(text: String) -> Result<Self, NoId> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A time as people read it.
pub(crate) fn time_text(ms: u64) -> String {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let at =
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    at.format(form).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_age_and_nothing_else_is_one() {
        let (old, new) = (BackupId::at(1_795_239_012_250), BackupId::at(1_795_239_012_251));
        assert!(old < new, "{old} {new}");
        assert_eq!(old.as_str().parse(), Ok(old.clone()));
        for text in ["", "..", "../../20261121T053012.2", "20261121T053012.250Z-1F3A", "20261121T053012.250Z-1f3a/"] {
            assert_eq!(text.parse::<BackupId>(), Err(NoId), "{text}");
        }
    }
}
