//! What a backup says of itself: the object that is written last, and makes a backup of what was written before.
//!
//! ```text
//! {"atoll_backup":1, …}\n        one line of JSON
//! 64 hexadecimal digits\n        BLAKE3 of that line
//! ```
//!
//! **What always holds.** M1: bytes that read were written so: a changed one does not match the digest. M2: names of objects are made
//! here and never taken from the manifest: it cannot point out of its own folder. M3: a parent is older than its child, so a chain ends.

use super::id::BackupId;
use atoll_crdt::codec::Reader;
use atoll_crdt::{ActorId, Dot, Hlc, VersionVector};
use atoll_node::store::Origin;
use atoll_replication::sketch::{CELL_BYTES, Cell};
use atoll_replication::{Clocks, Recovered, Start};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bytes of a manifest: far above that of 100,000 objects and as many actors.
pub const MANIFEST_BYTES_MAX: usize = 32 << 20;
/// Backups of a chain, the full one included.
pub const CHAIN_MAX: u32 = 16;

const VERSION: u32 = 1;

/// Why bytes are no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A byte was changed, or is missing (the store, or whoever wrote it).
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// Its version is another one (operator: use the program that wrote it, or a newer one).
    #[error("it has version {0}, and this program knows version {VERSION}")]
    Version(u32),
    /// What it says cannot be (whoever wrote it).
    #[error("{0}")]
    Wrong(String),
}

/// One object with rows, or with ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Bytes as they are stored.
    pub bytes: u64,
    /// Entries in it.
    pub entries: u64,
    /// BLAKE3 of the bytes, in hexadecimal.
    pub blake3: String,
}

/// One process that wrote to the node's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its actor.
    pub actor: String,
    /// Stamps up to here may have been given.
    pub ceiling: String,
    /// When the data was founded, in milliseconds since 1970.
    pub founded_ms: Option<u64>,
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of everything here.
    pub atoll_backup: u32,
    /// Its name.
    pub id: BackupId,
    /// The backup that it goes on from; none: it is a full one.
    pub parent: Option<BackupId>,
    /// Backups before it in its chain.
    pub depth: u32,
    /// When the state was taken, in milliseconds since 1970.
    pub at_ms: u64,
    /// The program that the node ran.
    pub version: String,
    /// The cluster that was backed up.
    pub cluster: String,
    /// The node.
    pub node: String,
    /// Its region.
    pub region: String,
    /// The causal context that the state stands at.
    pub vector: BTreeMap<String, u64>,
    /// Stamps up to here may have been given.
    pub ceiling: String,
    /// The processes that wrote to the node's disk, oldest first.
    pub starts: Vec<Process>,
    /// Rows of the state.
    pub rows: u64,
    /// The sum over them.
    pub root: String,
    /// Tells under which secret ids and digests are made.
    pub digests: String,
    /// Rows that are new or others than the parent's; of a full one, all.
    pub changed: u64,
    /// Ids of rows that the parent has and this one has not.
    pub gone: u64,
    /// Objects with rows: `rows-000001` and on.
    pub row_parts: Vec<Part>,
    /// Objects with the ids and digests of all rows of the state: `ids-000001` and on.
    pub id_parts: Vec<Part>,
}

impl Manifest {
    /// The version that this program writes.
    pub const VERSION: u32 = VERSION;

    /// The bytes of the object.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Plain values always serialize.
        sealed(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads what [`Self::encode`] wrote. M1
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Version {
            atoll_backup: u32,
        }
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::Damaged("it is too large"));
        }
        let body = bytes.strip_suffix(b"\n").ok_or(ManifestError::Damaged("its end is missing"))?;
        let at = body.iter().rposition(|byte| *byte == b'\n').ok_or(ManifestError::Damaged("its digest is missing"))?;
        let (line, digest) = (&body[..at], &body[at + 1..]);
        if blake3::hash(line).to_hex().as_bytes() != digest {
            return Err(ManifestError::Damaged("its digest does not match"));
        }
        let wrong = |error: serde_json::Error| ManifestError::Wrong(error.to_string());
        let Version { atoll_backup } = serde_json::from_slice(line).map_err(wrong)?;
        if atoll_backup != VERSION {
            return Err(ManifestError::Version(atoll_backup));
        }
        let manifest: Self = serde_json::from_slice(line).map_err(wrong)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let wrong = |what: &str| Err(ManifestError::Wrong(what.into()));
        if self.parent.as_ref().is_some_and(|parent| *parent >= self.id) {
            return wrong("its parent is not older than itself"); // M3
        }
        if (self.depth == 0) != self.parent.is_none() || self.depth >= CHAIN_MAX {
            return wrong("its place in the chain cannot be");
        }
        let sum = |parts: &[Part]| parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.entries));
        if sum(&self.id_parts) != Some(self.rows) || sum(&self.row_parts) != self.changed.checked_add(self.gone) {
            return wrong("its parts do not add up");
        }
        self.origin().map(drop)
    }

    /// The state that it holds, as a store takes it.
    ///
    /// # Errors
    /// Something does not read.
    pub fn origin(&self) -> Result<Origin, ManifestError> {
        let wrong = |what: &str| ManifestError::Wrong(format!("its {what} does not read"));
        let number = |text: &str, what| hexadecimal(text).ok_or_else(|| wrong(what));
        let mut context = VersionVector::new();
        for (actor, seq) in &self.vector {
            if *seq == 0 || *seq > i64::MAX as u64 {
                return Err(wrong("vector"));
            }
            context.include(Dot::new(ActorId::new(number(actor, "vector")?), *seq));
        }
        let mut starts = Vec::with_capacity(self.starts.len());
        for start in &self.starts {
            let actor = ActorId::new(number(&start.actor, "list of processes")?);
            let ceiling = Hlc::from_bits(number(&start.ceiling, "list of processes")?);
            starts.push(Start { actor, ceiling, founded_ms: start.founded_ms });
        }
        // No log comes with it: what it holds is in no log of the node that is made of it.
        let clocks = Clocks { cursor: context.clone(), unlogged: context.clone(), context };
        Ok(Origin {
            state: Recovered { clocks, starts, ceiling: Hlc::from_bits(number(&self.ceiling, "ceiling")?) },
            rows: self.rows,
            root: self.root().ok_or_else(|| wrong("root"))?,
            fingerprint: bytes_of(&self.digests).ok_or_else(|| wrong("digests"))?,
            cluster: self.cluster.clone(),
        })
    }

    /// The sum over all rows.
    #[must_use]
    pub fn root(&self) -> Option<Cell> {
        let bytes: [u8; CELL_BYTES] = bytes_of(&self.root)?;
        Cell::decode_bytes(&mut Reader::new(&bytes)).ok()
    }

    /// Bytes of all its objects.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.row_parts.iter().chain(&self.id_parts).fold(0, |sum, part| sum.saturating_add(part.bytes))
    }
}

