//! The hot row cache: rows of the row engine, decoded, so that a read-modify-write of a hot row reads no disk.
//!
//! **What always holds.** H1: only rows of the engine layer are kept, never rows of a layer above it. H2: an entry says
//! from which *generation* of the engine on it holds (a checkpoint ends a generation), and it holds up to the current one.
//! H3: a reader at generation `g` uses an entry only if it holds from `g` or before: a view that is older than the row's
//! last change reads the engine itself. H4: a reader puts a row in only while its generation is the current one, and a
//! checkpoint corrects what it changed before any reader is at the new generation; so what is put in late, from an old
//! view, is refused.
//!
//! Rows that are not there are remembered apart, the last few thousand: a new member of a set is looked for three times
//! while it is added, and never again.

use super::layer::Layer;
use atoll_crdt::{Row, RowKey};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::{Arc, PoisonError, RwLock};

/// Rows that are remembered not to be there.
const ABSENT_MAX: usize = 4_096;
/// What an entry takes beside key and row.
const OVERHEAD_BYTES: usize = 96;
/// For sizing the cache's tables before anything is in it.
const TYPICAL_ENTRY_BYTES: usize = 512;

#[derive(Debug, Clone)]
struct Entry {
    /// H2
    from: u64,
    row: Arc<Row>,
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<RowKey, Entry> for ByBytes {
    fn weight(&self, key: &RowKey, entry: &Entry) -> u64 {
        (key.as_bytes().len() + entry.row.memory_bytes() + OVERHEAD_BYTES) as u64
    }
}

/// The cache.
#[derive(Debug)]
pub(super) struct RowCache {
    rows: Cache<RowKey, Entry, ByBytes>,
    /// From which generation on they are not there. H2
    absent: Cache<RowKey, u64>,
    /// The current generation. Held for writing while a checkpoint corrects entries.
    generation: RwLock<u64>,
}

impl RowCache {
    /// An empty cache at generation 0.
    pub(super) fn new(bytes_max: usize) -> Self {
        let items = bytes_max / TYPICAL_ENTRY_BYTES;
        Self {
            rows: Cache::with_weighter(items.max(16), bytes_max as u64, ByBytes),
            absent: Cache::new(ABSENT_MAX),
            generation: RwLock::new(0),
        }
    }

    /// What the cache knows of a row at `generation`. H3
    pub(super) fn get(&self, key: &RowKey, generation: u64) -> Option<Option<Arc<Row>>> {
        if let Some(entry) = self.rows.get(key).filter(|entry| entry.from <= generation) {
            return Some(Some(entry.row));
        }
        self.absent.get(key).filter(|from| *from <= generation).map(|_| None)
    }

    /// Keeps what a reader at `generation` found in the engine. H4
    pub(super) fn put(&self, key: &RowKey, generation: u64, row: Option<&Arc<Row>>) {
        // While a checkpoint corrects entries, nobody waits for it: the row is just not kept.
        let Ok(current) = self.generation.try_read() else { return };
        if *current != generation {
            return;
        }
        match row {
            Some(row) => self.rows.insert(key.clone(), Entry { from: generation, row: Arc::clone(row) }),
            None => self.absent.insert(key.clone(), generation),
        }
    }

    /// The engine has taken in `layer`: corrects what changed, and gives the new generation. H4
    pub(super) fn advance(&self, layer: &Layer) -> u64 {
        let mut generation = self.generation.write().unwrap_or_else(PoisonError::into_inner);
        let next = *generation + 1;
        for (key, row) in &layer.rows {
            if row.is_empty() {
                self.rows.remove(key);
            } else {
                self.absent.remove(key);
                // Only what is kept already: a checkpoint must not wash out what is hot.
                let _ = self.rows.replace(key.clone(), Entry { from: next, row: Arc::clone(row) }, false);
            }
        }
        for key in layer.unknown.keys() {
            self.rows.remove(key);
            self.absent.remove(key);
        }
        *generation = next;
        next
    }

    /// Bytes that are kept.
    pub(super) fn bytes(&self) -> u64 {
        self.rows.weight()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_crdt::{ActorId, CollectionKey, DataType, Dot, Payload};

    fn key(name: &str) -> RowKey {
        CollectionKey::new("shop", DataType::Flag, name).expect("a key").row()
    }

    fn row(seq: u64) -> Arc<Row> {
        let mut row = Row::empty();
        row.put(Dot::new(ActorId::new(1), seq), Payload::Flag(true));
        Arc::new(row)
    }

    fn changed(rows: &[(&RowKey, Arc<Row>)]) -> Layer {
        let mut layer = Layer::default();
        for (key, row) in rows {
            layer.put((*key).clone(), Arc::clone(row));
        }
        layer
    }

    #[test]
    fn a_checkpoint_corrects_what_it_changed_and_leaves_the_rest() {
        let (cache, a, b, c) = (RowCache::new(1 << 20), key("a"), key("b"), key("c"));
        cache.put(&a, 0, Some(&row(1)));
        cache.put(&b, 0, Some(&row(1)));
        cache.put(&c, 0, None);
        assert_eq!(cache.advance(&changed(&[(&a, row(2)), (&c, row(3)), (&key("d"), row(4))])), 1);
        assert_eq!(cache.get(&a, 1), Some(Some(row(2))));
        assert_eq!(cache.get(&b, 1), Some(Some(row(1))));
        assert_eq!(cache.get(&c, 1), None, "no longer absent");
        assert_eq!(cache.get(&key("d"), 1), None, "not hot, so not kept");
        assert_eq!(cache.advance(&changed(&[(&a, Arc::new(Row::empty()))])), 2);
        assert_eq!(cache.get(&a, 2), None, "deleted");
        cache.put(&a, 2, None);
        assert_eq!((cache.get(&a, 2), cache.get(&a, 1)), (Some(None), None), "not there, since then");
    }

    #[test]
    fn an_older_view_never_sees_a_newer_row() {
        let (cache, a, b) = (RowCache::new(1 << 20), key("a"), key("b"));
        cache.put(&a, 0, Some(&row(1)));
        cache.put(&b, 0, Some(&row(1)));
        cache.advance(&changed(&[(&a, row(2))]));
        assert_eq!(cache.get(&a, 0), None);
        assert_eq!(cache.get(&b, 0), Some(Some(row(1))));
    }

    #[test]
    fn what_an_older_view_read_is_not_kept_for_newer_ones() {
        let (cache, a) = (RowCache::new(1 << 20), key("a"));
        // A view at generation 0 has read row 1 from the engine; before it keeps it, a checkpoint writes row 2.
        cache.advance(&changed(&[(&a, row(2))]));
        cache.put(&a, 0, Some(&row(1)));
        assert_eq!(cache.get(&a, 1), None);
        cache.put(&a, 1, Some(&row(2)));
        assert_eq!(cache.get(&a, 1), Some(Some(row(2))));
    }

    #[test]
    fn it_holds_no_more_than_its_bytes() {
        let cache = RowCache::new(64 << 10);
        for n in 0..10_000 {
            cache.put(&key(&n.to_string()), 0, Some(&row(n)));
        }
        assert!(cache.bytes() <= 64 << 10, "{}", cache.bytes());
    }
}
