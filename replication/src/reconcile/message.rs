//! What the two sides of a reconciliation say to each other, and its bytes.
//!
//! ```text
//! receiver                                  source
//!   Open: both clocks, sketch, holes    →
//!                                       ←   Accept: context, lost actors, about how many rows will come
//!                                       ←   Cells …                        only when the opening names too little
//!   More: cells from … on               →
//!   Want: ids | everything              →
//!                                       ←   States: rows by id, or by range of keys, and whole ones … | Close
//!   Taken: chunks that are on disk      →
//! ```
//!
//! **What always holds.** M1: every message names its session by both sides' numbers and has a place in it, so what is
//! late or comes twice is dropped, and what is missing is noticed. M2: lengths are checked before
//! anything is allocated; bytes from a peer never panic. M3: a chunk of rows ends with a checksum of its bytes.
//!
//! **Two forms.** What the first version of the protocol said is said as it was then, with the same bytes; what came later has
//! steps of its own. Who opens a session chooses: an opening without [`OpenMore`] is of the first form, and so is everything
//! that follows. A session of the first form repairs no holes, is not taken up, tells no [`Step::Taken`], and its chunks have no
//! checksum.

use crate::sketch::{CELL_BYTES, Cell, Opening, PREFIX_CELLS_MAX, RowId, decode_cells, encode_cells};
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::codec::{DecodeError, Reader, Writer, read_dots, write_dots};
use atoll_crdt::{Dot, Row, RowKey, VersionVector};

/// Ids that one session may name: beyond them everything is compared.
pub(crate) const IDS_MAX: usize = 200_000;
/// Bytes of one message: a chunk of rows, or one row however large.
pub(crate) const RECONCILE_BYTES_MAX: usize = 64 << 20;

const KEY_BYTES_MAX: usize = 16 << 10;

/// One session, numbered by the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// Where one side's conversation stands: numbers what it says, and checks what it hears. M1
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) session: SessionId,
    pub(crate) grant: u64,
    said: u32,
    heard: u32,
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hearing {
    /// It is next.
    Next,
    /// It was heard, or is of another conversation.
    Stale,
    /// Something before it was lost.
    Gap,
}

impl Talk {
    pub(crate) fn new(session: SessionId, grant: u64) -> Self {
        Self { session, grant, said: 0, heard: 0 }
    }

    /// The message of what this side says next.
    pub(crate) fn say(&mut self, step: Step) -> Reconcile {
        let place = self.said;
        self.said += 1;
        Reconcile { session: self.session, grant: self.grant, place, step }
    }

    /// The opening is the receiver's first message, and no grant has a number in it yet.
    pub(crate) fn heard_opening(&mut self) {
        self.heard = 1;
    }

    /// Judges what the other side says.
    pub(crate) fn hear(&mut self, message: &Reconcile) -> Hearing {
        if message.session != self.session || message.grant != self.grant || message.place < self.heard {
            return Hearing::Stale;
        }
        if message.place > self.heard {
            return Hearing::Gap;
        }
        self.heard += 1;
        Hearing::Next
    }
}

/// One thing that the sides of a reconciliation say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconcile {
    /// Which session, by the receiver's number. M1
    pub session: SessionId,
    /// Which grant of it, by the source's number; 0 in [`Step::Open`].
    pub grant: u64,
    /// The place among what this side says in it, from 0 on.
    pub place: u32,
    /// What.
    pub step: Step,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The receiver asks for a session.
    Open(Arc<Open>),
    /// The source grants it.
    Accept {
        /// Its whole context at its snapshot, which the receiver will take over.
        context: VersionVector,
        /// How far the cursors of lost actors will go.
        lost: VersionVector,
        /// About how many rows it will mention: for telling how far the session is, and for nothing else. `None` in the first form.
        rows: Option<u64>,
    },
    /// The source's cells, from the receiver's next one on.
    Cells(Arc<[Cell]>),
    /// The receiver wants cells from here to there.
    More {
        /// The first.
        from: u32,
        /// The one after the last.
        to: u32,
    },
    /// The receiver wants the rows of these ids, ascending.
    Want(Arc<[RowId]>),
    /// The receiver wants to compare everything.
    WantAll,
    /// Rows of the source.
    States(States),
    /// So many chunks of rows were taken in, all in all: the source may send more.
    Taken(u32),
    /// Everything was said.
    Close,
    /// The source gives up; nothing happened.
    Abort,
    /// The receiver gives up; nothing happened.
    GiveUp,
}

/// What a receiver begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Its whole context.
    pub context: VersionVector,
    /// Its log cursor.
    pub cursor: VersionVector,
    /// Its sketch.
    pub opening: Opening,
    /// What the first form has not.
    pub more: Option<OpenMore>,
}

