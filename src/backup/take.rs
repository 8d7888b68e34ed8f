//! Taking a backup of one running node.
//!
//! **How it goes.** The node keeps a state; its pages are read, and stored as objects while the next page is not asked for yet. A full
//! backup reads all rows by key, then all ids. One that goes on from another reads the ids beside those of its parent, and asks for the
//! rows of ids that differ. When the ids add up to the node's root, the manifest is written, and the node is told.
//!
//! **What always holds.** T1: the manifest is written after everything else, and only if rows and ids add up to what the node said.
//! T2: what is not finished is removed as far as that is allowed, and is no backup in any case. T3: no more than the rate is read.

use super::chain::{Catalogue, Ids, place};
use super::destination::{Destination, Place};
use super::id::BackupId;
use super::manifest::{CHAIN_MAX, Manifest, Part, Process};
use super::part::{self, Kind, PART_BYTES};
use super::progress::Progress;
use crate::exit::{Exit, Failure};
use atoll_client::Admin;
use atoll_client::api::{BackupAsk, BackupBegun};
use atoll_crdt::codec::Writer;
use atoll_node::store::{BackupRow, cell, encode_pair};
use atoll_replication::sketch::{Cell, RowDigest, RowId};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Ids whose rows are asked for at once.
const IDS_AT_ONCE: usize = 2_048;

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// A full backup, whatever there is.
    pub(crate) full: bool,
    /// Bytes read of the node in a second.
    pub(crate) rate: Option<u64>,
}

/// A backup that was taken.
pub(crate) struct Taken {
    pub(crate) manifest: Manifest,
    pub(crate) seconds: f64,
}

/// Takes one.
pub(crate) async fn take(admin: &Admin, to: &Destination, wanted: Wanted) -> Result<Taken, Failure> {
    let began = Instant::now();
    let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let begun = admin.begin_backup().await.map_err(crate::commands::admin_failure)?;
    let place = Place { id: BackupId::at(at_ms), node: begun.node.clone() };
    let work = async {
        let parent = if wanted.full { None } else { parent(to, &begun).await? };
        let manifest = empty(&begun, place.id.clone(), at_ms, parent.as_ref())?;
        let mut taking = Taking::new(admin, &begun, to, &place, manifest, wanted.rate);
        match &parent {
            None => taking.everything().await?,
            Some(parent) => taking.changes(parent).await?,
        }
        taking.finish().await
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::CannotStart, "interrupted; no backup was made")),
    };
    let session = begun.session.as_str();
    match outcome {
        Ok(manifest) => {
            // The backup stands, whether the node hears of it or not.
            let _ = admin.ask_backup(session, &BackupAsk::Done).await;
            Ok(Taken { manifest, seconds: began.elapsed().as_secs_f64() })
        }
        Err(failure) => {
            // T2: whoever may not delete leaves objects without a manifest.
            let _ = to.remove(&place).await;
            let _ = admin.ask_backup(session, &BackupAsk::Abandon).await;
            Err(failure)
        }
    }
}

/// The newest backup that this one can go on from.
async fn parent(to: &Destination, begun: &BackupBegun) -> Result<Option<Manifest>, Failure> {
    let all = Catalogue::read(to, Some(&begun.node)).await?;
    let newest = all.whole.values().rev().find(|manifest| {
        let is_same = manifest.cluster == begun.cluster && manifest.digests == begun.digests;
        is_same && manifest.depth + 1 < CHAIN_MAX && all.chain(&manifest.id).is_ok()
    });
    Ok(newest.cloned())
}

fn empty(begun: &BackupBegun, id: BackupId, at_ms: u64, parent: Option<&Manifest>) -> Result<Manifest, Failure> {
    if parent.is_some_and(|parent| parent.id >= id) {
        let what = "the newest backup is from the future; set this machine's clock right, or take one with --full";
        return Err(Failure::new(Exit::CannotStart, what));
    }
    let process = |start: &atoll_client::api::BackupStart| Process {
        actor: start.actor.clone(),
        ceiling: start.ceiling.clone(),
        founded_ms: start.founded_ms,
    };
    Ok(Manifest {
        atoll_backup: Manifest::VERSION,
        id,
        parent: parent.map(|parent| parent.id.clone()),
        depth: parent.map_or(0, |parent| parent.depth + 1),
        at_ms,
        version: begun.version.clone(),
        cluster: begun.cluster.clone(),
        node: begun.node.clone(),
        region: begun.region.clone(),
        vector: begun.vector.clone(),
        ceiling: begun.ceiling.clone(),
        starts: begun.starts.iter().map(process).collect(),
        rows: begun.rows,
        root: begun.root.clone(),
        digests: begun.digests.clone(),
        changed: 0,
        gone: 0,
        row_parts: Vec::new(),
        id_parts: Vec::new(),
    })
}

/// A backup in the making.
struct Taking<'a> {
    admin: &'a Admin,
    session: &'a str,
    to: &'a Destination,
    place: &'a Place,
    manifest: Manifest,
    rows: Writer,
    row_entries: u64,
    ids: Writer,
    id_entries: u64,
    pace: Pace,
    progress: Progress,
}

