//! Rows of the engine in order, with what an adopted layer makes of them.
//!
//! **What always holds.** R1: a damaged row comes at its place with its key, like any other; only who reads it gets the error. So a
//! scan that goes on behind it has passed over nothing else.

use super::aside_rows::AdoptedRows;
use super::engine::{damaged, decode_row, failed, is_damage, open};
use super::suspects::Suspects;
use atoll_crdt::{ReadError, Row, RowKey};
use atoll_replication::sketch::{DigestKey, RowDigest};
use std::cmp::Ordering;
use std::iter::Peekable;
use std::sync::Arc;

/// A row as it is stored, decoded only if it is wanted.
pub(super) struct StoredRow {
    key: fjall::Slice,
    value: Stored,
}

enum Stored {
    Bytes(fjall::Slice),
    /// Of a layer. R1
    Row(Result<Arc<Row>, ReadError>),
}

impl StoredRow {
    /// The bytes of its key.
    pub(super) fn key_bytes(&self) -> &[u8] {
        &self.key
    }

    /// A row of a layer.
    pub(super) fn of_layer(key: Vec<u8>, row: Result<Arc<Row>, ReadError>) -> Self {
        Self { key: key.into(), value: Stored::Row(row) }
    }

    /// Key and row.
    pub(super) fn decode(&self) -> Result<(RowKey, Arc<Row>), ReadError> {
        let key = RowKey::parse(&self.key).map_err(|error| damaged(&self.key, &error.to_string()))?;
        let row = match &self.value {
            Stored::Bytes(bytes) => decode_row(&self.key, bytes)?,
            Stored::Row(row) => row.clone()?,
        };
        Ok((key, row))
    }

    /// Its digest, unless it is damaged. Bytes whose checksum matches read as a row, or were no row when they were written.
    pub(super) fn digest(&self, digest_key: &DigestKey) -> Option<RowDigest> {
        let (key, row) = self.decode().ok()?;
        match &self.value {
            Stored::Bytes(bytes) => Some(digest_key.digest_of_bytes(&self.key, open(&self.key, bytes).ok()?)),
            Stored::Row(_) => Some(digest_key.digest(&key, &row)),
        }
    }

    /// Whether it is known to hold nothing.
    fn is_empty(&self) -> bool {
        matches!(&self.value, Stored::Row(Ok(row)) if row.is_empty())
    }
}

/// Rows of a snapshot, in order.
pub(super) struct StoredRows {
    rows: fjall::Iter,
    /// The next of them, while there is a layer.
    head: Option<StoredRow>,
    adopted: Option<Peekable<AdoptedRows>>,
    suspects: Arc<Suspects>,
}

impl StoredRows {
    /// Rows and those of a layer, each from the same key on. E5
    pub(super) fn new(
        rows: fjall::Iter,
        adopted: Option<AdoptedRows>,
        suspects: Arc<Suspects>,
    ) -> Result<Self, ReadError> {
        let mut stored = Self { rows, head: None, adopted: adopted.map(Iterator::peekable), suspects };
        if stored.adopted.is_some() {
            stored.head = stored.next_moved()?;
        }
        Ok(stored)
    }

    fn next_moved(&mut self) -> Result<Option<StoredRow>, ReadError> {
        let Some(guard) = self.rows.next() else { return Ok(None) };
        let (key, value) = guard.into_inner().map_err(|error| {
            if is_damage(&error) {
                self.suspects.note_block();
            }
            failed(&error)
        })?;
        Ok(Some(StoredRow { key, value: Stored::Bytes(value) }))
    }

    /// The next row that holds something: the layer's where it has one. E5
    fn next_row(&mut self) -> Result<Option<StoredRow>, ReadError> {
        loop {
            let Some(adopted) = &mut self.adopted else { return self.next_moved() };
            let order = match (adopted.peek(), &self.head) {
                (None, _) => Ordering::Greater,
                (Some(Ok(row)), Some(head)) => row.key.cmp(&head.key),
                (Some(_), _) => Ordering::Less,
            };
            let of_layer = if order.is_le() { adopted.next().transpose()? } else { None };
            let mut moved = None;
            if order.is_ge() {
                let next = self.next_moved()?;
                moved = std::mem::replace(&mut self.head, next);
            }
            match of_layer {
                None => return Ok(moved),
                Some(row) if !row.is_empty() => return Ok(Some(row)),
                Some(_) => {}
            }
        }
    }
}

impl Iterator for StoredRows {
    type Item = Result<StoredRow, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_row().transpose()
    }
}