/// What an opening says beside both clocks and the sketch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpenMore {
    /// Whether rows are wanted whole: what they are compared with is not all this node's own, and its context says nothing of it.
    pub whole: bool,
    /// Rows that are damaged there, and what the source must cover for its own to stand for them. C5
    pub holes: Holes,
}

/// What a receiver cannot read of its own rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holes {
    /// Their ids, ascending.
    pub ids: Vec<RowId>,
    /// Every record that may have touched one of these rows, as the receiver's clocks have it.
    pub context: VersionVector,
}

impl Open {
    /// Whether the source must cover more than `context` before it can repair what is damaged there. C5
    pub(crate) fn is_early_at(&self, context: &VersionVector) -> bool {
        self.more.as_ref().is_some_and(|more| !more.holes.context.leq(context))
    }
}

/// Which rows a chunk speaks of: those that it does not mention are not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Span {
    /// All rows of these ids.
    Ids(Vec<RowId>),
    /// All rows with keys above the first up to the second, or to the end.
    Keys(Option<RowKey>, Option<RowKey>),
    /// All rows of these ids, which the receiver said are damaged, with every entry. Not in the first form.
    Holes(Vec<RowId>),
}

/// A chunk of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct States {
    /// Which rows it speaks of.
    pub span: Span,
    /// Those that are there.
    pub rows: Vec<RowState>,
    /// Whether it ends with a checksum, which the first form does not. M3
    pub checked: bool,
}

/// One row of the source, less what the receiver's context tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowState {
    /// Which row.
    pub key: RowKey,
    /// Live entries that the receiver's context does not cover.
    pub fresh: Row,
    /// Live dots that it covers: it has them, or knows that they are dead.
    pub kept: Vec<Dot>,
}

impl Step {
    /// Bytes that weigh against a link's window.
    #[must_use]
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Cells(cells) => cells.len() * CELL_BYTES,
            Self::Want(ids) => ids.len() * 8,
            Self::States(states) => {
                let row = |row: &RowState| row.key.as_bytes().len() + row.fresh.memory_bytes() + row.kept.len() * 16;
                states.rows.iter().map(row).sum::<usize>() + 64
            }
            Self::Open(open) => {
                crate::sketch::OPENING_BYTES + open.more.as_ref().map_or(0, |more| more.holes.ids.len() * 8)
            }
            Self::Accept { .. }
            | Self::More { .. }
            | Self::WantAll
            | Self::Taken(_)
            | Self::Close
            | Self::Abort
            | Self::GiveUp => 0,
        }
    }
}

impl Reconcile {
    /// Appends the bytes.
    pub(crate) fn encode(&self, out: &mut Writer) {
        out.number(self.session.0);
        out.number(self.grant);
        out.number(u64::from(self.place));
        match &self.step {
            Step::Open(open) => {
                out.byte(if open.more.is_some() { 11 } else { 1 });
                open.context.encode(out);
                open.cursor.encode(out);
                out.bytes(&open.opening.encode());
                if let Some(more) = &open.more {
                    out.byte(u8::from(more.whole));
                    write_ids(out, &more.holes.ids);
                    more.holes.context.encode(out);
                }
            }
            Step::Accept { context, lost, rows } => {
                out.byte(if rows.is_some() { 12 } else { 2 });
                context.encode(out);
                lost.encode(out);
                if let Some(rows) = rows {
                    out.number(*rows);
                }
            }
            Step::Cells(cells) => {
                out.byte(3);
                out.bytes(&encode_cells(cells));
            }
            Step::More { from, to } => {
                out.byte(4);
                out.number(u64::from(*from));
                out.number(u64::from(*to));
            }
            Step::Want(ids) => {
                out.byte(5);
                write_ids(out, ids);
            }
            Step::WantAll => out.byte(6),
            Step::States(states) if !states.checked => {
                out.byte(7);
                states.encode(out);
            }
            Step::States(states) => {
                out.byte(13);
                let mut chunk = Writer::new();
                states.encode(&mut chunk);
                out.bytes(chunk.as_bytes());
                out.raw(&crc32fast::hash(chunk.as_bytes()).to_be_bytes()); // M3
            }
            Step::Close => out.byte(8),
            Step::Abort => out.byte(9),
            Step::GiveUp => out.byte(10),
            Step::Taken(chunks) => {
                out.byte(14);
                out.number(u64::from(*chunks));
            }
        }
    }

