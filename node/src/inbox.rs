//! What reaches the replica thread, and how to reach it.
//!
//! **What always holds.** I1: the queue is bounded. A client's write that finds it full is refused at once as
//! overloaded; a peer's message waits, which slows that peer's stream and nothing else.

use crate::store::BackupSource;
use atoll_crdt::{ReadError, VersionVector};
use atoll_replication::{Excerpt, Imported, Input, RecordBytes, WriteError, WriteOutcome, WriteRequest};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Events that may wait for the replica thread.
pub const EVENTS_MAX: usize = 16_384;

/// Where a write's outcome goes.
pub type Answer = oneshot::Sender<Result<WriteOutcome, WriteError>>;

/// Something for the replica thread.
#[derive(Debug)]
pub enum Event {
    /// A client's write; the answer goes back when it is durable.
    Write(WriteRequest, Answer),
    /// Anything else that the protocol handles.
    Input(Input),
    /// Whether what a session saw is held by no member any more; the session has waited this long.
    IsLost(VersionVector, Duration, oneshot::Sender<bool>),
    /// Durable records beyond a vector, as many as one answer takes.
    Export(VersionVector, oneshot::Sender<Result<Excerpt, ReadError>>),
    /// Records that another node exported; `None` comes back when one claims to be this process's own.
    Import(Vec<RecordBytes>, oneshot::Sender<Option<Imported>>),
    /// Have every row read at once; `false` comes back while that is done already.
    Scrub(oneshot::Sender<bool>),
    /// The synced state, for a backup.
    Backup(oneshot::Sender<BackupSource>),
    /// Finish what is queued, sync it, and end.
    Stop,
}

/// The replica thread has ended: the process is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node is stopping")]
pub struct Stopped;

/// The sending side of the replica thread's queue.
#[derive(Debug, Clone)]
pub struct Inbox {
    events: mpsc::Sender<Event>,
}

impl Inbox {
    /// A bounded queue and its receiving end.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        (Self { events }, receiver)
    }

    /// Writes, and waits for the outcome.
    ///
    /// # Errors
    /// The queue is full (`Overloaded`), the write is refused, or the node is stopping.
    pub async fn write(&self, request: WriteRequest) -> Result<Result<WriteOutcome, WriteError>, Stopped> {
        let (answer, outcome) = oneshot::channel();
        match self.events.try_send(Event::Write(request, answer)) {
            Ok(()) => outcome.await.map_err(|_| Stopped),
            Err(mpsc::error::TrySendError::Full(_)) => Ok(Err(WriteError::Overloaded)),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Stopped),
        }
    }

    /// Asks whether what a session saw is held by no member any more. `waited`: how long ago its request came.
    ///
    /// # Errors
    /// The node is stopping.
    pub async fn is_lost(&self, token: VersionVector, waited: Duration) -> Result<bool, Stopped> {
        let (answer, outcome) = oneshot::channel();
        self.events.send(Event::IsLost(token, waited, answer)).await.map_err(|_| Stopped)?;
        outcome.await.map_err(|_| Stopped)
    }

    /// Hands in an input, waiting for room.
    ///
    /// # Errors
    /// The node is stopping.
    pub async fn input(&self, input: Input) -> Result<(), Stopped> {
        self.events.send(Event::Input(input)).await.map_err(|_| Stopped)
    }

    /// Hands in an event, waiting for room.
    ///
    /// # Errors
    /// The node is stopping.
    pub async fn event(&self, event: Event) -> Result<(), Stopped> {
        self.events.send(event).await.map_err(|_| Stopped)
    }

    /// Hands in an event from a thread that may block.
    ///
    /// # Errors
    /// The node is stopping.
    pub fn send_blocking(&self, event: Event) -> Result<(), Stopped> {
        self.events.blocking_send(event).map_err(|_| Stopped)
    }

    /// Asks the replica thread to finish and end.
    ///
    /// # Errors
    /// It has ended already.
    pub async fn stop(&self) -> Result<(), Stopped> {
        self.events.send(Event::Stop).await.map_err(|_| Stopped)
    }

    /// Hands in a tick if there is room: a late tick is as good as one on time.
    pub fn tick(&self) {
        let _ = self.events.try_send(Event::Input(Input::Tick));
    }
}
