//! What clients ask for, and the operations it becomes on the rows as they stand.

use crate::record::RECORD_BYTES_MAX;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::{CollectionKey, Draft, KeyError, MapPath, ReadError, RowKey, counters, flags, maps, registers, sets};

/// Rows that one record may change: bounds the work a single request can cause.
pub(crate) const OPS_MAX: usize = 65_536;

/// One change of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Put a register's value.
    RegisterPut {
        /// Which register.
        key: CollectionKey,
        /// Kept with the value.
        content_type: String,
        /// The value.
        bytes: Arc<[u8]>,
    },
    /// Add to a counter.
    CounterAdd {
        /// Which counter.
        key: CollectionKey,
        /// How much; may be negative.
        amount: i64,
    },
    /// Add and remove members of a set.
    SetChange {
        /// Which set.
        key: CollectionKey,
        /// Members to add.
        add: Vec<RowKey>,
        /// Members to remove; done before additions.
        remove: Vec<RowKey>,
    },
    /// Change a map.
    MapPatch {
        /// Which map.
        key: CollectionKey,
        /// In this order.
        changes: Vec<MapChange>,
    },
    /// Set a flag.
    FlagSet {
        /// Which flag.
        key: CollectionKey,
        /// To what.
        enabled: bool,
    },
    /// Delete a map that was looked through by a reader, so that the writer need not.
    MapDelete {
        /// Which map.
        key: CollectionKey,
        /// What the reader saw.
        found: maps::Found,
    },
    /// Delete a thing of any type.
    Delete {
        /// Which thing.
        key: CollectionKey,
    },
}

/// One change of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapChange {
    /// Remove what is at and under a place.
    Remove(MapPath),
    /// Set a value or object.
    Set(MapPath, maps::Value),
    /// Add to a counter.
    Add(MapPath, i64),
    /// Add a member to a set.
    AddMember(MapPath, String),
    /// Remove a member from a set.
    RemoveMember(MapPath, String),
}

/// What a command answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Nothing to tell.
    Done,
    /// A counter's new value here.
    Value(i64),
    /// A set's new size here.
    Size(u64),
}

/// Why a command was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A counter would leave the range of an i64 (caller).
    #[error("the counter would leave the range of a signed 64-bit number")]
    OutOfRange,
    /// A place in a map that cannot be (caller).
    #[error("{0}")]
    Path(String),
    /// The record would be larger than a record may be (caller): ask for less at once.
    #[error("the write makes a record of more than 4 MiB or 65,536 rows; split it")]
    TooLarge,
    /// Rows could not be read (environment).
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<KeyError> for CommandError {
    fn from(error: KeyError) -> Self {
        Self::Path(alloc::format!("{error}"))
    }
}

impl From<counters::AddError> for CommandError {
    fn from(error: counters::AddError) -> Self {
        match error {
            counters::AddError::OutOfRange => Self::OutOfRange,
            counters::AddError::Read(error) => Self::Read(error),
        }
    }
}

impl From<maps::MapError> for CommandError {
    fn from(error: maps::MapError) -> Self {
        match error {
            maps::MapError::Read(error) => Self::Read(error),
            maps::MapError::Add(error) => error.into(),
            maps::MapError::Path(_) | maps::MapError::Root => Self::Path(alloc::format!("{error}")),
        }
    }
}

impl Command {
    /// The thing that is changed.
    #[must_use]
    pub fn key(&self) -> &CollectionKey {
        match self {
            Self::RegisterPut { key, .. }
            | Self::CounterAdd { key, .. }
            | Self::SetChange { key, .. }
            | Self::MapPatch { key, .. }
            | Self::FlagSet { key, .. }
            | Self::MapDelete { key, .. }
            | Self::Delete { key } => key,
        }
    }

    /// Whether the clock can decide what is shown of it, so that a node with a wrong clock must not do it.
    #[must_use]
    pub fn is_stamped(&self) -> bool {
        match self {
            Self::RegisterPut { .. } => true,
            Self::MapPatch { changes, .. } => changes.iter().any(|change| matches!(change, MapChange::Set(..))),
            Self::CounterAdd { .. }
            | Self::SetChange { .. }
            | Self::FlagSet { .. }
            | Self::MapDelete { .. }
            | Self::Delete { .. } => false,
        }
    }

    /// Adds what it does to a record in the making.
    pub(crate) fn run(&self, draft: &mut Draft<'_>) -> Result<Answer, CommandError> {
        let answer = match self {
            Self::RegisterPut { key, content_type, bytes } => {
                registers::put(draft, &key.row(), content_type, bytes)?;
                Answer::Done
            }
            Self::CounterAdd { key, amount } => Answer::Value(counters::add(draft, &key.row(), *amount)?),
            Self::SetChange { key, add, remove } => {
                for member in remove {
                    sets::remove(draft, member)?;
                }
                for member in add {
                    sets::add(draft, member)?;
                }
                Answer::Size(draft.live_rows(key)?)
            }
            Self::MapPatch { key, changes } => {
                for change in changes {
                    change.run(draft, key)?;
                }
                Answer::Done
            }
            Self::FlagSet { key, enabled } => {
                flags::set(draft, &key.row(), *enabled)?;
                Answer::Done
            }
            Self::MapDelete { key, found } => {
                maps::remove_found(draft, key, found)?;
                Answer::Done
            }
            Self::Delete { key } => {
                delete(draft, key)?;
                Answer::Done
            }
        };
        if draft.len() > OPS_MAX { Err(CommandError::TooLarge) } else { Ok(answer) }
    }
}

impl MapChange {
    fn run(&self, draft: &mut Draft<'_>, map: &CollectionKey) -> Result<(), maps::MapError> {
        match self {
            Self::Remove(path) => maps::remove(draft, map, path),
            Self::Set(path, value) => maps::set(draft, map, path, value),
            Self::Add(path, amount) => maps::add(draft, map, path, *amount).map(|_| ()),
            Self::AddMember(path, member) => maps::add_member(draft, map, path, member),
            Self::RemoveMember(path, member) => maps::remove_member(draft, map, path, member),
        }
    }
}

fn delete(draft: &mut Draft<'_>, key: &CollectionKey) -> Result<(), CommandError> {
    use atoll_crdt::DataType;
    match key.data_type() {
        DataType::Register | DataType::Flag => draft.remove(&key.row())?,
        DataType::Counter => counters::reset(draft, &key.row())?,
        DataType::Set => sets::delete(draft, key)?,
        DataType::Map => maps::remove(draft, key, &MapPath::root())?,
    }
    Ok(())
}

/// Whether an encoded record fits.
pub(crate) fn check_size(bytes: usize) -> Result<(), CommandError> {
    if bytes > RECORD_BYTES_MAX { Err(CommandError::TooLarge) } else { Ok(()) }
}
