//! One bidirectional QUIC stream with many requests in flight.
//!
//! *How it goes.* A caller encodes its request into the outbox and joins the queue of those who
//! wait. The writer task takes everything in the outbox at once and hands it to QUIC as one piece;
//! while that is under way the next fills. The reader task gives each answer to the head of the
//! queue, since answers come in the order of requests.
//!
//! *What always holds.* Q1: the order in the queue is the order of the bytes. Q2: everyone in the
//! queue is told something exactly once: an answer, or at the stream's end what became of the
//! request. Those whose bytes the writer had not taken are told that nothing was sent. Q3: what
//! the outbox and the queue hold is bounded by the room that each request takes before it comes
//! here and that is given back when it leaves the queue.
//!
//! *Why one buffer.* QUIC keeps each written piece until it is acknowledged and walks the list for
//! every packet: a hundred small pieces in flight cost many times what one large one does. One
//! piece also means one lock, one wake-up and full packets.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot};

use super::Failure;
use crate::error::chain;
use crate::frame::{self, FrameReader, Limits, ReadError};
use crate::request::Outgoing;
use crate::session::lock;

/// What the caller of a request waits for.
pub(super) type Answer = oneshot::Receiver<Result<frame::Response, Failure>>;

/// The codes with which a client closes a connection, for the other side's log.
pub(super) mod close_code {
    use quinn::VarInt;

    /// The client is done.
    pub(in super::super) const DONE: VarInt = VarInt::from_u32(0);
    /// The server broke the protocol.
    pub(in super::super) const PROTOCOL: VarInt = VarInt::from_u32(1);
}

/// A stream, shared by its callers and its two tasks.
pub(super) struct Stream {
    outbox: Mutex<Outbox>,
    wake: Notify,
    in_flight: AtomicUsize,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Outbox {
    /// Encoded requests that the writer has not taken.
    bytes: BytesMut,
    waiting: VecDeque<Waiting>,
    /// How many at the tail of `waiting` have their bytes still in `bytes`.
    not_taken: usize,
    closed: Option<Failure>,
}

struct Waiting {
    reply: oneshot::Sender<Result<frame::Response, Failure>>,
    room: u32,
}

impl Stream {
    /// Starts the two tasks of a stream. They end with it.
    pub(super) fn start(
        connection: &quinn::Connection,
        (send, recv): (quinn::SendStream, quinn::RecvStream),
        room: Arc<Semaphore>,
    ) -> Arc<Self> {
        let stream = Arc::new(Self::new(room));
        tokio::spawn(write(stream.clone(), send, connection.clone()));
        tokio::spawn(read(stream.clone(), recv, connection.clone()));
        stream
    }

    fn new(room: Arc<Semaphore>) -> Self {
        Self { outbox: Mutex::default(), wake: Notify::new(), in_flight: AtomicUsize::new(0), room }
    }

    /// How many requests wait for their answers.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Queues a request, which takes the `room` along until it is answered.
    pub(super) fn submit(
        &self,
        outgoing: &Outgoing<'_>,
        limits: &Limits,
        room: SemaphorePermit<'_>,
    ) -> Result<Answer, Failure> {
        let (reply, answer) = oneshot::channel();
        let units = u32::try_from(room.num_permits()).unwrap_or(u32::MAX);
        let was_idle = {
            let mut outbox = lock(&self.outbox);
            if let Some(end) = &outbox.closed {
                return Err(not_sent(end));
            }
            frame::encode_request(
                &mut outbox.bytes,
                &outgoing.method,
                outgoing.target,
                &outgoing.headers,
                &outgoing.body,
                limits,
            )
            .map_err(|error| Failure::BadInput(error.to_string()))?;
            outbox.waiting.push_back(Waiting { reply, room: units }); // Q1
            outbox.not_taken += 1;
            outbox.not_taken == 1
        };
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        room.forget(); // Q3: given back by `leave`.
        if was_idle {
            self.wake.notify_one();
        }
        Ok(answer)
    }

    /// Everything that was queued since the last time, or `None` at the stream's end.
    fn take(&self) -> Option<Bytes> {
        let mut outbox = lock(&self.outbox);
        outbox.not_taken = 0;
        outbox.closed.is_none().then(|| outbox.bytes.split().freeze())
    }