impl<'a> Taking<'a> {
    fn new(
        admin: &'a Admin,
        begun: &'a BackupBegun,
        to: &'a Destination,
        place: &'a Place,
        manifest: Manifest,
        rate: Option<u64>,
    ) -> Self {
        let progress = Progress::new(manifest.rows);
        let pace = Pace { rate, began: Instant::now(), bytes: 0 };
        let (rows, ids) = (Writer::new(), Writer::new());
        Self {
            admin,
            session: &begun.session,
            to,
            place,
            manifest,
            rows,
            row_entries: 0,
            ids,
            id_entries: 0,
            pace,
            progress,
        }
    }

    /// Every row, then every id. T1
    async fn everything(&mut self) -> Result<(), Failure> {
        let (mut after, mut sum) = (String::new(), Cell::EMPTY);
        loop {
            let (is_last, page) = self.page(&BackupAsk::Rows { after: after.clone() }).await?;
            let mut count = 0;
            for row in part::rows(&page) {
                let row = row.map_err(|error| inconsistent(&error))?;
                let Some((key, _)) = &row.row else { return Err(inconsistent(&"a page has a row that is not there")) };
                sum += row.cell();
                count += 1;
                after = STANDARD.encode(key.as_bytes());
            }
            self.rows.raw(&page);
            self.row_entries += count;
            self.manifest.changed += count;
            self.progress.done(count, "read");
            self.end_full_parts().await?;
            if is_last {
                break;
            }
        }
        if (Some(sum), self.manifest.changed) != (self.manifest.root(), self.manifest.rows) {
            return Err(inconsistent(&"its rows are not those that it sums up"));
        }
        let mut ids = NodeIds::default();
        while let Some(group) = ids.next(self).await? {
            self.add_ids(&group).await?;
        }
        Ok(())
    }

    /// Every id, and rows of those that are not as the parent has them.
    async fn changes(&mut self, parent: &Manifest) -> Result<(), Failure> {
        let (mut now, mut before) = (NodeIds::default(), Ids::new(self.to, parent));
        let (mut id, mut old) = (now.next(self).await?, self.old(&mut before).await?);
        let mut differing: Vec<(RowId, Vec<RowDigest>)> = Vec::new();
        loop {
            let least = match (&id, &old) {
                (None, None) => break,
                (Some((id, _)), Some((old, _))) => *id.min(old),
                (Some((id, _)), None) | (None, Some((id, _))) => *id,
            };
            let here = id.take_if(|(id, _)| *id == least);
            let there = old.take_if(|(id, _)| *id == least);
            if here.as_ref().map(|(_, digests)| digests) != there.as_ref().map(|(_, digests)| digests) {
                differing.push((least, here.as_ref().map(|(_, digests)| digests.clone()).unwrap_or_default()));
            }
            if there.is_some() {
                old = self.old(&mut before).await?;
            }
            if let Some(group) = here {
                self.add_ids(&group).await?;
                id = now.next(self).await?;
            }
            if differing.len() == IDS_AT_ONCE {
                self.rows_of(&std::mem::take(&mut differing)).await?;
            }
        }
        self.rows_of(&differing).await
    }

    async fn old(&self, before: &mut Ids<'_>) -> Result<Option<(RowId, Vec<RowDigest>)>, Failure> {
        before.next().await.map_err(|failure| {
            Failure::new(failure.exit, format!("{}; take a full backup with --full", failure.message))
        })
    }

    /// Stores what the node has of these ids, which must be what it said before.
    async fn rows_of(&mut self, differing: &[(RowId, Vec<RowDigest>)]) -> Result<(), Failure> {
        let mut wanted: VecDeque<_> = differing.iter().collect();
        while !wanted.is_empty() {
            let present: Vec<RowId> = wanted.iter().filter(|(_, of)| !of.is_empty()).map(|(id, _)| *id).collect();
            let (page, answered) = if present.is_empty() { (Bytes::new(), 0) } else { self.page_of(&present).await? };
            let upto = if answered >= present.len() { None } else { present.get(answered) };
            let mut rows = part::rows(&page).peekable();
            while let Some((id, digests)) = wanted.pop_front_if(|(id, _)| upto.is_none_or(|upto| id < upto)) {
                let mut found = Vec::new();
                while let Some(row) = rows.next_if(|row| row.as_ref().map_or(true, |row| row.id == *id)) {
                    let row = row.map_err(|error| inconsistent(&error))?;
                    found.push(row.digest);
                    row.encode(&mut self.rows);
                    self.row_entries += 1;
                    self.manifest.changed += 1;
                }
                found.sort_unstable();
                if found != *digests {
                    return Err(inconsistent(&"a row is not the one that its ids tell"));
                }
                if digests.is_empty() {
                    BackupRow::gone(*id).encode(&mut self.rows);
                    self.row_entries += 1;
                    self.manifest.gone += 1;
                }
            }
            if rows.next().is_some() {
                return Err(inconsistent(&"a page has a row that was not asked for"));
            }
            self.end_full_parts().await?;
        }
        Ok(())
    }

