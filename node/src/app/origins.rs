//! Which region an actor writes from: registers of the `_system` namespace, which every process writes at its start.

use crate::store::View;
use atoll_crdt::{ActorId, CollectionKey, DataType, RowSource as _, registers};
use atoll_replication::RegionName;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// Actors that are remembered; beyond it all are forgotten and looked up again.
const REMEMBERED_MAX: usize = 4_096;

/// What is told of an actor that nothing is known of.
const UNKNOWN: &str = "unknown";

#[derive(Deserialize)]
struct Origin {
    region: String,
}

/// What is known, remembered: an actor never moves.
#[derive(Debug, Default)]
pub(super) struct Origins {
    known: RwLock<HashMap<ActorId, String>>,
}

impl Origins {
    /// The region that `actor` writes from.
    pub(super) fn region(&self, actor: ActorId, view: &View) -> String {
        if let Some(region) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&actor) {
            return region.clone();
        }
        let Some(region) = look_up(actor, view) else { return UNKNOWN.to_owned() };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(actor, region.clone());
        region
    }
}

fn look_up(actor: ActorId, view: &View) -> Option<String> {
    let key = CollectionKey::new("_system", DataType::Register, &format!("actors/{actor}")).ok()?;
    let row = view.row(&key.row()).ok()??;
    let (_, _, bytes) = registers::winner(&row)?;
    let origin: Origin = serde_json::from_slice(bytes).ok()?;
    RegionName::new(&origin.region).ok().map(|region| region.as_str().to_owned())
}
