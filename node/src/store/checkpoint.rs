//! What a checkpoint says of itself: the state that its rows stand at.

use atoll_crdt::codec::{DecodeError, Reader, Writer};
use atoll_crdt::{ClearOp, Dot, Hlc, VersionVector};
use atoll_replication::sketch::{CELL_BYTES, Cell};
use atoll_replication::{Clears, Clocks, Position, Recovered, Start};
use std::sync::Arc;

const VERSION: u8 = 2;
/// The same, of rows of which some lie in a layer: what does not know of layers must not read them.
const VERSION_ON_LAYER: u8 = 3;
/// Added while clears are pending: what does not know of them would show rows that are cleared.
const VERSION_CLEARING: u8 = 2;

/// The state after every entry up to a position.
#[derive(Debug, Clone, Default)]
pub(super) struct Checkpoint {
    /// The last entry that it contains.
    pub(super) position: Position,
    /// Clocks, starts, ceiling.
    pub(super) state: Recovered,
    /// How many rows hold something.
    pub(super) rows: u64,
    /// The sum over them, see [`atoll_replication::sketch::Sketch::root`].
    pub(super) root: Cell,
    /// Clears that rows here have still to be seen through. How far they were is not kept.
    pub(super) clears: Arc<Clears>,
}

impl Checkpoint {
    /// Bytes with a version in front and a checksum behind.
    pub(super) fn encode(&self, on_layer: bool) -> Vec<u8> {
        let mut out = Writer::new();
        let clearing = if self.clears.is_empty() { 0 } else { VERSION_CLEARING };
        out.byte(clearing + if on_layer { VERSION_ON_LAYER } else { VERSION });
        out.number(self.position.0);
        out.number(self.rows);
        let mut root = Vec::with_capacity(CELL_BYTES);
        self.root.encode(&mut root);
        out.raw(&root);
        let clocks = &self.state.clocks;
        for vector in [&clocks.context, &clocks.cursor, &clocks.unlogged] {
            vector.encode(&mut out);
        }
        out.number(self.state.ceiling.to_bits());
        out.length(self.state.starts.len());
        for start in &self.state.starts {
            out.actor(start.actor);
            out.number(start.ceiling.to_bits());
            out.number(start.stored_founded_ms());
        }
        if !self.clears.is_empty() {
            out.length(self.clears.len());
            for op in self.clears.iter() {
                out.bytes(&op.prefix);
                op.context.encode(&mut out);
            }
        }
        let checksum = crc32fast::hash(out.as_bytes());
        out.raw(&checksum.to_le_bytes());
        out.into_bytes()
    }

    /// Reads what [`Self::encode`] wrote.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (body, checksum) = bytes.split_last_chunk::<4>().ok_or(DecodeError::Truncated)?;
        if crc32fast::hash(body).to_le_bytes() != *checksum {
            return Err(DecodeError::Checksum);
        }
        let mut input = Reader::new(body);
        const LAST: u8 = VERSION_ON_LAYER + VERSION_CLEARING;
        let clearing = match input.byte()? {
            VERSION | VERSION_ON_LAYER => false,
            4..=LAST => true,
            value => return Err(DecodeError::Unknown { what: "checkpoint version", value }),
        };
        let position = Position(input.number()?);
        let rows = input.number()?;
        let root = Cell::decode_bytes(&mut input)?;
        let (context, cursor, unlogged) = (vector(&mut input)?, vector(&mut input)?, vector(&mut input)?);
        let clocks = Clocks { context, cursor, unlogged };
        let ceiling = Hlc::from_bits(input.number()?);
        let count = input.length(10, body.len())?;
        let mut starts = Vec::with_capacity(count);
        for _ in 0..count {
            let (actor, ceiling) = (input.actor()?, Hlc::from_bits(input.number()?));
            starts.push(Start { actor, ceiling, founded_ms: Start::founded_of_stored(input.number()?) });
        }
        let mut clears = Clears::default();
        if clearing {
            for _ in 0..input.length(2, body.len())? {
                let prefix = input.bytes(body.len())?.into();
                clears.add(&Arc::new(ClearOp { prefix, context: vector(&mut input)? }));
            }
        }
        input.finish()?;
        let clears = Arc::new(clears);
        Ok(Self { position, rows, root, state: Recovered { clocks, starts, ceiling }, clears })
    }
}

/// Like [`VersionVector::decode`] without its bound on actors, which is for bytes from outside: what this node holds must
/// never be too much to open again.
fn vector(input: &mut Reader<'_>) -> Result<VersionVector, DecodeError> {
    let count = input.length(9, usize::MAX)?;
    (0..count).map(|_| input.dot()).collect::<Result<Vec<Dot>, _>>().map(|dots| dots.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_crdt::ActorId;
    use atoll_replication::sketch::{Change, DigestKey, Residue};

    #[test]
    fn a_checkpoint_reads_back_even_with_more_actors_than_a_peer_may_name() {
        let actors = VersionVector::ACTORS_MAX as u64 + 1;
        let all: VersionVector = (1..=actors).map(|n| Dot::new(ActorId::new(n), n)).collect();
        let unlogged: VersionVector = [Dot::new(ActorId::new(3), 2)].into_iter().collect();
        let start = Start { actor: ActorId::new(5), ceiling: Hlc::at_ms(6), founded_ms: Some(7) };
        let state = Recovered {
            clocks: Clocks { context: all.clone(), cursor: VersionVector::new(), unlogged: unlogged.clone() },
            starts: vec![start],
            ceiling: Hlc::at_ms(9),
        };
        let key = DigestKey::derive(b"test");
        let row = Change { id: key.id_of_bytes(b"row"), delta: Residue::ONE };
        let root = Cell::of(row);
        let plain = Checkpoint { position: Position(3), rows: 8, root, state, clears: Arc::default() };
        assert_eq!([plain.encode(false)[0], plain.encode(true)[0]], [2, 3]);
        let mut clears = Clears::default();
        clears.add(&Arc::new(ClearOp { prefix: b"shop".as_slice().into(), context: unlogged.clone() }));
        let clearing = Checkpoint { clears: Arc::new(clears), ..plain };
        assert_eq!(clearing.encode(false)[0], 4);
        let bytes = clearing.encode(true);
        let back = Checkpoint::decode(&bytes).expect("reads back");
        assert_eq!((back.position, back.rows, back.state.ceiling), (Position(3), 8, Hlc::at_ms(9)));
        let pending: Vec<_> = back.clears.iter().map(|op| (op.prefix.to_vec(), op.context.clone())).collect();
        assert_eq!((bytes[0], pending), (5, vec![(b"shop".to_vec(), unlogged.clone())]));
        assert_eq!((back.root, back.state.clocks.unlogged), (root, unlogged));
        assert_eq!((back.state.clocks.context, back.state.starts), (all, vec![start]));
        for at in [0, 1, 40, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert_eq!(Checkpoint::decode(&damaged).err(), Some(DecodeError::Checksum));
        }
    }
}
