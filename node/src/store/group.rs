//! What the replica thread hands to the commit thread: bytes, and where they go.
//!
//! **What always holds.** L1: the place of every frame is decided here, at appending, so that a record can be found before
//! it is written. L2: each part of a group lies in one segment and begins with room for a mark. L3: a frame never
//! spans segments; one that is larger than a segment gets one of its own.

use super::frame;
use super::index::Index;
use super::segment;
use atoll_replication::{Entry, Position};

/// A run of frames in one segment.
#[derive(Debug)]
pub(super) struct Part {
    /// The segment, by the position it begins with.
    pub(super) segment: Position,
    /// Where in it.
    pub(super) offset: u64,
    /// The position of the first entry.
    pub(super) first: Position,
    /// Mark and frames.
    pub(super) bytes: Vec<u8>,
    /// The stored index of the segment before, which this part follows and which is full.
    pub(super) sealed_index: Option<Vec<u8>>,
}

/// Entries that are written together and become durable together.
#[derive(Debug)]
pub struct Group {
    pub(super) parts: Vec<Part>,
    pub(super) last: Position,
    pub(super) entries: u64,
}

impl Group {
    /// The position of the last entry.
    #[must_use]
    pub fn last(&self) -> Position {
        self.last
    }

    /// Bytes of all frames.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|part| part.bytes.len()).sum()
    }
}

/// Where the next frame goes.
#[derive(Debug)]
pub(super) struct Layout {
    segment_bytes: u64,
    segment: Position,
    offset: u64,
    next: Position,
    parts: Vec<Part>,
    entries: u64,
    frame: Vec<u8>,
}

impl Layout {
    /// Continues the segment that begins with `segment` at `offset` with entry `next`.
    pub(super) fn new(segment_bytes: u64, segment: Position, offset: u64, next: Position) -> Self {
        let (parts, frame) = (Vec::new(), Vec::new());
        Self { segment_bytes, segment, offset, next, parts, entries: 0, frame }
    }

    /// The position of the last entry appended.
    pub(super) fn last(&self) -> Position {
        Position(self.next.0 - 1)
    }

    /// The segment that is written to, and the bytes of its file.
    pub(super) fn segment(&self) -> (Position, u64) {
        (self.segment, self.offset.max(self.segment_bytes))
    }

    /// Appends an entry and indexes it; gives its position.
    pub(super) fn append(&mut self, entry: &Entry, index: &mut Index) -> Position {
        let position = self.next;
        self.frame.clear();
        frame::append_entry(&mut self.frame, position, entry);
        let mark_bytes = if self.parts.is_empty() { frame::MARK_BYTES } else { 0 };
        let is_full = self.offset + (mark_bytes + self.frame.len()) as u64 > self.segment_bytes;
        // L3
        if is_full && self.offset > segment::HEADER_BYTES as u64 {
            let sealed_index = index.encode_segment(self.last(), self.offset as u32);
            index.begin_segment(position);
            self.segment = position;
            self.offset = segment::HEADER_BYTES as u64;
            self.begin_part(Some(sealed_index));
        } else if self.parts.is_empty() {
            self.begin_part(None);
        }
        if let Entry::Record(record) = entry {
            index.add(record.dot(), self.offset as u32);
        }
        if let Some(part) = self.parts.last_mut() {
            part.bytes.extend_from_slice(&self.frame);
        }
        self.offset += self.frame.len() as u64;
        self.next = Position(position.0 + 1);
        self.entries += 1;
        position
    }

    /// L2
    fn begin_part(&mut self, sealed_index: Option<Vec<u8>>) {
        let (segment, offset, first) = (self.segment, self.offset, self.next);
        let mut part = Part { segment, offset, first, bytes: Vec::with_capacity(4_096), sealed_index };
        frame::reserve_mark(&mut part.bytes);
        self.offset += part.bytes.len() as u64;
        self.parts.push(part);
    }

    /// What was appended since this was last called.
    pub(super) fn take(&mut self) -> Option<Group> {
        let entries = std::mem::take(&mut self.entries);
        (entries > 0).then(|| Group { parts: std::mem::take(&mut self.parts), last: self.last(), entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_crdt::Hlc;

    fn layout(segment_bytes: u64) -> (Layout, Index) {
        let mut index = Index::default();
        index.begin_segment(Position(1));
        (Layout::new(segment_bytes, Position(1), segment::HEADER_BYTES as u64, Position(1)), index)
    }

    #[test]
    fn what_does_not_fit_begins_the_next_segment_and_seals_the_last() {
        let (mut layout, mut index) = layout(128);
        let entry = Entry::Ceiling(Hlc::at_ms(1));
        for _ in 0..5 {
            layout.append(&entry, &mut index);
        }
        let group = layout.take().expect("entries were appended");
        assert!(layout.take().is_none());
        let parts: Vec<_> = group
            .parts
            .iter()
            .map(|p| (p.segment.0, p.offset, p.first.0, p.bytes.len(), p.sealed_index.is_some()))
            .collect();
        // A header of 32, a mark of 24, two frames of 24: the third would not fit into what remains.
        assert_eq!(parts, [(1, 32, 1, 96, false), (4, 32, 4, 72, true)]);
        assert_eq!((group.last(), group.entries, group.bytes()), (Position(5), 5, 168));
        layout.append(&entry, &mut index);
        let next = layout.take().expect("an entry");
        assert_eq!((next.parts[0].segment, next.parts[0].offset), (Position(6), 32));
    }

    #[test]
    fn a_frame_larger_than_a_segment_has_one_of_its_own() {
        let (mut layout, mut index) = layout(40);
        for _ in 0..3 {
            layout.append(&Entry::Ceiling(Hlc::at_ms(1)), &mut index);
        }
        let segments: Vec<_> = layout.take().expect("entries").parts.iter().map(|p| p.segment.0).collect();
        assert_eq!(segments, [1, 2, 3]);
    }
}
