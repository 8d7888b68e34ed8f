//! A stream's bytes cut into frames.

use bytes::{Buf, Bytes, BytesMut};

use super::{FrameError, Limits};

/// Bytes of the length before every frame.
const LENGTH_BYTES: usize = 4;

/// Chunks taken from a stream at once. One is at most a packet, so this is about 45 KB.
const CHUNKS_AT_ONCE: usize = 32;

/// Cuts bytes, as they arrive, into frames without their lengths. Sans IO.
///
/// Bound: holds at most one incomplete frame and whatever was pushed since the last time
/// [`next_frame`](Self::next_frame) answered `None`. Nothing is reserved for bytes that a length
/// only claims.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: BytesMut,
    frame_bytes_max: usize,
}

impl FrameBuffer {
    /// An empty buffer.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self { bytes: BytesMut::new(), frame_bytes_max: limits.frame_bytes_max }
    }

    /// Appends what arrived.
    pub fn extend(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
    }

    /// The next whole frame, or `None` until more arrives.
    ///
    /// # Errors
    /// `TooLarge` as soon as a length says so (F1); the stream is of no use afterwards.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.bytes.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > self.frame_bytes_max {
            return Err(FrameError::TooLarge { bytes: length, max: self.frame_bytes_max }); // F1
        }
        if self.bytes.len() - LENGTH_BYTES < length {
            return Ok(None);
        }
        self.bytes.advance(LENGTH_BYTES);
        Ok(Some(self.bytes.split_to(length).freeze()))
    }

    /// Whether the bytes so far end at a frame's end.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Why a stream yields no further frame.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The peer sent what is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream or its connection is gone.
    #[error(transparent)]
    Stream(#[from] quinn::ReadError),
}

/// The frames of a QUIC stream.
#[derive(Debug)]
pub struct FrameReader {
    stream: quinn::RecvStream,
    buffer: FrameBuffer,
}

impl FrameReader {
    /// Reads frames from `stream`.
    #[must_use]
    pub fn new(stream: quinn::RecvStream, limits: &Limits) -> Self {
        Self { stream, buffer: FrameBuffer::new(limits) }
    }

    /// A frame that has already arrived, without waiting.
    ///
    /// # Errors
    /// When what arrived is no frame.
    pub fn arrived(&mut self) -> Result<Option<Bytes>, FrameError> {
        self.buffer.next_frame()
    }

    /// The next frame; `None` when the peer has ended the stream. May be dropped and called again.
    ///
    /// # Errors
    /// When the stream fails or carries what is no frame; it is of no use afterwards.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            if let Some(frame) = self.buffer.next_frame()? {
                return Ok(Some(frame));
            }
            let mut chunks = [const { Bytes::new() }; CHUNKS_AT_ONCE];
            // One incomplete frame at most is in the buffer here, which bounds it.
            match self.stream.read_chunks(&mut chunks).await? {
                Some(count) => chunks[..count].iter().for_each(|chunk| self.buffer.extend(chunk)),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(FrameError::Truncated.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(frame_bytes_max: usize) -> Limits {
        Limits { frame_bytes_max, ..Limits::default() }
    }

    fn framed(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for payload in payloads {
            bytes.extend((payload.len() as u32).to_be_bytes());
            bytes.extend(payload);
        }
        bytes
    }

    #[test]
    fn length_beyond_the_bound_is_refused_before_its_bytes_arrive() {
        let mut buffer = FrameBuffer::new(&limits(10));
        buffer.extend(&11_u32.to_be_bytes());
        assert_eq!(buffer.next_frame(), Err(FrameError::TooLarge { bytes: 11, max: 10 }));
    }

    #[test]
    fn claimed_length_reserves_nothing() {
        let mut buffer = FrameBuffer::new(&limits(u32::MAX as usize));
        buffer.extend(&u32::MAX.to_be_bytes());
        assert_eq!(buffer.next_frame(), Ok(None));
        assert!(buffer.bytes.capacity() < 1024, "{}", buffer.bytes.capacity());
    }

    proptest! {
        #[test]
        fn frames_do_not_depend_on_how_their_bytes_arrive(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
            cuts in proptest::collection::vec(1_usize..30, 1..40),
        ) {
            let bytes = framed(&payloads);
            let mut buffer = FrameBuffer::new(&limits(40));
            let mut frames = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                let (chunk, later) = rest.split_at((*cut).min(rest.len()));
                buffer.extend(chunk);
                while let Some(frame) = buffer.next_frame().unwrap() {
                    frames.push(frame.to_vec());
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(frames, payloads);
            prop_assert!(buffer.is_empty());
        }
    }
}
