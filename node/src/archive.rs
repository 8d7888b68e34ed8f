//! Archived vectors: what clients carry stays short, however often processes have been restarted.
//!
//! **How it goes.** Every process start adds an actor to the vectors of the cluster for good. When a node's vector names
//! many actors that the newest archive does not cover, the node writes that vector down as a row of the namespace
//! `_system`, named by its hash. A record's dot stands for everything its writer had seen, and a causal context that
//! covers the dot covers all of that. So a *token* names the archive's dot and what lies beyond the archive, and is a
//! vector like any other: whoever reads it needs to know nothing of archives. A *context* must name each dot that was
//! shown, so it says the archive's name, and is made whole again by the row.
//!
//! **What always holds.** A1: an archive is covered by the context in which its row was written. A2: at most
//! [`KEPT`] and those that nodes write at the same moment exist; a context that refers to one that has gone is
//! refused, and read anew.
//!
//! **What is not here.** Vectors between nodes and on disk: they are whole.

use crate::store::View;
use arc_swap::ArcSwapOption;
use atoll_crdt::codec::{Reader, Writer};
use atoll_crdt::{CollectionKey, DataType, Dot, ReadError, RowSource as _, VersionVector, registers};
use atoll_replication::Command;
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// The name of an archive.
pub(crate) type Name = [u8; 8];

const NAMESPACE: &str = "_system";
const PREFIX: &str = "archives/";
/// Actors beyond the newest archive from which on another one is written: a token of some 700 characters.
const BEYOND_MAX: usize = 48;
/// Archives that stay when another one is written.
const KEPT: usize = 8;

/// A vector with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archive {
    pub(crate) name: Name,
    /// Of the record that wrote its row. A1
    pub(crate) dot: Dot,
    pub(crate) vector: VersionVector,
}

impl Archive {
    /// A vector that covers the same in every causal context, and names fewer actors.
    pub(crate) fn shortened(&self, vector: &VersionVector) -> VersionVector {
        let mut rest = vector.beyond(&self.vector);
        rest.include(self.dot);
        rest
    }
}

/// The archive that is used now.
#[derive(Debug, Default)]
pub(crate) struct Archives {
    newest: ArcSwapOption<Archive>,
}

impl Archives {
    /// The newest archive, if its row is covered by this context.
    pub(crate) fn under(&self, context: &VersionVector) -> Option<Arc<Archive>> {
        self.newest.load_full().filter(|archive| context.covers(archive.dot))
    }

    /// Looks for a newer one; gives what is to be written when another one is due.
    ///
    /// # Errors
    /// The storage failed.
    pub(crate) fn refresh(&self, view: &View) -> Result<Option<Vec<Command>>, ReadError> {
        let mut all = all(view)?;
        all.sort_by_key(|archive| (archive.vector.iter().map(|dot| u128::from(dot.seq)).sum::<u128>(), archive.name));
        let newest = all.last();
        let beyond = newest.map_or(view.context().len(), |newest| view.context().beyond(&newest.vector).len());
        let due = beyond > BEYOND_MAX;
        let commands = due.then(|| {
            let old = all.iter().rev().skip(KEPT - 1).map(|old| Command::Delete { key: key(old.name) });
            std::iter::once(put(view.context())).chain(old).collect()
        });
        self.newest.store(all.pop().map(Arc::new));
        Ok(commands)
    }
}

/// The vector of an archive; `None` when there is no such row.
///
/// # Errors
/// The storage failed.
pub(crate) fn look_up(view: &View, name: Name) -> Result<Option<VersionVector>, ReadError> {
    let row = view.row(&key(name).row())?;
    Ok(row.as_deref().and_then(|row| registers::winner(row)).and_then(|(_, _, bytes)| decoded(bytes)))
}

fn all(view: &View) -> Result<Vec<Archive>, ReadError> {
    let prefix = CollectionKey::listing_prefix(NAMESPACE, DataType::Register, PREFIX).expect("a valid namespace");
    let mut all = Vec::new();
    view.visit(&prefix, &prefix, &mut |_, row| {
        // Rows that do not read are passed over.
        if let Some(sibling) = registers::siblings(row).first()
            && let Some(vector) = decoded(&sibling.bytes)
        {
            all.push(Archive { name: name(&sibling.bytes), dot: sibling.dot, vector });
        }
        true
    })?;
    Ok(all)
}

fn put(vector: &VersionVector) -> Command {
    let mut bytes = Writer::new();
    vector.encode(&mut bytes);
    let bytes: Arc<[u8]> = bytes.into_bytes().into();
    Command::RegisterPut { key: key(name(&bytes)), content_type: "application/octet-stream".into(), bytes }
}

fn decoded(bytes: &[u8]) -> Option<VersionVector> {
    let mut input = Reader::new(bytes);
    let vector = VersionVector::decode(&mut input).ok()?;
    input.finish().ok().map(|()| vector)
}

fn name(bytes: &[u8]) -> Name {
    let mut name = Name::default();
    name.copy_from_slice(&Sha256::digest(bytes)[..8]);
    name
}

fn key(name: Name) -> CollectionKey {
    let hex = format!("{PREFIX}{:016x}", u64::from_be_bytes(name));
    CollectionKey::new(NAMESPACE, DataType::Register, &hex).expect("hexadecimal digits make a valid key")
}