    async fn page_of(&mut self, ids: &[RowId]) -> Result<(Bytes, usize), Failure> {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_bits().to_be_bytes()).collect();
        let (_, page) = self.page(&BackupAsk::RowsOf { ids: STANDARD.encode(bytes) }).await?;
        let (answered, _) = page.split_first_chunk::<4>().ok_or_else(|| inconsistent(&"a page is cut off"))?;
        let answered = u32::from_be_bytes(*answered) as usize;
        if answered == 0 || answered > ids.len() {
            return Err(inconsistent(&"a page answers nothing"));
        }
        Ok((page.slice(4..), answered))
    }

    /// A page, and whether it is the last. T3
    async fn page(&mut self, ask: &BackupAsk) -> Result<(bool, Bytes), Failure> {
        self.pace.wait().await;
        let page = self.admin.ask_backup(self.session, ask).await.map_err(crate::commands::admin_failure)?;
        self.pace.bytes += page.len() as u64;
        let last = *page.first().ok_or_else(|| inconsistent(&"a page is empty"))?;
        Ok((last == 1, page.slice(1..)))
    }

    async fn add_ids(&mut self, (id, digests): &(RowId, Vec<RowDigest>)) -> Result<(), Failure> {
        digests.iter().for_each(|digest| encode_pair(&mut self.ids, *id, *digest));
        self.id_entries += digests.len() as u64;
        self.end_full_parts().await
    }

    async fn end_full_parts(&mut self) -> Result<(), Failure> {
        for kind in [Kind::Rows, Kind::Ids] {
            let entries = if kind == Kind::Rows { &self.rows } else { &self.ids };
            if entries.as_bytes().len() >= PART_BYTES {
                self.end_part(kind).await?;
            }
        }
        Ok(())
    }

    async fn end_part(&mut self, kind: Kind) -> Result<(), Failure> {
        let (writer, count, parts) = match kind {
            Kind::Rows => (&mut self.rows, &mut self.row_entries, &mut self.manifest.row_parts),
            Kind::Ids => (&mut self.ids, &mut self.id_entries, &mut self.manifest.id_parts),
        };
        let (entries, count) = (std::mem::take(writer).into_bytes(), std::mem::take(count));
        if count == 0 {
            return Ok(());
        }
        let bytes = part::encode(kind, &entries);
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        parts.push(Part { bytes: bytes.len() as u64, entries: count, blake3 });
        let name = kind.name(parts.len());
        self.to.put(self.place, &name, bytes).await
    }

    /// T1
    async fn finish(mut self) -> Result<Manifest, Failure> {
        for kind in [Kind::Rows, Kind::Ids] {
            self.end_part(kind).await?;
        }
        self.to.put_manifest(&place(&self.manifest), &self.manifest).await?;
        Ok(self.manifest)
    }
}

/// The node's ids in order, page by page.
#[derive(Default)]
struct NodeIds {
    read: VecDeque<(RowId, RowDigest)>,
    after: Option<RowId>,
    is_last: bool,
    sum: Cell,
    count: u64,
}

impl NodeIds {
    /// The next id with its digests; at the end, all must add up to what the node said. T1
    async fn next(&mut self, of: &mut Taking<'_>) -> Result<Option<(RowId, Vec<RowDigest>)>, Failure> {
        while self.read.is_empty() && !self.is_last {
            let (is_last, page) = of.page(&BackupAsk::Ids { after: self.after.map(RowId::to_bits) }).await?;
            let ids = part::ids(&page).map_err(|error| inconsistent(&error))?;
            if ids.first().is_some_and(|(id, _)| self.after.is_some_and(|after| *id <= after))
                || (ids.is_empty() && !is_last)
            {
                return Err(inconsistent(&"its ids do not go on where they ended"));
            }
            ids.iter().for_each(|(id, digest)| self.sum += cell(*id, *digest));
            self.count += ids.len() as u64;
            self.after = ids.last().map(|(id, _)| *id).or(self.after);
            self.is_last = is_last;
            self.read.extend(ids);
        }
        let Some((id, digest)) = self.read.pop_front() else {
            if (Some(self.sum), self.count) == (of.manifest.root(), of.manifest.rows) {
                return Ok(None);
            }
            return Err(inconsistent(&"its ids are not those that it sums up"));
        };
        let mut digests = vec![digest];
        while let Some((_, digest)) = self.read.pop_front_if(|(next, _)| *next == id) {
            digests.push(digest);
        }
        digests.sort_unstable();
        Ok(Some((id, digests)))
    }
}

/// The node contradicts itself, or something between changed bytes.
fn inconsistent(what: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        Exit::No,
        format!("the node's answers do not fit together ({what}); no backup was made, take another one"),
    )
}

/// How fast the node is read. T3
struct Pace {
    rate: Option<u64>,
    began: Instant,
    bytes: u64,
}

impl Pace {
    async fn wait(&self) {
        let Some(rate) = self.rate else { return };
        let due = Duration::from_secs_f64(self.bytes as f64 / rate as f64);
        tokio::time::sleep(due.saturating_sub(self.began.elapsed())).await;
    }
}
