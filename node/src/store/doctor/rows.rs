//! Every stored row: its checksum, and its digest where the cluster's secret is known.
//!
//! **What is not here.** What a start makes of a damaged row: the journal may have a newer one ([`super::rehearsal`]).

use super::{Examination, Finding, Patient, Progress, RowsReport, Step, Verdict};
use crate::store::StoreConfig;
use crate::store::aside_rows::Sums;
use crate::store::checkpoint::Checkpoint;
use crate::store::digests::SketchSize;
use crate::store::engine::{Engine, ID_BYTES, damaged, failed};
use crate::store::sketch_file;
use atoll_crdt::{ReadError, RowKey};
use atoll_replication::HOLES_MAX;
use fjall::Readable as _;
use std::collections::BTreeSet;
use std::path::Path;

/// Rows between two looks at how far it is.
const ROWS_AT_ONCE: usize = 1_024;

/// Whether the next start would believe the stored sketch.
pub(super) fn sketch_state(
    path: &Path,
    engine: &Engine,
    checkpoint: &Checkpoint,
    config: &StoreConfig,
) -> &'static str {
    let size = SketchSize { rows_min: config.sketch_rows_min, cells: config.sketch_cells };
    if !path.exists() {
        "none: a start reads every row"
    } else if sketch_file::load(path, checkpoint, engine.fingerprint(), size).is_some() {
        "fits the rows: a start need not read them"
    } else {
        "not of these rows, or damaged: a start reads every row"
    }
}

/// What was read so far.
struct Reading<'a, 'p> {
    engine: &'a Engine,
    progress: &'a mut Progress<'p>,
    about: u64,
    rows: u64,
    bad: BTreeSet<RowKey>,
}

/// Reads them all.
pub(super) fn examine(
    engine: &Engine,
    checkpoint: &Checkpoint,
    patient: &Patient,
    found: &mut Examination,
    progress: &mut Progress<'_>,
) -> RowsReport {
    let with_digests = patient.knows_secret && engine.is_indexed().unwrap_or(false);
    if patient.knows_secret && !with_digests {
        found.findings.push(Finding::note(
            "the rows were indexed under another cluster's name or CA: a start indexes them all anew; check the configuration",
        ));
    }
    let about = checkpoint.rows;
    let mut reading = Reading { engine, progress, about, rows: 0, bad: BTreeSet::new() };
    let outcome = if with_digests { reading.by_index() } else { reading.by_checksum() };
    let Reading { rows, bad, .. } = reading;
    if let Err(error) = outcome {
        found.has_damaged_blocks = engine.has_damaged_blocks();
        found.findings.push(Finding::unreadable_rows(&engine_error(&error), found.has_damaged_blocks));
    } else if !with_digests && bad.is_empty() && rows != checkpoint.rows {
        // With digests, a start tells.
        found.findings.push(Finding {
            means: Verdict::NeedsAttention,
            what: format!("{rows} rows are there, and the checkpoint says {}", checkpoint.rows),
            file: Some(found.data_dir.join("rows")),
            byte: None,
            lost: None,
            todo: "look again with --config: then a start is rehearsed, which tells what is missing".to_owned(),
        });
    }
    let layer = engine.adopted().ok().flatten().map(|layer| layer.0);
    RowsReport {
        checkpoint: checkpoint.position.0,
        rows,
        rows_of_checkpoint: checkpoint.rows,
        with_digests,
        damaged: bad.iter().map(|key| (patient.name_of)(key)).collect(),
        holes: Vec::new(),
        rows_after_start: None,
        clears_pending: checkpoint.clears.len(),
        layer_being_moved: layer,
        layer_ready: engine.ready().ok().flatten().map(|layer| layer.0),
    }
}

fn engine_error(error: &ReadError) -> String {
    error.to_string()
}

impl Reading<'_, '_> {
    /// Against the index, which has every row's digest, and that of an adopted layer.
    fn by_index(&mut self) -> Result<(), ReadError> {
        let mut after = Vec::new();
        loop {
            let scrubbed = self.engine.scrub(&after, ROWS_AT_ONCE)?;
            self.rows += scrubbed.rows;
            self.bad.extend(self.engine.suspects.take());
            (self.progress)(Step::Rows(self.rows, self.about));
            check_bound(&self.bad)?;
            match scrubbed.last {
                Some(last) => after = last,
                None => break,
            }
        }
        self.of_layer()
    }

    /// Rows that only an adopted layer has: `ids` does not name them yet.
    fn of_layer(&mut self) -> Result<(), ReadError> {
        let snapshot = self.engine.snapshot();
        let Some(layer) = self.engine.adopted_in(&snapshot)? else { return Ok(()) };
        let (engine, bad, rows) = (self.engine, &mut self.bad, &mut self.rows);
        engine.visit_aside_ids(&snapshot, layer, &mut |key, sums| {
            *rows = rows.saturating_add_signed(sums.map_or(0, Sums::rows));
            if !engine.is_whole(&snapshot, Some(layer), key)? {
                note(bad, key);
            }
            check_bound(bad)
        })
    }

    /// Against their own checksums; and every row that the index names must be there.
    fn by_checksum(&mut self) -> Result<(), ReadError> {
        let snapshot = self.engine.snapshot();
        let adopted = self.engine.adopted_in(&snapshot)?;
        for row in self.engine.rows_from(&snapshot, adopted, &[])? {
            let row = row?;
            self.rows += 1;
            if row.decode().is_err() {
                note(&mut self.bad, row.key_bytes());
            }
            if self.rows.is_multiple_of(ROWS_AT_ONCE as u64) {
                (self.progress)(Step::Rows(self.rows, self.about));
                check_bound(&self.bad)?;
            }
        }
        for entry in snapshot.iter(&self.engine.ids) {
            let entry = entry.key().map_err(|error| failed(&error))?;
            let key = entry.get(ID_BYTES..).unwrap_or_default();
            let in_layer = adopted.map_or(Ok(None), |layer| self.engine.aside_sums(&snapshot, layer, key))?.is_some();
            let is_there = snapshot.contains_key(&self.engine.rows, key).map_err(|error| failed(&error))?;
            if !is_there && !in_layer {
                note(&mut self.bad, key);
            }
        }
        check_bound(&self.bad)
    }
}

fn note(bad: &mut BTreeSet<RowKey>, key: &[u8]) {
    if let ReadError::Damaged(key) = damaged(key, "it does not read") {
        bad.insert(key);
    }
}

/// No more than a store lives with.
fn check_bound(bad: &BTreeSet<RowKey>) -> Result<(), ReadError> {
    if bad.len() > HOLES_MAX {
        return Err(ReadError::Failed(format!("more than {HOLES_MAX} rows are damaged")));
    }
    Ok(())
}