    /// Gives an answer to the head of the queue; `false` when nobody waits.
    fn deliver(&self, response: frame::Response) -> bool {
        let head = {
            let mut outbox = lock(&self.outbox);
            // An answer to what was never written is no answer.
            if outbox.waiting.len() == outbox.not_taken { None } else { outbox.waiting.pop_front() }
        };
        let Some(head) = head else { return false };
        self.leave(head, Ok(response));
        true
    }

    /// Ends the stream: everyone in the queue and everyone to come learns what `end` means for
    /// them. The first end stays.
    pub(super) fn close(&self, end: &Failure) {
        let (waiting, taken) = {
            let mut outbox = lock(&self.outbox);
            outbox.closed.get_or_insert_with(|| end.clone());
            let waiting = std::mem::take(&mut outbox.waiting);
            let taken = waiting.len() - std::mem::take(&mut outbox.not_taken);
            (waiting, taken)
        };
        for (at, one) in waiting.into_iter().enumerate() {
            let failure = if at < taken { end.clone() } else { not_sent(end) };
            self.leave(one, Err(failure)); // Q2
        }
        self.wake.notify_one();
    }

    fn leave(&self, waiting: Waiting, outcome: Result<frame::Response, Failure>) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.room.add_permits(waiting.room as usize); // Q3
        // A caller that has given up is not an error.
        let _ = waiting.reply.send(outcome);
    }
}

/// What a stream's end means for a request that had not left.
fn not_sent(end: &Failure) -> Failure {
    match end {
        Failure::NotSent(cause) | Failure::Lost(cause) | Failure::Protocol(cause) => Failure::NotSent(cause.clone()),
        Failure::NoAnswer | Failure::BadInput(_) => Failure::NotSent(String::new()),
    }
}

/// The writer task.
async fn write(stream: Arc<Stream>, mut send: quinn::SendStream, connection: quinn::Connection) {
    while let Some(batch) = stream.take() {
        if batch.is_empty() {
            stream.wake.notified().await;
            // On a runtime of many threads a woken task runs next: this lets every other that is
            // ready add its request to the same piece first.
            tokio::task::yield_now().await;
        } else if let Err(error) = send.write_all_chunks(&mut [batch]).await {
            match error {
                // The reader meets the same end, after the answers that arrived before it.
                quinn::WriteError::ConnectionLost(_) => {}
                other => finish(&stream, &connection, &Failure::Lost(chain(&other))),
            }
            return;
        }
    }
}

/// The reader task.
async fn read(stream: Arc<Stream>, recv: quinn::RecvStream, connection: quinn::Connection) {
    let limits = Limits::default();
    let mut reader = FrameReader::new(recv, &limits);
    let end = loop {
        let frame = match reader.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => break Failure::Lost("the node ended the stream".to_owned()),
            Err(error) => break end_of(error),
        };
        match frame::decode_response(&frame, &limits) {
            Ok(response) => {
                if !stream.deliver(response) {
                    break Failure::Protocol("an answer without a request".to_owned());
                }
            }
            Err(error) => break Failure::Protocol(error.to_string()),
        }
    };
    finish(&stream, &connection, &end);
}

/// One stream's end is the connection's: the next request makes a new one.
fn finish(stream: &Stream, connection: &quinn::Connection, end: &Failure) {
    let code = match end {
        Failure::Protocol(_) => close_code::PROTOCOL,
        _ => close_code::DONE,
    };
    stream.close(end);
    connection.close(code, b"");
}

/// What a read error means for the requests in flight.
fn end_of(error: ReadError) -> Failure {
    match error {
        ReadError::Frame(error) => Failure::Protocol(error.to_string()),
        ReadError::Stream(quinn::ReadError::ConnectionLost(reason)) => end_of_connection(&reason),
        ReadError::Stream(error) => Failure::Lost(chain(&error)),
    }
}

