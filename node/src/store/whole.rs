//! Reading every row of the engine: for a sketch, for an index made anew, and to find what is damaged.
//!
//! **What always holds.** V1: a row of an adopted layer is judged by what the layer's own index says of it, any other by `ids`.
//! V2: what cannot be read is a hole with the digest that the index has for it, so that the sum over all rows can be told.
//!
//! **What is not here.** The scrubber's thread ([`super::scrub`]), and making damaged files anew ([`super::salvage`]).

use super::aside_rows::AsideRow;
use super::checkpoint::Checkpoint;
use super::digests::SketchSize;
use super::engine::{
    Engine, HoleDigests, ID_BYTES, REINDEXED_AT_ONCE, damaged, decode_row, failed, id_key, is_damage, open,
};
use atoll_crdt::ReadError;
use atoll_replication::sketch::{Change, RowDigest, Sketch};
use atoll_replication::{HOLES_MAX, LayerId};
use fjall::{OwnedWriteBatch, PersistMode, Readable, Snapshot};
use std::ops::Bound;

/// What a step of the scrubber came upon.
#[derive(Debug, Default)]
pub(super) struct Scrubbed {
    /// Rows looked at.
    pub(super) rows: u64,
    /// Those of them that are damaged.
    pub(super) failures: u64,
    /// The last entry of the index; `None` at its end.
    pub(super) last: Option<Vec<u8>>,
}

impl Engine {
    /// Reads every row for a sketch of them, and what its checkpoint says of them must be so. Damaged ones are given too.
    pub(super) fn scan(&self, checkpoint: &Checkpoint, size: SketchSize) -> Result<(Sketch, HoleDigests), ReadError> {
        let snapshot = self.snapshot();
        // A damaged block of these would meet nobody but a compaction, after which nothing can be written.
        for keyspace in [&self.ids, &self.counts].into_iter().chain(self.aside_keyspaces()) {
            snapshot.iter(keyspace).try_for_each(|entry| entry.into_inner().map(drop)).map_err(|e| failed(&e))?;
        }
        let adopted = self.adopted().map_err(|error| failed(&error))?;
        let mut holes = HoleDigests::new();
        let (sketch, rows) = self.sketch(size, checkpoint.rows, |key, digest| {
            let digest = match digest {
                Some(digest) => return Ok(digest),
                None => self.digest(&snapshot, adopted, key)?,
            };
            // A layer's row that is known to be empty is no hole.
            if digest != RowDigest::ABSENT {
                note_hole(&mut holes, key, digest)?;
            }
            Ok(digest)
        })?;
        if (rows, sketch.root()) == (checkpoint.rows, checkpoint.root) {
            return Ok((sketch, holes));
        }
        tracing::error!("the stored rows are not those that their checkpoint sums up: looking for which");
        self.scan_by_index(&snapshot, adopted, checkpoint, size)
    }

    /// The same, by the index: which rows are missing, or whole and others than they should be.
    fn scan_by_index(
        &self,
        snapshot: &Snapshot,
        adopted: Option<LayerId>,
        checkpoint: &Checkpoint,
        size: SketchSize,
    ) -> Result<(Sketch, HoleDigests), ReadError> {
        let (mut sketch, mut rows, mut holes) = (size.sketch(checkpoint.rows), 0, HoleDigests::new());
        let mut row = |key: &[u8]| -> Result<(), ReadError> {
            let digest = self.digest(snapshot, adopted, key)?;
            if digest == RowDigest::ABSENT {
                return Ok(());
            }
            if !self.is_whole(snapshot, adopted, key)? {
                note_hole(&mut holes, key, digest)?;
            }
            sketch.apply(Change::between(self.digest_key.id_of_bytes(key), RowDigest::ABSENT, digest));
            rows += 1;
            Ok(())
        };
        for entry in snapshot.iter(&self.ids) {
            let entry = entry.key().map_err(|error| failed(&error))?;
            let key = entry.get(ID_BYTES..).unwrap_or_default();
            // V1
            let in_layer = adopted.map_or(Ok(None), |layer| self.aside_sums(snapshot, layer, key))?.is_some();
            if !in_layer {
                row(key)?;
            }
        }
        if let Some(layer) = adopted {
            self.visit_aside_ids(snapshot, layer, &mut |key, _| row(key))?;
        }
        if (rows, sketch.root()) != (checkpoint.rows, checkpoint.root) {
            return Err(ReadError::Failed("neither its rows nor their index are what its checkpoint sums up".into()));
        }
        Ok((sketch, holes))
    }

