//! The sketch as a process leaves it when it ends, so that the next one need not read every row.
//!
//! **What always holds.** F1: it is believed only if it stands at the engine's checkpoint, adds up to that checkpoint's
//! root, was made under the same secret, and is as large as the rows now want it. F2: it is a cache: missing, damaged or of another version, the rows are read
//! instead.

use super::checkpoint::Checkpoint;
use super::digests::SketchSize;
use super::engine::Fingerprint;
use atoll_crdt::codec::{Reader, Writer};
use atoll_replication::sketch::Sketch;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

/// Its name in the data directory.
pub(super) const NAME: &str = "sketch";

const VERSION: u8 = 1;

/// Stores the sketch of the rows at a checkpoint.
pub(super) fn store(path: &Path, checkpoint: &Checkpoint, key: Fingerprint, sketch: &Sketch) -> io::Result<()> {
    let mut out = Writer::new();
    out.byte(VERSION);
    out.number(checkpoint.position.0);
    out.number(checkpoint.rows);
    out.raw(&key);
    out.raw(&sketch.encode());
    let checksum = crc32fast::hash(out.as_bytes());
    out.raw(&checksum.to_le_bytes());
    let new = path.with_extension("tmp");
    let mut file = File::create(&new)?;
    file.write_all(out.as_bytes())?;
    file.sync_data()?;
    std::fs::rename(new, path)
}

/// Removes what a process left.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The sketch of the rows at `checkpoint`, if it is stored. F1, F2
pub(super) fn load(path: &Path, checkpoint: &Checkpoint, key: Fingerprint, size: SketchSize) -> Option<Sketch> {
    let bytes = std::fs::read(path).ok()?;
    let (body, checksum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(body).to_le_bytes() != *checksum {
        return None;
    }
    let mut input = Reader::new(body);
    let is_of = input.byte().ok()? == VERSION
        && input.number().ok()? == checkpoint.position.0
        && input.number().ok()? == checkpoint.rows
        && input.raw(key.len()).ok()? == key;
    if !is_of {
        return None;
    }
    Sketch::decode(input.rest())
        .ok()
        .filter(|sketch| sketch.root() == checkpoint.root && size.suits(sketch, checkpoint.rows))
}
