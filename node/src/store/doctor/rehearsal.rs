//! A start, on a likeness: the store is opened as a node opens it, and left again.

use crate::store::error::OpenError;
use crate::store::{NodeStore, StoreConfig};
use atoll_crdt::RowKey;
use atoll_replication::{Recovered, Store as _};
use std::sync::{Arc, Mutex, PoisonError};

/// What a start came to.
pub(super) struct Started {
    /// Rows that are not known, in order.
    pub(super) holes: Vec<RowKey>,
    /// Rows that hold something, the holes too.
    pub(super) rows: u64,
    pub(super) recovered: Recovered,
    /// Why it would have ended at once.
    pub(super) failure: Option<String>,
}

/// Opens a store; `config.dir` is the likeness.
pub(super) fn start(mut config: StoreConfig) -> Result<Started, OpenError> {
    // Every row is read once anyway, and nobody waits for peers here.
    config.scrub_every = None;
    let failure = Arc::new(Mutex::new(None));
    let told = Arc::clone(&failure);
    let mut opened = NodeStore::open(
        config,
        |_| {},
        move |failure| *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure.to_string()),
    )?;
    let holes = opened.store.holes().keys().cloned().collect();
    let (rows, recovered) = (opened.views.current().rows(), opened.recovered.clone());
    drop(opened);
    let failure = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(Started { holes, rows, recovered, failure })
}