    /// Makes the index anew, of every row, because the secret is another one; the checkpoint's root is then of that one.
    /// A crash on the way leaves the old fingerprint, and it is done again. E3
    pub(super) fn reindex(
        &self,
        checkpoint: &mut Checkpoint,
        size: SketchSize,
    ) -> Result<(Sketch, HoleDigests), ReadError> {
        self.move_all()?;
        let write = |batch: OwnedWriteBatch| batch.commit().map_err(|error| failed(&error));
        let new_batch = || self.database.batch();
        let mut batch = new_batch();
        for (n, entry) in self.snapshot().iter(&self.ids).enumerate() {
            batch.remove(&self.ids, entry.key().map_err(|error| failed(&error))?);
            if n % REINDEXED_AT_ONCE == REINDEXED_AT_ONCE - 1 {
                write(std::mem::replace(&mut batch, new_batch()))?;
            }
        }
        write(batch)?;
        let (mut batch, mut waiting, mut holes) = (new_batch(), 0, HoleDigests::new());
        let (sketch, rows) = self.sketch(size, checkpoint.rows, |key, digest| {
            let digest = match digest {
                Some(digest) => {
                    let id = id_key(self.digest_key.id_of_bytes(key), key);
                    batch.insert(&self.ids, id, digest.to_bits().to_be_bytes());
                    digest
                }
                // Nothing tells any more what the sketch had for it.
                None => {
                    let digest = self.unknown(key);
                    self.write_unknown(&mut batch, key, digest);
                    note_hole(&mut holes, key, digest)?;
                    digest
                }
            };
            waiting += 1;
            if waiting == REINDEXED_AT_ONCE {
                waiting = 0;
                write(std::mem::replace(&mut batch, new_batch()))?;
            }
            Ok(digest)
        })?;
        if rows != checkpoint.rows {
            return Err(ReadError::Failed(format!("it has {rows} rows, and its checkpoint says {}", checkpoint.rows)));
        }
        checkpoint.root = sketch.root();
        let mut batch = batch.durability(Some(PersistMode::SyncData));
        self.write_state(&mut batch, checkpoint, false);
        write(batch)?;
        Ok((sketch, holes))
    }

    /// A sketch of every row, and how many there are; `each` is shown their keys, and their digests if they are not
    /// damaged, and says what counts.
    fn sketch(
        &self,
        size: SketchSize,
        rows_expected: u64,
        mut each: impl FnMut(&[u8], Option<RowDigest>) -> Result<RowDigest, ReadError>,
    ) -> Result<(Sketch, u64), ReadError> {
        let (mut sketch, mut rows) = (size.sketch(rows_expected), 0);
        let adopted = self.adopted().map_err(|error| failed(&error))?;
        for stored in self.rows_from(&self.snapshot(), adopted, &[])? {
            let stored = stored?;
            let key = stored.key_bytes();
            let digest = each(key, stored.digest(&self.digest_key))?;
            if digest != RowDigest::ABSENT {
                sketch.apply(Change::between(self.digest_key.id_of_bytes(key), RowDigest::ABSENT, digest));
                rows += 1;
            }
        }
        Ok((sketch, rows))
    }

    /// Whether the engine finds blocks of its own damaged, which a scan runs into.
    pub(super) fn has_damaged_blocks(&self) -> bool {
        let snapshot = self.snapshot();
        let mut keyspaces = [&self.rows, &self.ids, &self.counts].into_iter().chain(self.aside_keyspaces());
        keyspaces.any(|keyspace| snapshot.iter(keyspace).any(|entry| entry.into_inner().is_err_and(|e| is_damage(&e))))
    }

    /// Looks at the rows that the index names behind an entry: each must be there, whole, and have the digest that the index
    /// says. Others are left among the suspects.
    pub(super) fn scrub(&self, after: &[u8], rows_max: usize) -> Result<Scrubbed, ReadError> {
        let snapshot = self.snapshot();
        let adopted = self.adopted_in(&snapshot)?;
        let mut scrubbed = Scrubbed::default();
        let entries = snapshot.range::<&[u8], _>(&self.ids, (Bound::Excluded(after), Bound::Unbounded));
        for entry in entries.take(rows_max) {
            let (entry, _) = entry.into_inner().map_err(|error| failed(&error))?;
            let key = entry.get(ID_BYTES..).unwrap_or_default();
            scrubbed.rows += 1;
            if !self.is_whole(&snapshot, adopted, key)? {
                scrubbed.failures += 1;
                self.suspects.note(damaged(key, "it is not what the index says"));
            }
            scrubbed.last = Some(entry.to_vec());
        }
        Ok(scrubbed)
    }

    /// Whether a row of a snapshot is there, reads, and has the digest that the index says. V1
    pub(super) fn is_whole(
        &self,
        snapshot: &Snapshot,
        adopted: Option<LayerId>,
        key: &[u8],
    ) -> Result<bool, ReadError> {
        if let Some(layer) = adopted
            && let Some(sums) = self.aside_sums(snapshot, layer, key)?
        {
            let row = self.stored_aside(snapshot, layer, key)?.and_then(Result::ok);
            let is_right = |row: &AsideRow| row.after_digest(&self.digest_key, key) == Some(sums.after);
            return Ok(sums.after == RowDigest::ABSENT || row.as_ref().is_some_and(is_right));
        }
        let stored = match snapshot.get(&self.rows, key) {
            Err(error) if is_damage(&error) => return Ok(false),
            stored => stored.map_err(|error| failed(&error))?,
        };
        let Some(stored) = stored else {
            // Gone, and rightly so, unless the index names it: whoever came upon the damage read an older state.
            let id = id_key(self.digest_key.id_of_bytes(key), key);
            return Ok(!snapshot.contains_key(&self.ids, id).map_err(|error| failed(&error))?);
        };
        let Ok(body) = open(key, &stored) else { return Ok(false) };
        Ok(decode_row(key, &stored).is_ok()
            && self.digest_key.digest_of_bytes(key, body) == self.digest(snapshot, adopted, key)?)
    }

    /// How many rows there are, about.
    pub(super) fn rows_about(&self) -> usize {
        self.ids.approximate_len()
    }
}

fn note_hole(holes: &mut HoleDigests, key: &[u8], digest: RowDigest) -> Result<(), ReadError> {
    if holes.len() == HOLES_MAX {
        return Err(ReadError::Failed(format!("more than {HOLES_MAX} rows are damaged")));
    }
    match damaged(key, "its key is none") {
        ReadError::Damaged(key) => {
            holes.insert(key, digest);
            Ok(())
        }
        error @ ReadError::Failed(_) => Err(error),
    }
}
