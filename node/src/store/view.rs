//! What readers see: synced rows at one moment, and how they come by a newer one.
//!
//! **How it goes.** The replica thread publishes a [`View`] after every sync; a reader takes the current one and keeps it
//! as long as its answer needs. One that carries a session's token waits, if it must, for the view that covers it.
//!
//! **What always holds.** V1: a view never changes. V2: it holds exactly the effects of its context, all of them synced.
//! V3: a waiter is registered under one dot it misses, and woken when that is there; a publish touches no other waiter.
//! V4: at most [`WAITERS_MAX`] wait.

use super::layers::Layers;
use arc_swap::ArcSwap;
use atoll_crdt::{ActorId, CollectionKey, Dot, ReadError, Row, RowKey, RowSource, VersionVector};
use atoll_replication::Position;
use atoll_replication::sketch::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Readers that may wait for a view; one more is refused.
pub const WAITERS_MAX: usize = 65_536;

/// Synced rows at one moment.
#[derive(Debug)]
pub struct View {
    layers: Layers,
    context: Arc<VersionVector>,
    position: Position,
    rows: u64,
    root: Cell,
}

impl View {
    pub(super) fn new(layers: Layers, context: Arc<VersionVector>, position: Position, rows: u64, root: Cell) -> Self {
        Self { layers, context, position, rows, root }
    }

    /// The causal context that the rows stand at: everything in it is here, and durable.
    #[must_use]
    pub fn context(&self) -> &Arc<VersionVector> {
        &self.context
    }

    /// The last journal entry whose effect is here.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// How many rows hold something.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether rows lie here that a clear has yet to remove: [`Self::rows`] and [`Self::root`] are then with them.
    #[must_use]
    pub fn is_clearing(&self) -> bool {
        !self.layers.clears.is_empty()
    }

    /// The sum over all rows: equal at nodes of one cluster that hold the same ones, unless one of them is clearing.
    #[must_use]
    pub fn root(&self) -> Cell {
        self.root
    }
}

impl RowSource for View {
    fn row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        self.layers.row(key)
    }

    fn visit(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError> {
        self.layers.visit(prefix, from, visitor)
    }

    fn live_rows(&self, collection: &CollectionKey) -> Result<u64, ReadError> {
        self.layers.count(collection)
    }
}

/// Why a reader did not get the view it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Behind {
    /// This node has not seen it in time (retry, or ask another region).
    #[error("this node has not yet seen {missing}")]
    Deadline {
        /// Something the reader's session saw, and this node did not.
        missing: Dot,
    },
    /// Too many readers wait already (retry).
    #[error("too many readers are waiting")]
    Overloaded,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopped,
}

/// The current view, and who waits for a later one.
#[derive(Debug)]
pub struct Views {
    current: ArcSwap<View>,
    waiters: Mutex<Waiters>,
}

#[derive(Debug, Default)]
struct Waiters {
    /// By what they miss; the second number tells apart those that miss the same.
    by_actor: BTreeMap<ActorId, BTreeMap<(u64, u64), oneshot::Sender<()>>>,
    waiting: usize,
    registered: u64,
    stopped: bool,
}

impl Views {
    pub(super) fn new(view: Arc<View>) -> Self {
        Self { current: ArcSwap::new(view), waiters: Mutex::default() }
    }

    /// The newest synced state.
    #[must_use]
    pub fn current(&self) -> Arc<View> {
        self.current.load_full()
    }

    /// How many readers wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }

    /// A view that covers `token`: the current one, or the first that does before `deadline`.
    ///
    /// # Errors
    /// None did in time, too many wait, or the node is stopping.
    pub async fn covers(&self, token: &VersionVector, deadline: Instant) -> Result<Arc<View>, Behind> {
        loop {
            let view = self.current();
            let Some(missing) = token.first_missing_in(view.context()) else { return Ok(view) };
            let Some((woken, registration)) = self.register(missing)? else { continue };
            let timely = tokio::time::timeout_at(deadline, woken).await;
            drop(registration);
            if timely.is_err() {
                return Err(Behind::Deadline { missing });
            }
        }
    }

    /// Registers a waiter; `None` when what it misses has come meanwhile.
    fn register(&self, missing: Dot) -> Result<Option<(oneshot::Receiver<()>, Registration<'_>)>, Behind> {
        let mut waiters = self.lock();
        // Under the lock that waking takes after it has published: either this sees the new view, or is woken.
        if self.current.load().context().covers(missing) {
            return Ok(None);
        }
        if waiters.stopped {
            return Err(Behind::Stopped);
        }
        // V4
        if waiters.waiting >= WAITERS_MAX {
            return Err(Behind::Overloaded);
        }
        let (wake, woken) = oneshot::channel();
        waiters.registered += 1;
        waiters.waiting += 1;
        let place = (missing.seq, waiters.registered);
        waiters.by_actor.entry(missing.actor).or_default().insert(place, wake);
        Ok(Some((woken, Registration { views: self, actor: missing.actor, place })))
    }

    /// Publishes a view and wakes those whose dot it has. V3
    pub(super) fn publish(&self, view: Arc<View>) -> Arc<View> {
        let context = Arc::clone(view.context());
        let before = self.current.swap(view);
        let mut waiters = self.lock();
        if waiters.waiting > 0 {
            waiters.wake(&context);
        }
        before
    }

    /// Wakes everybody: nothing will be published any more.
    pub(super) fn stop(&self) {
        let mut waiters = self.lock();
        waiters.stopped = true;
        waiters.by_actor.clear();
        waiters.waiting = 0;
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiters {
    fn wake(&mut self, context: &VersionVector) {
        let mut woken = 0;
        self.by_actor.retain(|actor, waiting| {
            let reached = context.get(*actor);
            while let Some(first) = waiting.first_entry().filter(|first| first.key().0 <= reached) {
                // Whoever no longer listens has timed out.
                let _ = first.remove().send(());
                woken += 1;
            }
            !waiting.is_empty()
        });
        self.waiting -= woken;
    }
}

/// A waiter's place, given back when it waits no more: woken, timed out, or its request gone.
struct Registration<'a> {
    views: &'a Views,
    actor: ActorId,
    place: (u64, u64),
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        let mut waiters = self.views.lock();
        if let Some(waiting) = waiters.by_actor.get_mut(&self.actor) {
            let was_waiting = waiting.remove(&self.place).is_some();
            if waiting.is_empty() {
                waiters.by_actor.remove(&self.actor);
            }
            waiters.waiting -= usize::from(was_waiting);
        }
    }
}
