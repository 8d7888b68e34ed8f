//! The replica thread: the one owner of the protocol's state and of the store's writing side.
//!
//! **How it goes.** It takes what is queued, hands each event to [`Replica::handle`], hands what was appended to the
//! commit thread in one group, and carries out the effects. When the commit thread reports a position, the readers'
//! view moves there first, and only then are the writes up to it answered.
//!
//! **What always holds.** D1: whoever has an answer sees its write in the next read here. D2: nothing waits for this
//! thread's queue while this thread waits for it: the commit thread leaves its position in an atomic and a nudge that
//! may be dropped. D3: an error of the store ends the process: what is in memory may be ahead of what is on disk.
//!
//! **What is not here.** Any decision of the protocol.

use crate::clock::Clock;
use crate::inbox::{Answer, Event};
use crate::peer::PeerHandle;
use crate::store::{CommitQueue, NodeStore};
use atoll_replication::{Effect, Input, Instant, Position, Replica, RequestId};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, watch};

/// Events handled before what they made is handed on: bounds the latency of the first of them.
const EVENTS_AT_ONCE: usize = 1_024;
/// Time after which it is handed on although more events wait: a peer's backlog comes in large messages.
const EVENTS_TIME: Duration = Duration::from_millis(2);
/// Records given out in one answer: what the replica thread spends on it.
const EXPORT_BYTES: usize = 1 << 20;
/// Between two reports of what the replica looks like.
const REPORT_EVERY: Duration = Duration::from_millis(20);
/// How long a stop may wait for the disk.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// The last durable position, as the commit thread leaves it. D2
#[derive(Debug, Clone, Default)]
pub(crate) struct SyncedUpTo(Arc<AtomicU64>);

impl SyncedUpTo {
    /// Everything up to `position` is durable.
    pub(crate) fn raise(&self, position: Position) {
        self.0.fetch_max(position.0, Ordering::Release);
    }

    fn get(&self) -> Position {
        Position(self.0.load(Ordering::Acquire))
    }
}

/// Told now and then what the replica looks like.
pub(crate) type Report = Box<dyn FnMut(&Replica, &NodeStore) + Send>;

/// What the replica thread owns.
pub(crate) struct Driver {
    pub(crate) replica: Replica,
    pub(crate) store: NodeStore,
    pub(crate) commits: CommitQueue,
    pub(crate) synced: SyncedUpTo,
    pub(crate) peers: Option<PeerHandle>,
    pub(crate) clock: Clock,
    pub(crate) report: Report,
    /// Counts changes of rows in our own namespaces, the roster among them.
    pub(crate) system_changes: watch::Sender<u64>,
    pub(crate) answers: HashMap<RequestId, Answer>,
    pub(crate) next_request: u64,
    pub(crate) published: Position,
    pub(crate) reported_at: Instant,
    pub(crate) effects: Vec<Effect>,
    /// Dropped with the thread: whoever holds the other end learns that it has ended.
    pub(crate) alive: mpsc::Sender<()>,
}

