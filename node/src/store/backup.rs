//! A state of the store as a backup reads it: some rows at a time, while writes go on.
//!
//! **How it goes.** The replica thread takes the synced state and gives it away; from then on any thread reads pages of it: rows by key,
//! ids with digests by id, and the rows of some ids.
//!
//! **What always holds.** U1: it never changes, and shows exactly the effects of its context, all of them synced. U2: a page is bounded,
//! and goes on where the last one ended, so that all pages together show each row once. U3: the digests of all rows add up to its root.
//!
//! **What it costs.** As long as it is kept, the rows that were in memory when it was taken, and the engine's old versions of rows that
//! are overwritten meanwhile. The first page by id hashes the keys of the rows in memory.
//!
//! **What is not here.** Who may ask, and for how long ([`crate::backup`]).

use super::backup_row::{encode_pair, encode_row};
use super::checkpoint::Checkpoint;
use super::engine::{Engine, Fingerprint, ID_BYTES, failed};
use super::layers::Layers;
use atoll_crdt::codec::Writer;
use atoll_crdt::{ReadError, Row, RowKey, VersionVector};
use atoll_replication::sketch::{Cell, DigestKey, RowDigest, RowId};
use atoll_replication::{Recovered, Start};
use fjall::Readable;
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

/// Bytes of a page after which it ends.
const PAGE_BYTES: usize = 1 << 20;
/// Bytes that a page has at most, unless one row alone has more.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Entries read for a page of ids, of each place that has some.
const PAGE_IDS: usize = 16_384;

/// Some of a state, as bytes of [`super::BackupRow`] or pairs of ids and digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupPage {
    /// In order.
    pub bytes: Vec<u8>,
    /// Whether nothing follows.
    pub is_last: bool,
}

/// A state to be backed up. U1
#[derive(Debug)]
pub struct BackupSource {
    layers: Layers,
    digest_key: DigestKey,
    fingerprint: Fingerprint,
    rows: u64,
    root: Cell,
    state: Recovered,
    /// Rows that layers in memory mention, the empty ones too, by id.
    memory: OnceLock<Vec<(RowId, RowKey, Arc<Row>)>>,
}

impl BackupSource {
    /// Whether rows of a deleted key are still to be removed: the root is with them.
    #[must_use]
    pub fn is_clearing(&self) -> bool {
        !self.layers.clears.is_empty()
    }

    /// The state that `layers` show, which is that of a checkpoint at this moment.
    pub(super) fn new(layers: Layers, engine: &Engine, synced: &Checkpoint) -> Self {
        Self {
            layers,
            digest_key: engine.digest_key.clone(),
            fingerprint: engine.fingerprint(),
            rows: synced.rows,
            root: synced.root,
            state: synced.state.clone(),
            memory: OnceLock::new(),
        }
    }

    /// The causal context that the rows stand at.
    #[must_use]
    pub fn context(&self) -> &VersionVector {
        &self.state.clocks.context
    }

    /// The processes that wrote here so far.
    #[must_use]
    pub fn starts(&self) -> &[Start] {
        &self.state.starts
    }

    /// Stamps up to here may have been given.
    #[must_use]
    pub fn ceiling_bits(&self) -> u64 {
        self.state.ceiling.to_bits()
    }

    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The sum over all rows. U3
    #[must_use]
    pub fn root(&self) -> Cell {
        self.root
    }

