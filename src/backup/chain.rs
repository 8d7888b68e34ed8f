//! Reading backups: finding them, the chain that one needs, and whether all of it is as it was written.
//!
//! **What always holds.** C1: a chain begins with a full backup, and each of the others names the one before it, of the same node and
//! cluster. C2: of each object, length, digest, kind and number of entries are those of the manifest. C3: a full backup's rows, and every
//! backup's ids, add up to its root. C4: ids of a backup are those of its parent, with what it says of the ids that it has rows of.

use super::destination::{Destination, Found, Place};
use super::id::BackupId;
use super::manifest::Manifest;
use super::part::{self, Kind};
use crate::exit::{Exit, Failure};
use atoll_node::store::cell;
use atoll_replication::sketch::{Cell, RowDigest, RowId};
use std::collections::{BTreeMap, VecDeque};

/// All backups of a destination.
#[derive(Default)]
pub(crate) struct Catalogue {
    /// By name.
    pub(crate) whole: BTreeMap<BackupId, Manifest>,
    pub(crate) unfinished: Vec<Place>,
    pub(crate) damaged: Vec<(Place, String)>,
}

impl Catalogue {
    /// Reads every manifest; of one node if it is named.
    pub(crate) async fn read(from: &Destination, node: Option<&str>) -> Result<Self, Failure> {
        let mut all = Self::default();
        for place in from.places(node).await? {
            match from.find(place).await? {
                Found::Whole(manifest) => _ = all.whole.insert(manifest.id.clone(), *manifest),
                Found::Unfinished(place) => all.unfinished.push(place),
                Found::Damaged(place, why) => all.damaged.push((place, why)),
            }
        }
        Ok(all)
    }

    /// What a backup is made of, the full one first. C1
    pub(crate) fn chain(&self, id: &BackupId) -> Result<Vec<&Manifest>, String> {
        let mut chain: VecDeque<&Manifest> = VecDeque::new();
        let mut next = Some(id);
        while let Some(id) = next {
            let Some(manifest) = self.whole.get(id) else {
                return Err(match chain.front() {
                    Some(child) => format!("the backup {id}, which {} goes on from, is missing or damaged", child.id),
                    None => format!("there is no backup {id}"),
                });
            };
            if let Some(child) = chain.front()
                && ((&manifest.cluster, &manifest.node) != (&child.cluster, &child.node)
                    || manifest.depth + 1 != child.depth)
            {
                return Err(format!("the backup {} does not go on from {id}", child.id));
            }
            chain.push_front(manifest);
            next = manifest.parent.as_ref();
        }
        Ok(chain.into())
    }
}

/// Where a backup lies.
pub(crate) fn place(manifest: &Manifest) -> Place {
    Place { id: manifest.id.clone(), node: manifest.node.clone() }
}

/// Something is not as it was written, or not there.
fn wrong(from: &Destination, manifest: &Manifest, name: &str, what: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::No, format!("{} is damaged: {what}", from.object(&place(manifest), name)))
}

/// The entries of the nth object, from 0 on. C2
pub(super) async fn entries(from: &Destination, manifest: &Manifest, kind: Kind, n: usize) -> Result<Vec<u8>, Failure> {
    let parts = if kind == Kind::Rows { &manifest.row_parts } else { &manifest.id_parts };
    let (part, name) = (&parts[n], kind.name(n + 1));
    let bytes = from.part(&place(manifest), kind, n + 1).await?;
    if bytes.len() as u64 != part.bytes {
        return Err(wrong(from, manifest, &name, format_args!("{} bytes instead of {}", bytes.len(), part.bytes)));
    }
    if blake3::hash(&bytes).to_hex().as_str() != part.blake3 {
        return Err(wrong(from, manifest, &name, "its digest does not match"));
    }
    part::decode(kind, &bytes).map_err(|error| wrong(from, manifest, &name, error))
}

/// A group of rows of one id, as a backup names it: the digests.
type Group = (RowId, Vec<RowDigest>);

/// The ids of a backup in order, object by object.
pub(super) struct Ids<'a> {
    from: &'a Destination,
    manifest: &'a Manifest,
    next: usize,
    read: VecDeque<(RowId, RowDigest)>,
    sum: Cell,
}

impl<'a> Ids<'a> {
    pub(super) fn new(from: &'a Destination, manifest: &'a Manifest) -> Self {
        Self { from, manifest, next: 0, read: VecDeque::new(), sum: Cell::EMPTY }
    }

