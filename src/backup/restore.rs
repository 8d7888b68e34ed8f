//! Making a data directory of a backup.
//!
//! **What always holds.** Every object is checked before its rows are written; the directory is opened by no node before all of them are
//! there, and is empty again if that does not come to pass.

use super::chain::{Catalogue, entries};
use super::destination::Destination;
use super::id::BackupId;
use super::manifest::Manifest;
use super::part::{self, Kind};
use super::progress::Progress;
use crate::exit::{Exit, Failure};
use atoll_node::store::{BackupRow, Restore, RestoreError};
use std::path::Path;

/// What was restored.
pub(crate) struct Restored {
    pub(crate) manifest: Manifest,
    pub(crate) rows: u64,
    pub(crate) cluster: String,
}

/// Restores a backup, the newest if none is named, for a cluster of another name if one is.
pub(crate) async fn restore(
    from: &Destination,
    wanted: Option<&BackupId>,
    dir: &Path,
    cluster: Option<&str>,
) -> Result<Restored, Failure> {
    let all = Catalogue::read(from, None).await?;
    let id = wanted.or_else(|| all.whole.keys().next_back());
    let Some(id) = id else { return Err(Failure::not_found(format_args!("there is no backup in {}", from.name()))) };
    let chain = all.chain(id).map_err(|why| Failure::new(Exit::No, why))?;
    let Some(newest) = chain.last().copied() else { return Err(Failure::not_found(id)) };
    if cluster.is_some_and(|cluster| cluster == newest.cluster) {
        let what = "--new-cluster names the cluster that was backed up; a cluster that is to forget what came later needs another name";
        return Err(Failure::usage(what));
    }
    let cluster = cluster.unwrap_or(&newest.cluster).to_owned();
    let rows = tokio::select! {
        outcome = fill(from, &chain, newest, dir, &cluster) => outcome?,
        _ = tokio::signal::ctrl_c() => return Err(Failure::new(Exit::CannotStart, "interrupted; nothing was restored")),
    };
    Ok(Restored { manifest: newest.clone(), rows, cluster })
}

async fn fill(
    from: &Destination,
    chain: &[&Manifest],
    newest: &Manifest,
    dir: &Path,
    cluster: &str,
) -> Result<u64, Failure> {
    let origin = newest.origin().map_err(|error| Failure::new(Exit::No, error.to_string()))?;
    let mut restore = Restore::begin(dir).map_err(|error| failed(&error))?;
    let progress = Progress::new(chain.iter().map(|manifest| manifest.changed + manifest.gone).sum());
    for manifest in chain {
        let mut group: Vec<Vec<u8>> = Vec::new();
        for n in 0..manifest.row_parts.len() {
            let entries = entries(from, manifest, Kind::Rows, n).await?;
            if manifest.parent.is_none() {
                for row in part::rows(&entries) {
                    restore.put(&row.map_err(|error| unreadable(manifest, &error))?).map_err(|error| failed(&error))?;
                }
            } else {
                replace(&mut restore, manifest, &entries, &mut group)?;
            }
            progress.done(manifest.row_parts[n].entries, "restored");
        }
        end_group(&mut restore, manifest, &mut group)?;
        restore.settle().map_err(|error| failed(&error))?;
    }
    restore.finish(&origin, cluster).map_err(|error| failed(&error))
}

/// Replaces what is there by the rows of an increment; the last id may go on in the next object and is left in `group`.
fn replace(
    restore: &mut Restore,
    manifest: &Manifest,
    entries: &[u8],
    group: &mut Vec<Vec<u8>>,
) -> Result<(), Failure> {
    for row in part::rows(entries) {
        let row = row.map_err(|error| unreadable(manifest, &error))?;
        let is_same = match group.first() {
            Some(first) => decoded(first).is_some_and(|first| first.id == row.id),
            None => true,
        };
        if !is_same {
            end_group(restore, manifest, group)?;
        }
        let mut bytes = atoll_crdt::codec::Writer::new();
        row.encode(&mut bytes);
        group.push(bytes.into_bytes());
    }
    Ok(())
}

fn decoded(bytes: &[u8]) -> Option<BackupRow<'_>> {
    BackupRow::decode(&mut atoll_crdt::codec::Reader::new(bytes)).ok()
}

fn end_group(restore: &mut Restore, manifest: &Manifest, group: &mut Vec<Vec<u8>>) -> Result<(), Failure> {
    let group = std::mem::take(group);
    let rows: Option<Vec<BackupRow<'_>>> = group.iter().map(|bytes| decoded(bytes)).collect();
    let rows = rows.ok_or_else(|| unreadable(manifest, &"a row"))?;
    let Some(first) = rows.first() else { return Ok(()) };
    restore.replace(first.id, &rows).map_err(|error| failed(&error))
}

fn unreadable(manifest: &Manifest, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::No, format!("the backup {} has a row that does not read: {error}", manifest.id))
}

fn failed(error: &RestoreError) -> Failure {
    let exit = match error {
        RestoreError::NotEmpty { .. } => Exit::Refused,
        RestoreError::Sum { .. } => Exit::No,
        _ => Exit::CannotStart,
    };
    Failure::new(exit, error.to_string())
}