impl Driver {
    /// Starts the thread. It ends when it is told to stop, or when nobody can reach it any more.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn spawn(mut self, mut events: mpsc::Receiver<Event>) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("replica".into()).spawn(move || {
            let mut stopping: Option<Instant> = None;
            self.hand_on();
            loop {
                let event = match events.try_recv() {
                    // Nothing has come, and there is more to do.
                    Err(TryRecvError::Empty) if self.replica.has_more_to_do() => {
                        self.hand_on();
                        continue;
                    }
                    Ok(event) => Some(event),
                    Err(_) => events.blocking_recv(),
                };
                let Some(event) = event else { break };
                let began = self.clock.instant();
                let mut stop = self.event(event);
                for _ in 1..EVENTS_AT_ONCE {
                    if self.clock.instant().since(began) >= EVENTS_TIME {
                        break;
                    }
                    let Ok(event) = events.try_recv() else { break };
                    stop |= self.event(event);
                }
                self.hand_on();
                if stop && stopping.is_none() {
                    stopping = Some(self.clock.instant());
                }
                if stopping.is_some_and(|since| self.is_settled() || self.clock.instant().since(since) > STOP_WAIT) {
                    break;
                }
            }
            // The next start then has nothing to replay.
            self.store.checkpoint();
            drop(self.alive);
        })
    }

    /// Handles one event; `true` when it asks to stop.
    fn event(&mut self, event: Event) -> bool {
        match event {
            Event::Write(request, answer) => {
                self.next_request += 1;
                let id = RequestId(self.next_request);
                self.answers.insert(id, answer);
                self.input(Input::Write(id, request));
            }
            Event::Input(Input::Pause(node, paused)) => {
                if let Some(peers) = &self.peers {
                    peers.set_paused(node.clone(), paused);
                }
                self.input(Input::Pause(node, paused));
            }
            Event::Input(Input::Hold(held)) => {
                if let Some(peers) = &self.peers {
                    peers.set_held(held);
                }
                self.store.hold_checkpoints(held);
                self.input(Input::Hold(held));
            }
            Event::Input(input) => self.input(input),
            Event::IsLost(token, waited, answer) => {
                let waited_us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
                let since = Instant::from_micros(self.clock.instant().as_micros().saturating_sub(waited_us));
                // Whoever asked may have gone.
                let _ = answer.send(self.replica.is_lost(&token, since));
            }
            Event::Export(beyond, answer) => {
                let _ = answer.send(self.replica.export(&beyond, EXPORT_BYTES, &self.store));
            }
            Event::Import(records, answer) => {
                let now = self.clock.now();
                match self.replica.import(now, records, &mut self.store, &mut self.effects) {
                    Ok(imported) => drop(answer.send(imported)),
                    Err(error) => fail(&error), // D3
                }
            }
            Event::Scrub(answer) => {
                let _ = answer.send(self.store.begin_scrub());
            }
            Event::Backup(answer) => drop(answer.send(self.store.backup())),
            Event::Stop => {
                self.input(Input::Ending);
                return true;
            }
        }
        false
    }

    fn input(&mut self, input: Input) {
        let now = self.clock.now();
        if let Err(error) = self.replica.handle(now, input, &mut self.store, &mut self.effects) {
            fail(&error); // D3
        }
    }

    /// Hands on what the events made: to the disk, to readers, to peers, to clients.
    fn hand_on(&mut self) {
        let synced = self.synced.get();
        if synced > self.published {
            self.published = synced;
            // D1: readers first.
            if self.store.publish(synced).changed_system {
                self.system_changes.send_modify(|count| *count += 1);
            }
            self.input(Input::Synced(synced));
        }
        self.input(Input::Drained);
        if let Some(group) = self.store.take_group() {
            self.commits.submit(group);
        }
        for effect in std::mem::take(&mut self.effects) {
            self.carry_out(effect);
        }
        let now = self.clock.instant();
        if now.since(self.reported_at) >= REPORT_EVERY {
            self.reported_at = now;
            (self.report)(&self.replica, &self.store);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Reply(request, outcome) => {
                if let Some(answer) = self.answers.remove(&request) {
                    // A client that went away does not need its answer; the write stands.
                    let _ = answer.send(outcome);
                }
            }
            Effect::Send(link, message) => {
                if let Some(peers) = &self.peers {
                    peers.send(link, message);
                }
            }
            Effect::Disconnect(link, reason) => {
                if let Some(peers) = &self.peers {
                    peers.disconnect(link, reason);
                }
            }
        }
    }

    /// Whether everything that was appended is durable and answered.
    fn is_settled(&self) -> bool {
        self.replica.durable() == self.replica.context() && self.effects.is_empty()
    }
}

/// Ends the process: the store cannot be trusted to be what memory says. What was acknowledged is on disk, and a restart
/// recovers exactly that.
pub(crate) fn fail(error: &dyn std::fmt::Display) -> ! {
    tracing::error!("the store failed, and the process ends so that nothing is acknowledged on top of it: {error}");
    std::process::abort()
}
