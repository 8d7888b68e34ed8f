//! What a write writes to, and what it writes there, as numbers that names derive from.

use std::fmt;

use atoll_client::api::{DataType, Key};

/// Digits of a write's number at the beginning of its value.
const NUMBER_DIGITS: usize = 16;

/// A session of the load generator, unique over all regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u32);

/// The number of a write, unique in a run: its session and its place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteNumber(pub u64);

/// The smallest thing that is written as a whole: a key, or a map's leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    /// What it is.
    pub kind: Kind,
    /// Whose it is; `None` if all sessions write it.
    pub owner: Option<SessionId>,
    /// Which of these.
    pub index: u32,
}

/// What a cell is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A register.
    Register,
    /// A counter.
    Counter,
    /// A set.
    Set,
    /// A leaf of a map.
    Map(Leaf),
    /// A flag.
    Flag,
}

/// What a map's leaf is, and which of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Leaf {
    /// A value, at `/v/N`.
    Value(u8),
    /// A counter, at `/n/N`.
    Counter(u8),
    /// A member set, at `/t/N`.
    Set(u8),
}

/// What a write does to its cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Puts the value that its number gives.
    Put,
    /// Turns a flag on or off.
    Switch(bool),
    /// Adds this much.
    Add(u32),
    /// Adds a member.
    Include(Member),
    /// Removes a member.
    Exclude(Member),
}

/// A member of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// Added by this write and never by another.
    Own(WriteNumber),
    /// One of a few that everybody adds and removes.
    Common(u8),
}

impl Cell {
    /// The data type it belongs to.
    #[must_use]
    pub const fn data_type(self) -> DataType {
        match self.kind {
            Kind::Register => DataType::Registers,
            Kind::Counter => DataType::Counters,
            Kind::Set => DataType::Sets,
            Kind::Map(_) => DataType::Maps,
            Kind::Flag => DataType::Flags,
        }
    }

    /// Its key: `k7` if it is shared, `s3-k7` if it is a session's own.
    #[must_use]
    pub fn key(self) -> Key {
        let key = match self.owner {
            None => format!("k{}", self.index),
            Some(SessionId(session)) => format!("s{session}-k{}", self.index),
        };
        Key::new(&key).expect("a few letters and digits are a key")
    }

    /// Its path within its key, if it is a map's leaf.
    #[must_use]
    pub fn path(self) -> Option<String> {
        let Kind::Map(leaf) = self.kind else { return None };
        // W4
        Some(match leaf {
            Leaf::Value(n) => format!("/v/{n}"),
            Leaf::Counter(n) => format!("/n/{n}"),
            Leaf::Set(n) => format!("/t/{n}"),
        })
    }
}

impl fmt::Display for Cell {
    /// `registers/k7`, `maps/s3-k7/v/1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.data_type(), self.key(), self.path().unwrap_or_default())
    }
}

impl Member {
    /// The member that is called `name`, if it is one of ours.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let member = match name.split_at_checked(1)? {
            ("o", number) => Self::Own(WriteNumber(u64::from_str_radix(number, 16).ok()?)),
            ("c", number) => Self::Common(number.parse().ok()?),
            _ => return None,
        };
        // Spelt otherwise, it is another member.
        (member.to_string() == name).then_some(member)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(WriteNumber(number)) => write!(f, "o{number:x}"),
            Self::Common(number) => write!(f, "c{number}"),
        }
    }
}

/// The value of the write called `number`, `bytes` long and at least 16: printable ASCII.
pub(crate) fn value_of(number: WriteNumber, bytes: usize) -> String {
    let mut value = format!("{:0NUMBER_DIGITS$x}", number.0);
    while value.len() < bytes {
        let filler = b'a' + u8::try_from((value.len() + usize::from(number.0 as u8)) % 26).unwrap_or(0);
        value.push(char::from(filler));
    }
    value
}

/// Which write a value of `bytes` is of; `None` if it is no write's, to the last byte.
pub(crate) fn number_of_value(value: &[u8], bytes: usize) -> Option<WriteNumber> {
    let digits = std::str::from_utf8(value.get(..NUMBER_DIGITS)?).ok()?;
    let number = WriteNumber(u64::from_str_radix(digits, 16).ok()?);
    (value == value_of(number, bytes).as_bytes()).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_names_its_write_and_a_damaged_one_names_none() {
        for bytes in [16, 64, 100] {
            let value = value_of(WriteNumber(0x2a_0000_0007), bytes);
            assert_eq!(value.len(), bytes);
            assert_eq!(number_of_value(value.as_bytes(), bytes), Some(WriteNumber(0x2a_0000_0007)));
            for at in 0..bytes {
                let mut damaged = value.clone().into_bytes();
                damaged[at] ^= 1;
                assert_ne!(number_of_value(&damaged, bytes), Some(WriteNumber(0x2a_0000_0007)));
            }
            assert_eq!(number_of_value(&value.as_bytes()[..bytes - 1], bytes), None);
        }
        assert_eq!(number_of_value("é".repeat(16).as_bytes(), 32), None);
    }

    #[test]
    fn members_read_back_and_foreign_ones_do_not() {
        for member in [Member::Own(WriteNumber(0xbeef)), Member::Common(7)] {
            assert_eq!(Member::from_name(&member.to_string()), Some(member));
        }
        for foreign in ["", "o", "c", "c07", "o0a", "oXY", "milk", "c300", "é"] {
            assert_eq!(Member::from_name(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn cells_are_called_by_type_key_and_path() {
        let cell = |kind, owner| Cell { kind, owner, index: 7 };
        assert_eq!(cell(Kind::Register, None).to_string(), "registers/k7");
        let leaf = Kind::Map(Leaf::Counter(2));
        assert_eq!(cell(leaf, Some(SessionId(3))).to_string(), "maps/s3-k7/n/2");
    }
}