    /// Tells under which secret ids and digests are made.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 16] {
        self.fingerprint
    }

    /// Rows behind a key, in the order of keys; from the first one if it is empty. U2
    ///
    /// # Errors
    /// The storage failed, or the next row is damaged.
    pub fn rows_after(&self, after: &[u8]) -> Result<BackupPage, ReadError> {
        let from = if after.is_empty() { Vec::new() } else { [after, &[0]].concat() };
        let mut page = Page::default();
        let mut is_last = true;
        self.layers.visit(&[], &from, &mut |key, row| {
            is_last = page.add(&self.digest_key, key, row);
            is_last
        })?;
        Ok(BackupPage { bytes: page.out.into_bytes(), is_last })
    }

    /// The rows of some ids, which are ascending, each with all its rows; and of how many of the ids. U2
    ///
    /// # Errors
    /// The storage failed, or one of the rows is damaged.
    pub fn rows_of(&self, ids: &[RowId]) -> Result<(BackupPage, usize), ReadError> {
        let mut page = Page::default();
        for (done, id) in ids.iter().enumerate() {
            let mut rows = Vec::new();
            let memory = self.memory();
            let from = memory.partition_point(|(at, ..)| at < id);
            for (_, key, row) in
                memory[from..].iter().take_while(|(at, ..)| at == id).filter(|(.., row)| !row.is_empty())
            {
                rows.push((key.clone(), Arc::clone(row)));
            }
            self.layers.visit_stored(&[*id], &mut |key, row| rows.push((key.clone(), Arc::clone(row))))?;
            rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            // All rows of an id are in one page.
            let mut of_id = Page::default();
            rows.iter().for_each(|(key, row)| _ = of_id.put(&self.digest_key, key, row));
            let (before, more) = (page.out.as_bytes().len(), of_id.out.as_bytes());
            if before > 0 && before + more.len() > PAGE_BYTES_MAX {
                return Ok((BackupPage { bytes: page.out.into_bytes(), is_last: false }, done));
            }
            page.out.raw(more);
            if page.out.as_bytes().len() >= PAGE_BYTES {
                let is_last = done + 1 == ids.len();
                return Ok((BackupPage { bytes: page.out.into_bytes(), is_last }, done + 1));
            }
        }
        Ok((BackupPage { bytes: page.out.into_bytes(), is_last: true }, ids.len()))
    }

    /// Ids behind one, each with the digest of its row, in order. U2
    ///
    /// # Errors
    /// The storage failed.
    pub fn ids_after(&self, after: Option<RowId>) -> Result<BackupPage, ReadError> {
        let from = after.map_or(0, |id| id.to_bits() + 1);
        let places = [self.ids_in_memory(from), self.ids_in_layer(from)?, self.ids_in_engine(from)?];
        // Up to here, every place has said all that it has.
        let upto = places.iter().filter_map(|place| place.upto).min();
        let mut found: Vec<_> = places.into_iter().flat_map(|place| place.found).collect();
        found.retain(|(id, _)| upto.is_none_or(|upto| id.to_bits() <= upto));
        found.sort_unstable();
        let mut out = Writer::appending(Vec::with_capacity(16 * found.len()));
        found.into_iter().for_each(|(id, digest)| encode_pair(&mut out, id, digest));
        Ok(BackupPage { bytes: out.into_bytes(), is_last: upto.is_none() })
    }

    #[cfg(test)]
    pub(super) fn is_on_layer(&self) -> bool {
        self.layers.base.adopted.is_some()
    }

    fn memory(&self) -> &[(RowId, RowKey, Arc<Row>)] {
        self.memory.get_or_init(|| {
            let mut index = Vec::new();
            let mut add =
                |key: &RowKey, row: &Arc<Row>| index.push((self.digest_key.id(key), key.clone(), Arc::clone(row)));
            self.layers.visit_memory(&mut add);
            index.sort_unstable_by(|(a, a_key, _), (b, b_key, _)| (a, a_key).cmp(&(b, b_key)));
            index
        })
    }

    fn ids_in_memory(&self, from: u64) -> Ids {
        let memory = self.memory();
        let start = memory.partition_point(|(id, ..)| id.to_bits() < from);
        let mut ids = Ids::default();
        for (id, key, row) in &memory[start..] {
            let digest = self.digest_key.digest(key, row);
            if !ids.note(*id, (!row.is_empty()).then_some(digest)) {
                break;
            }
        }
        ids
    }

    fn ids_in_layer(&self, from: u64) -> Result<Ids, ReadError> {
        let mut ids = Ids::default();
        let base = &self.layers.base;
        let Some(layer) = base.adopted else { return Ok(ids) };
        for entry in base.engine.aside_ids_from(&base.snapshot, layer, &from.to_be_bytes()) {
            let (id, key, sums) = entry?;
            let shown = Some(sums.after).filter(|after| *after != RowDigest::ABSENT && !self.layers.is_in_memory(&key));
            if !ids.note(id, shown.map(|digest| self.layers.unknown_digest(&key).unwrap_or(digest))) {
                break;
            }
        }
        Ok(ids)
    }

    fn ids_in_engine(&self, from: u64) -> Result<Ids, ReadError> {
        let mut ids = Ids::default();
        let base = &self.layers.base;
        let range = (Bound::Included(from.to_be_bytes().to_vec()), Bound::Unbounded);
        for entry in base.snapshot.range::<Vec<u8>, _>(&base.engine.ids, range) {
            let (entry, digest) = entry.into_inner().map_err(|error| failed(&error))?;
            let unreadable = || ReadError::Failed("the index by id has an entry that does not read".into());
            let (id, key) = entry.split_first_chunk::<ID_BYTES>().ok_or_else(unreadable)?;
            let id = RowId::from_bits(u64::from_be_bytes(*id)).ok_or_else(unreadable)?;
            let digest = digest.as_ref().try_into().ok().map(u64::from_be_bytes).and_then(RowDigest::from_bits);
            let digest = digest.ok_or_else(unreadable)?;
            let hides = base.adopted.map_or(Ok(None), |layer| base.engine.aside_sums(&base.snapshot, layer, key))?;
            let is_shown = hides.is_none() && !self.layers.is_in_memory(key);
            let digest = self.layers.unknown_digest(key).unwrap_or(digest);
            if !ids.note(id, is_shown.then_some(digest)) {
                break;
            }
        }
        Ok(ids)
    }
}

/// Ids that one place has, as many as are read at once.
#[derive(Debug, Default)]
struct Ids {
    found: Vec<(RowId, RowDigest)>,
    read: usize,
    /// Where it was left; `None` at its end.
    upto: Option<u64>,
}

impl Ids {
    /// Takes an entry in, of which another place may say more; `false` when that is enough. Two entries may have one id, so the last
    /// one that is read counts for nothing.
    fn note(&mut self, id: RowId, digest: Option<RowDigest>) -> bool {
        self.read += 1;
        self.found.extend(digest.map(|digest| (id, digest)));
        if self.read >= PAGE_IDS {
            self.upto = Some(id.to_bits().saturating_sub(1));
            return false;
        }
        true
    }
}

/// A page of rows in the making.
#[derive(Debug, Default)]
struct Page {
    out: Writer,
}

impl Page {
    /// Adds a row; `false` when that is enough, or there is no room for this one.
    fn add(&mut self, digest_key: &DigestKey, key: &RowKey, row: &Row) -> bool {
        let before = self.out.as_bytes().len();
        if before > 0 && before + row.memory_bytes() > PAGE_BYTES_MAX {
            return false;
        }
        self.put(digest_key, key, row) < PAGE_BYTES
    }

    /// Adds a row, and gives the bytes that there are now.
    fn put(&mut self, digest_key: &DigestKey, key: &RowKey, row: &Row) -> usize {
        let mut bytes = Writer::new();
        row.encode(&mut bytes);
        let (key, row) = (key.as_bytes(), bytes.as_bytes());
        encode_row(&mut self.out, digest_key.id_of_bytes(key), digest_key.digest_of_bytes(key, row), key, row);
        self.out.as_bytes().len()
    }
}