/// A line, with its digest behind it. M1
#[must_use]
pub fn sealed(mut line: Vec<u8>) -> Vec<u8> {
    let digest = blake3::hash(&line).to_hex();
    line.push(b'\n');
    line.extend_from_slice(digest.as_bytes());
    line.push(b'\n');
    line
}

/// Sixteen digits.
fn hexadecimal(text: &str) -> Option<u64> {
    bytes_of(text).map(u64::from_be_bytes)
}

/// As many bytes as are wanted, from two lower-case digits each.
fn bytes_of<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::backup) fn manifest() -> Manifest {
        Manifest {
            atoll_backup: VERSION,
            id: "20261121T120000.000Z-00ff".parse().unwrap(),
            parent: None,
            depth: 0,
            at_ms: 1,
            version: "0.1.0".into(),
            cluster: "shop".into(),
            node: "n1".into(),
            region: "eu-west-1".into(),
            vector: [("00000000000000ff".to_owned(), 7)].into(),
            ceiling: "0000000000000005".into(),
            starts: vec![Process {
                actor: "00000000000000ff".into(),
                ceiling: "00000000000000ff".into(),
                founded_ms: Some(3),
            }],
            rows: 2,
            root: "00".repeat(CELL_BYTES),
            digests: "00".repeat(16),
            changed: 2,
            gone: 0,
            row_parts: vec![Part { bytes: 5, entries: 2, blake3: String::new() }],
            id_parts: vec![Part { bytes: 5, entries: 2, blake3: String::new() }],
        }
    }

    #[test]
    fn a_manifest_reads_back_and_no_changed_or_missing_byte_does() {
        let bytes = manifest().encode();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest()));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Manifest::decode(&changed).is_err(), "byte {at}");
            assert!(Manifest::decode(&bytes[..at]).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn a_manifest_that_cannot_be_is_refused_though_its_digest_matches() {
        let parent: BackupId = "20261121T120001.000Z-0000".parse().unwrap();
        let wrong: [fn(&mut Manifest, BackupId); 9] = [
            |m, parent| (m.parent, m.depth) = (Some(parent), 1),
            |m, _| m.depth = 1,
            |m, _| m.rows = 3,
            |m, _| m.changed = u64::MAX,
            |m, _| m.id_parts[0].entries = u64::MAX,
            |m, _| m.root = "zz".repeat(CELL_BYTES),
            |m, _| m.digests = "0".into(),
            |m, _| _ = m.vector.insert("1".into(), 1),
            |m, _| _ = m.vector.insert("00000000000000fe".into(), u64::MAX),
        ];
        for (n, change) in wrong.into_iter().enumerate() {
            let mut manifest = manifest();
            change(&mut manifest, parent.clone());
            let outcome = Manifest::decode(&manifest.encode());
            assert!(matches!(outcome, Err(ManifestError::Wrong(_))), "{n}: {outcome:?}");
        }
        let mut newer = manifest();
        newer.atoll_backup = 2;
        assert_eq!(Manifest::decode(&newer.encode()), Err(ManifestError::Version(2)));
    }

    #[test]
    fn what_a_backup_holds_is_in_no_log() {
        let origin = manifest().origin().unwrap();
        let clocks = &origin.state.clocks;
        assert_eq!((&clocks.cursor, &clocks.unlogged), (&clocks.context, &clocks.context));
        assert_eq!(origin.state.starts[0].founded_ms, Some(3));
    }
}
