//! Which keys a namespace holds, a page at a time.
//!
//! **How it goes.** Rows are visited in order, type by type. A collection is listed at its first row that shows anything;
//! its other rows are skipped by seeking past all that begin with its bytes.
//!
//! **What always holds.** K1: what is listed is what a read would find: a counter that holds only the marker of its delete
//! is not, nor is a map or set without a visible row. K2: a page visits at most [`VISITS_MAX`] rows and holds at most one
//! answer's bytes; a page that ends early for that says where the next begins.

use super::reading::ANSWER_BYTES_MAX;
use crate::store::View;
use atoll_client::api::Namespace;
use atoll_crdt::{CollectionKey, DataType, KeyError, ReadError, Row, RowKey, RowSource as _, counters, maps};
use std::sync::Arc;

/// Rows that one page visits: a tenth of a second's work.
const VISITS_MAX: usize = 100_000;
/// Rows of one collection that are stepped over before a seek is cheaper.
const STEPS_MAX: usize = 8;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct KeysQuery {
    /// In which namespace.
    pub namespace: Namespace,
    /// Of one type only.
    pub data_type: Option<DataType>,
    /// Those that begin with this.
    pub prefix: String,
    /// Where the page before this one ended.
    pub after: Option<Cursor>,
    /// At most so many.
    pub limit: usize,
}

/// A page of keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeysPage {
    /// In order of type and key.
    pub keys: Vec<(DataType, String)>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<Cursor>,
}

/// Where a page of keys begins: a type, and bytes within its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    data_type: DataType,
    from: Vec<u8>,
}

impl Cursor {
    /// As bytes that a client carries.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let at = DataType::ALL.iter().position(|known| *known == self.data_type).unwrap_or_default();
        let mut bytes = vec![at as u8];
        bytes.extend_from_slice(&self.from);
        bytes
    }

    /// What [`Self::to_bytes`] wrote. Other bytes read as some place too, and no place is outside the namespace.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (at, from) = bytes.split_first()?;
        Some(Self { data_type: *DataType::ALL.get(usize::from(*at))?, from: from.to_vec() })
    }
}

/// One page.
///
/// # Errors
/// The storage failed.
pub(super) fn keys(view: &View, query: &KeysQuery) -> Result<KeysPage, ReadError> {
    let mut page = Page { limit: query.limit, ..Page::default() };
    for data_type in DataType::ALL {
        if query.data_type.is_some_and(|only| only != data_type) {
            continue;
        }
        let rows = Rows::of(query, data_type);
        let mut from = rows.prefix.clone();
        match &query.after {
            Some(after) if type_index(after.data_type) > type_index(data_type) => continue,
            Some(after) if after.data_type == data_type => from = from.max(rows.absolute(&after.from)),
            _ => {}
        }
        if let Some(next) = page.fill(view, &rows, from)? {
            page.next = Some(Cursor { data_type, from: rows.relative(&next) });
            break;
        }
    }
    Ok(KeysPage { keys: page.keys, next: page.next })
}

fn type_index(data_type: DataType) -> usize {
    DataType::ALL.iter().position(|known| *known == data_type).unwrap_or_default()
}

/// The rows of one type whose keys begin as asked.
struct Rows {
    data_type: DataType,
    namespace_bytes: usize,
    prefix: Vec<u8>,
}

impl Rows {
    fn of(query: &KeysQuery, data_type: DataType) -> Self {
        let namespace = query.namespace.as_str();
        let known = |result: Result<Vec<u8>, KeyError>| result.expect("a namespace is checked before it exists");
        let namespace_bytes = known(CollectionKey::namespace_prefix(namespace, data_type)).len();
        let prefix = known(CollectionKey::listing_prefix(namespace, data_type, &query.prefix));
        Self { data_type, namespace_bytes, prefix }
    }

    fn absolute(&self, from: &[u8]) -> Vec<u8> {
        let mut bytes = self.prefix[..self.namespace_bytes].to_vec();
        bytes.extend_from_slice(from);
        bytes
    }

    fn relative(&self, from: &[u8]) -> Vec<u8> {
        from.get(self.namespace_bytes..).unwrap_or_default().to_vec()
    }
}

/// A page that is being filled.
#[derive(Default)]
struct Page {
    keys: Vec<(DataType, String)>,
    next: Option<Cursor>,
    limit: usize,
    bytes: usize,
    visits: usize,
}

impl Page {
    /// Lists from `from` on; tells where to go on when the page is full.
    fn fill(&mut self, view: &View, rows: &Rows, mut from: Vec<u8>) -> Result<Option<Vec<u8>>, ReadError> {
        loop {
            // The collection that was listed last, and how many of its rows were stepped over.
            let mut listed: Option<(CollectionKey, usize)> = None;
            let mut end = End::Rows;
            view.visit(&rows.prefix, &from, &mut |key, row| {
                end = self.visit(rows.data_type, key, row, &mut listed);
                matches!(end, End::Rows)
            })?;
            match end {
                End::Rows => return Ok(None),
                End::Full(next) => return Ok(Some(next)),
                End::Seek(next) => from = next,
            }
        }
    }

    fn visit(
        &mut self,
        data_type: DataType,
        key: &RowKey,
        row: &Arc<Row>,
        listed: &mut Option<(CollectionKey, usize)>,
    ) -> End {
        self.visits += 1;
        if let Some((collection, steps)) = listed
            && key.as_bytes().starts_with(collection.as_bytes())
        {
            *steps += 1;
            return if *steps > STEPS_MAX { End::Seek(after_collection(collection)) } else { End::Rows };
        }
        if self.visits > VISITS_MAX {
            return End::Full(key.as_bytes().to_vec());
        }
        if !is_visible(data_type, key, row) {
            return End::Rows;
        }
        let name = key.parts().2;
        self.bytes += json_bytes(&name) + 40;
        if self.keys.len() >= self.limit || self.bytes > ANSWER_BYTES_MAX {
            return End::Full(key.as_bytes().to_vec());
        }
        self.keys.push((data_type, name));
        *listed = Some((key.collection(), 0));
        End::Rows
    }
}

/// Why a walk stopped.
enum End {
    /// It has not, or there are no more rows.
    Rows,
    /// The page is full; the next begins here.
    Full(Vec<u8>),
    /// Going on from here is cheaper.
    Seek(Vec<u8>),
}

/// The first bytes after every row of a collection: its bytes end in 00 01, and nothing else begins with 00 02.
fn after_collection(collection: &CollectionKey) -> Vec<u8> {
    let mut bytes = collection.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        *last += 1;
    }
    bytes
}

/// Whether a row shows anything. K1
fn is_visible(data_type: DataType, key: &RowKey, row: &Row) -> bool {
    match data_type {
        DataType::Counter => counters::value(row).is_some(),
        DataType::Map => key.leaf_kind().is_some_and(|kind| maps::is_visible(kind, row)),
        DataType::Register | DataType::Set | DataType::Flag => !row.is_empty(),
    }
}

/// Bytes of a text in JSON, at least.
pub(super) fn json_bytes(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..=0x1f => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum::<usize>() + 3
}
