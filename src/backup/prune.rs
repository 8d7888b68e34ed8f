//! Which backups go.
//!
//! **What always holds.** R1: what a backup that stays needs, stays. R2: a backup goes before the one that it goes on from, so that
//! whatever cuts this off, every backup that is left can be restored. R3: what has no manifest goes only when it is so old that nobody
//! still writes it.

use super::chain::{Catalogue, place};
use super::destination::{Destination, Place};
use super::id::BackupId;
use crate::exit::Failure;
use std::collections::{BTreeMap, BTreeSet};

/// How old an unfinished one must be.
const UNFINISHED_MS: u64 = 24 * 3_600 * 1_000;

/// What stays.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Keep {
    /// The newest of each node, so many.
    Newest(usize),
    /// Those taken since then, in milliseconds since 1970, and the newest of each node.
    Since(u64),
}

/// What goes, in the order in which it goes. R2
pub(crate) fn doomed(all: &Catalogue, keep: Keep, now_ms: u64) -> Vec<Place> {
    let mut kept: BTreeSet<&BackupId> = BTreeSet::new();
    let mut of_node: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for manifest in all.whole.values().rev() {
        let newer = of_node.entry((&manifest.cluster, &manifest.node)).or_default();
        let stays = match keep {
            Keep::Newest(count) => *newer < count,
            Keep::Since(since) => manifest.at_ms >= since || *newer == 0,
        };
        *newer += 1;
        if stays {
            // R1; one whose chain is broken is kept for people to look at.
            kept.insert(&manifest.id);
            kept.extend(all.chain(&manifest.id).into_iter().flatten().map(|manifest| &manifest.id));
        }
    }
    let old = BackupId::at(now_ms.saturating_sub(UNFINISHED_MS));
    let unfinished = all.unfinished.iter().filter(|place| place.id < old).cloned(); // R3
    all.whole.values().rev().filter(|manifest| !kept.contains(&manifest.id)).map(place).chain(unfinished).collect()
}

/// Removes them.
pub(crate) async fn remove(from: &Destination, doomed: &[Place]) -> Result<(), Failure> {
    for place in doomed {
        from.remove(place).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::manifest::tests::manifest;
    use super::*;

    const DAY: u64 = 24 * 3_600 * 1_000;

    /// Backups a day apart, each going on from the one of this number.
    fn catalogue(parents: &[Option<usize>]) -> (Catalogue, Vec<BackupId>) {
        let ids: Vec<_> = (0..parents.len() as u64).map(|n| BackupId::at((100 + n) * DAY)).collect();
        let mut all = Catalogue::default();
        for (n, parent) in parents.iter().enumerate() {
            let mut one = manifest();
            let before = parent.map(|parent| &all.whole[&ids[parent]]);
            (one.id, one.at_ms, one.depth) =
                (ids[n].clone(), (100 + n as u64) * DAY, before.map_or(0, |of| of.depth + 1));
            one.parent = parent.map(|parent| ids[parent].clone());
            all.whole.insert(ids[n].clone(), one);
        }
        (all, ids)
    }

    fn names(doomed: &[Place], ids: &[BackupId]) -> Vec<usize> {
        doomed.iter().filter_map(|place| ids.iter().position(|id| *id == place.id)).collect()
    }

    #[test]
    fn what_a_kept_backup_goes_on_from_stays_and_children_go_first() {
        let (all, ids) = catalogue(&[None, Some(0), Some(1), None, Some(3)]);
        assert_eq!(names(&doomed(&all, Keep::Newest(1), 200 * DAY), &ids), [2, 1, 0]);
        assert_eq!(names(&doomed(&all, Keep::Newest(3), 200 * DAY), &ids), [0_usize; 0]);
        assert_eq!(names(&doomed(&all, Keep::Since(102 * DAY), 200 * DAY), &ids), [0_usize; 0]);
        assert_eq!(names(&doomed(&all, Keep::Since(103 * DAY), 200 * DAY), &ids), [2, 1, 0]);
        assert_eq!(names(&doomed(&all, Keep::Since(150 * DAY), 200 * DAY), &ids), [2, 1, 0], "the newest stays");
    }

    #[test]
    fn what_somebody_may_still_be_writing_stays() {
        let (mut all, mut ids) = catalogue(&[None]);
        ids.extend([BackupId::at(198 * DAY), BackupId::at(200 * DAY - 1_000)]);
        all.unfinished = ids[1..].iter().map(|id| Place { id: id.clone(), node: "n1".into() }).collect();
        assert_eq!(names(&doomed(&all, Keep::Newest(1), 200 * DAY), &ids), [1]);
    }
}