    /// Reads what [`Self::encode`] wrote. M2
    pub(crate) fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let session = SessionId(input.number()?);
        let grant = input.number()?;
        let place = u32::try_from(input.number()?).map_err(|_| DecodeError::NotCanonical)?;
        let step = match input.byte()? {
            code @ (1 | 11) => Step::Open(Arc::new(Open::decode(code == 11, input)?)),
            code @ (2 | 12) => Step::Accept {
                context: VersionVector::decode(input)?,
                lost: VersionVector::decode(input)?,
                rows: if code == 12 { Some(input.number()?) } else { None },
            },
            3 => Step::Cells(decode_cells(input.bytes(RECONCILE_BYTES_MAX)?, PREFIX_CELLS_MAX)?.into()),
            4 => Step::More { from: cell(input)?, to: cell(input)? },
            5 => Step::Want(read_ids(input)?.into()),
            6 => Step::WantAll,
            7 => Step::States(States::decode(false, input)?),
            8 => Step::Close,
            9 => Step::Abort,
            10 => Step::GiveUp,
            13 => Step::States(States::decode_checked(input)?),
            14 => Step::Taken(u32::try_from(input.number()?).map_err(|_| DecodeError::NotCanonical)?),
            value => return Err(DecodeError::Unknown { what: "reconciliation step", value }),
        };
        Ok(Self { session, grant, place, step })
    }
}

impl Open {
    fn decode(has_more: bool, input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (context, cursor) = (VersionVector::decode(input)?, VersionVector::decode(input)?);
        let opening = Opening::decode(input.bytes(RECONCILE_BYTES_MAX)?)?;
        let mut more = None;
        if has_more {
            let whole = flag(input)?;
            more = Some(OpenMore {
                whole,
                holes: Holes { ids: read_ids(input)?, context: VersionVector::decode(input)? },
            });
        }
        Ok(Self { context, cursor, opening, more })
    }
}

impl States {
    fn encode(&self, out: &mut Writer) {
        match &self.span {
            Span::Ids(ids) => {
                out.byte(0);
                write_ids(out, ids);
            }
            Span::Holes(ids) => {
                out.byte(2);
                write_ids(out, ids);
            }
            Span::Keys(after, upto) => {
                out.byte(1);
                for bound in [after, upto] {
                    out.byte(u8::from(bound.is_some()));
                    if let Some(key) = bound {
                        out.bytes(key.as_bytes());
                    }
                }
            }
        }
        out.length(self.rows.len());
        for row in &self.rows {
            out.bytes(row.key.as_bytes());
            row.fresh.encode(out);
            write_dots(out, &row.kept);
        }
    }

    /// M3
    fn decode_checked(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let chunk = input.bytes(RECONCILE_BYTES_MAX)?;
        if crc32fast::hash(chunk).to_be_bytes() != *input.raw(4)? {
            return Err(DecodeError::Checksum);
        }
        let mut input = Reader::new(chunk);
        let states = Self::decode(true, &mut input)?;
        input.finish()?;
        Ok(states)
    }

    fn decode(checked: bool, input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let span = match input.byte()? {
            0 => Span::Ids(read_ids(input)?),
            1 => Span::Keys(bound(input)?, bound(input)?),
            2 if checked => Span::Holes(read_ids(input)?),
            _ => return Err(DecodeError::NotCanonical),
        };
        let count = input.length(4, RECONCILE_BYTES_MAX)?;
        let mut rows: Vec<RowState> = Vec::with_capacity(count.min(4_096));
        for _ in 0..count {
            let row =
                RowState { key: key(input)?, fresh: Row::decode(input)?, kept: read_dots(input, Row::ENTRIES_MAX)? };
            rows.push(row);
        }
        Ok(Self { span, rows, checked })
    }
}

fn write_ids(out: &mut Writer, ids: &[RowId]) {
    out.length(ids.len());
    for id in ids {
        out.raw(&id.to_bits().to_be_bytes());
    }
}

/// Ids, ascending.
fn read_ids(input: &mut Reader<'_>) -> Result<Vec<RowId>, DecodeError> {
    let count = input.length(8, IDS_MAX)?;
    let mut ids: Vec<RowId> = Vec::with_capacity(count);
    for _ in 0..count {
        let mut bits = [0; 8];
        bits.copy_from_slice(input.raw(8)?);
        let id = RowId::from_bits(u64::from_be_bytes(bits)).ok_or(DecodeError::NotCanonical)?;
        if ids.last().is_some_and(|last| *last >= id) {
            return Err(DecodeError::NotCanonical);
        }
        ids.push(id);
    }
    Ok(ids)
}

fn key(input: &mut Reader<'_>) -> Result<RowKey, DecodeError> {
    RowKey::parse(input.bytes(KEY_BYTES_MAX)?).map_err(|_| DecodeError::NotCanonical)
}

fn bound(input: &mut Reader<'_>) -> Result<Option<RowKey>, DecodeError> {
    if flag(input)? { key(input).map(Some) } else { Ok(None) }
}

fn flag(input: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match input.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::NotCanonical),
    }
}

fn cell(input: &mut Reader<'_>) -> Result<u32, DecodeError> {
    match input.number()? {
        at if at <= PREFIX_CELLS_MAX as u64 => Ok(at as u32),
        _ => Err(DecodeError::TooLarge { max: PREFIX_CELLS_MAX as u64 }),
    }
}