/// What a lost connection means for the requests in flight on it.
pub(super) fn end_of_connection(reason: &quinn::ConnectionError) -> Failure {
    let cause = chain(reason);
    match reason {
        // Codes 0x100 to 0x1ff are TLS alerts: the node did not accept this client, and a node
        // reads no request of a client that it has not accepted.
        quinn::ConnectionError::ConnectionClosed(close) if (0x100..0x200).contains(&u64::from(close.error_code)) => {
            Failure::NotSent(cause)
        }
        _ => Failure::Lost(cause),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Method;

    use super::*;
    use crate::frame::{FrameBuffer, decode_request};

    /// A stream without its tasks, which the tests play.
    fn stream() -> Stream {
        Stream::new(Arc::new(Semaphore::new(10)))
    }

    fn submit(stream: &Stream, target: &str) -> Result<Answer, Failure> {
        let outgoing = Outgoing {
            method: Method::POST,
            target,
            headers: Vec::new(),
            body: Bytes::new(),
            may_wait: Duration::ZERO,
        };
        let room = stream.room.try_acquire_many(2).unwrap();
        stream.submit(&outgoing, &Limits::default(), room)
    }

    fn answer(status: u16) -> frame::Response {
        frame::Response { status, headers: frame::Headers::default(), body: Bytes::new() }
    }

    fn outcome(mut answer: Answer) -> Result<u16, Failure> {
        answer.try_recv().expect("told something").map(|response| response.status)
    }

    #[test]
    fn everything_queued_is_taken_as_one_piece_in_order() {
        let stream = stream();
        let answers: Vec<_> = ["/1", "/2", "/3"].map(|t| submit(&stream, t).unwrap()).into();
        let mut frames = FrameBuffer::new(&Limits::default());
        frames.extend(&stream.take().unwrap());
        let mut targets = Vec::new();
        while let Some(frame) = frames.next_frame().unwrap() {
            targets.push(decode_request(&frame, &Limits::default()).unwrap().target.to_string());
        }
        assert_eq!(targets, ["/1", "/2", "/3"]);
        assert!(stream.take().unwrap().is_empty());
        for status in [201, 202, 203] {
            assert!(stream.deliver(answer(status)));
        }
        let statuses: Vec<_> = answers.into_iter().map(|answer| outcome(answer).unwrap()).collect();
        assert_eq!(statuses, [201, 202, 203]);
    }

    #[test]
    fn end_tells_apart_what_had_left_and_what_had_not() {
        let stream = stream();
        let left = submit(&stream, "/left").unwrap();
        stream.take().unwrap();
        let queued = submit(&stream, "/queued").unwrap();
        let end = Failure::Lost("cable".to_owned());
        stream.close(&end);
        assert_eq!(outcome(left), Err(end));
        assert_eq!(outcome(queued), Err(Failure::NotSent("cable".to_owned())));
        assert_eq!(submit(&stream, "/late").err(), Some(Failure::NotSent("cable".to_owned())));
        assert!(stream.take().is_none());
    }

    #[test]
    fn answer_to_what_has_not_left_is_nobodys() {
        let stream = stream();
        let mut queued = submit(&stream, "/queued").unwrap();
        assert!(!stream.deliver(answer(200)));
        assert!(queued.try_recv().is_err());
    }

    #[test]
    fn room_is_given_back_once_by_an_answer_by_the_end_and_by_a_refusal() {
        let stream = stream();
        let _answered = submit(&stream, "/1").unwrap();
        let _lost = submit(&stream, "/2").unwrap();
        stream.take().unwrap();
        assert_eq!((stream.room.available_permits(), stream.in_flight()), (6, 2));
        assert!(stream.deliver(answer(200)));
        assert_eq!((stream.room.available_permits(), stream.in_flight()), (8, 1));
        stream.close(&Failure::Lost(String::new()));
        stream.close(&Failure::Lost(String::new()));
        assert_eq!((stream.room.available_permits(), stream.in_flight()), (10, 0));
        assert!(submit(&stream, "/3").is_err());
        assert_eq!(stream.room.available_permits(), 10);
    }

    #[test]
    fn request_that_cannot_be_encoded_leaves_the_queue_as_it_was() {
        let stream = stream();
        let refused = submit(&stream, &"/".repeat(100_000));
        assert!(matches!(refused, Err(Failure::BadInput(_))));
        assert_eq!((stream.room.available_permits(), stream.in_flight()), (10, 0));
        assert!(stream.take().unwrap().is_empty());
    }
}
