//! Rows that some read found damaged, until the replica thread has looked at them.
//!
//! **What always holds.** U1: whoever reads the row engine, on whatever thread, leaves the key here before it gives the
//! error. U2: at most [`SUSPECTS_MAX`] wait; one more is dropped, and found again by the next read.

use atoll_crdt::{ReadError, RowKey};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Keys that may wait.
const SUSPECTS_MAX: usize = 4_096;

/// Keys of rows that could not be read.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    keys: Mutex<BTreeSet<RowKey>>,
    /// Spares the replica thread the lock.
    any: AtomicBool,
    /// A scan ran into a block that the engine finds damaged.
    blocks: AtomicBool,
}

impl Suspects {
    /// Leaves the key of a read that found damage, and hands the error on. U1
    pub(super) fn note(&self, error: ReadError) -> ReadError {
        if let ReadError::Damaged(key) = &error {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            // U2
            if keys.len() < SUSPECTS_MAX {
                keys.insert(key.clone());
                self.any.store(true, Ordering::Release);
            }
        }
        error
    }

    /// A scan ran into a block that the engine finds damaged: it cannot go on, and neither can a compaction.
    pub(super) fn note_block(&self) {
        self.blocks.store(true, Ordering::Release);
    }

    /// Whether that happened.
    pub(super) fn has_blocks(&self) -> bool {
        self.blocks.load(Ordering::Acquire)
    }

    /// Takes them out.
    pub(super) fn take(&self) -> BTreeSet<RowKey> {
        if !self.any.swap(false, Ordering::AcqRel) {
            return BTreeSet::new();
        }
        std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