    /// The next id with its digests; at the end, all of them must add up. C3
    pub(super) async fn next(&mut self) -> Result<Option<Group>, Failure> {
        // Two rows of one id may lie on both sides of an object's end.
        while self.read.len() < 64 && self.next < self.manifest.id_parts.len() {
            let entries = entries(self.from, self.manifest, Kind::Ids, self.next).await?;
            let name = Kind::Ids.name(self.next + 1);
            let ids = part::ids(&entries).map_err(|error| wrong(self.from, self.manifest, &name, error))?;
            let follows = self.read.back().zip(ids.first()).is_none_or(|(last, first)| last <= first);
            if ids.len() as u64 != self.manifest.id_parts[self.next].entries || !follows {
                return Err(wrong(self.from, self.manifest, &name, "its ids are not those that the manifest counts"));
            }
            ids.iter().for_each(|(id, digest)| self.sum += cell(*id, *digest));
            self.read.extend(ids);
            self.next += 1;
        }
        let Some((id, digest)) = self.read.pop_front() else {
            if self.manifest.root() == Some(self.sum) {
                return Ok(None);
            }
            return Err(wrong(self.from, self.manifest, "manifest", "the ids do not add up to its root"));
        };
        let mut group = vec![digest];
        while let Some((_, digest)) = self.read.pop_front_if(|(next, _)| *next == id) {
            group.push(digest);
        }
        group.sort_unstable();
        Ok(Some((id, group)))
    }
}

/// The rows of an increment in order, as ids with digests.
struct Changes<'a> {
    from: &'a Destination,
    manifest: &'a Manifest,
    next: usize,
    read: VecDeque<(RowId, RowDigest)>,
}

impl Changes<'_> {
    async fn next(&mut self) -> Result<Option<Group>, Failure> {
        while self.read.len() < 64 && self.next < self.manifest.row_parts.len() {
            let rows = row_part(self.from, self.manifest, self.next).await?;
            let name = Kind::Rows.name(self.next + 1);
            let mut last = self.read.back().map(|(id, _)| *id);
            for (id, digest) in rows {
                if last.is_some_and(|last| last > id) {
                    return Err(wrong(self.from, self.manifest, &name, "its rows are not in order"));
                }
                last = Some(id);
                self.read.push_back((id, digest));
            }
            self.next += 1;
        }
        let Some((id, digest)) = self.read.pop_front() else { return Ok(None) };
        let mut group = vec![digest];
        while let Some((_, digest)) = self.read.pop_front_if(|(next, _)| *next == id) {
            group.push(digest);
        }
        group.retain(|digest| *digest != RowDigest::ABSENT);
        group.sort_unstable();
        Ok(Some((id, group)))
    }
}

/// Ids and digests of an object's rows, each of which must read. C2
async fn row_part(from: &Destination, manifest: &Manifest, n: usize) -> Result<Vec<(RowId, RowDigest)>, Failure> {
    let entries = entries(from, manifest, Kind::Rows, n).await?;
    let name = Kind::Rows.name(n + 1);
    let rows: Result<Vec<_>, _> = part::rows(&entries).map(|row| row.map(|row| (row.id, row.digest))).collect();
    let rows = rows.map_err(|error| wrong(from, manifest, &name, error))?;
    if rows.len() as u64 == manifest.row_parts[n].entries {
        return Ok(rows);
    }
    Err(wrong(from, manifest, &name, format_args!("{} rows instead of {}", rows.len(), manifest.row_parts[n].entries)))
}

/// Reads all of one backup, and holds it against its parent.
pub(crate) async fn verify(from: &Destination, manifest: &Manifest, parent: Option<&Manifest>) -> Result<(), Failure> {
    match parent {
        None => verify_full(from, manifest).await,
        Some(parent) => verify_increment(from, manifest, parent).await,
    }
}

/// C3
async fn verify_full(from: &Destination, manifest: &Manifest) -> Result<(), Failure> {
    let mut sum = Cell::EMPTY;
    for n in 0..manifest.row_parts.len() {
        row_part(from, manifest, n).await?.into_iter().for_each(|(id, digest)| sum += cell(id, digest));
    }
    if Some(sum) != manifest.root() {
        return Err(wrong(from, manifest, "manifest", "the rows do not add up to its root"));
    }
    let mut ids = Ids::new(from, manifest);
    while ids.next().await?.is_some() {}
    Ok(())
}

/// C4
async fn verify_increment(from: &Destination, manifest: &Manifest, parent: &Manifest) -> Result<(), Failure> {
    let (mut ids, mut before) = (Ids::new(from, manifest), Ids::new(from, parent));
    let mut changes = Changes { from, manifest, next: 0, read: VecDeque::new() };
    let (mut id, mut old, mut change) = (ids.next().await?, before.next().await?, changes.next().await?);
    while let Some(least) = [&id, &old, &change].into_iter().flatten().map(|(id, _)| *id).min() {
        let has = |group: &Option<Group>| group.as_ref().is_some_and(|(id, _)| *id == least);
        let digests = |group: &Option<Group>| group.as_ref().filter(|(id, _)| *id == least).map(|(_, of)| of.clone());
        let expected = digests(&change).or_else(|| digests(&old)).unwrap_or_default();
        if digests(&id).unwrap_or_default() != expected {
            let what = format_args!("the row with id {} is not what its objects and its parent tell", least.to_bits());
            return Err(wrong(from, manifest, "manifest", what));
        }
        let (of_id, of_old, of_change) = (has(&id), has(&old), has(&change));
        if of_id {
            id = ids.next().await?;
        }
        if of_old {
            old = before.next().await?;
        }
        if of_change {
            change = changes.next().await?;
        }
    }
    Ok(())
}
