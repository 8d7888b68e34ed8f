//! The scrubber: reads every row of the row engine over and over, so that damage is found while a peer can repair it.
//!
//! **How it goes.** A thread of its own walks the index by id, a few rows at a time: each row must be there, match its
//! checksum, read as a row, and have the digest that the index says. One that does not is left among the suspects, which the
//! replica thread examines. Between two steps it waits, so that one round takes the interval that was asked for; a round
//! that somebody asked for goes without waiting.
//!
//! **What always holds.** W1: a step reads one snapshot of the engine, rows and index alike, and keeps it no longer. W2: it
//! changes nothing. W3: a step reads at most [`ROWS_AT_ONCE`] rows.
//!
//! **What is not here.** What becomes of a damaged row ([`super::state`]), and a row that both the engine and its index have
//! lost: that one the roots tell, and the next opening that reads every row.
//!
//! **Why row by row.** A sum over all rows needs one snapshot for a whole round, and days of versions that are kept for it.

use super::engine::Engine;
use super::error::{FailureHandler, StoreFailure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Rows of one step. W3
const ROWS_AT_ONCE: usize = 64;
/// The longest pause between two steps: a store with few rows is read more often than it was asked for.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);

/// What was read and found since the process began.
#[derive(Debug, Default)]
pub(super) struct ScrubCounts {
    pub(super) rows: AtomicU64,
    pub(super) failures: AtomicU64,
    /// Rounds that came to the last row.
    pub(super) rounds: AtomicU64,
    /// Whether a round that was asked for goes, or is about to.
    pub(super) is_asked: AtomicBool,
}

/// The thread, while this lives.
#[derive(Debug)]
pub(super) struct Scrubber {
    /// Asks for a round at once; dropped, the thread ends.
    asks: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<ScrubCounts>,
}

impl Scrubber {
    /// Starts the thread. `every` is how long a round takes; `None`: only those that are asked for.
    pub(super) fn start(
        engine: Arc<Engine>,
        every: Option<Duration>,
        counts: Arc<ScrubCounts>,
        on_failure: FailureHandler,
    ) -> std::io::Result<Self> {
        let (asks, asked) = sync_channel(1);
        let told = Arc::clone(&counts);
        let thread = std::thread::Builder::new().name("atoll-scrub".into()).spawn(move || {
            let mut round = Round { engine: &engine, counts: &counts, after: Vec::new() };
            while let Some(at_once) = wait(&asked, every.map(|every| round.pause(every))) {
                if at_once {
                    counts.is_asked.store(true, Relaxed);
                    round.finish(&asked, &on_failure);
                    counts.is_asked.store(false, Relaxed);
                } else if round.step_or_tell(&on_failure).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { asks: Some(asks), thread: Some(thread), counts: told })
    }

    /// The same for somebody who waits for the end of it: `false` while a round goes that was asked for.
    pub(super) fn begin(&self) -> bool {
        let begins = !self.counts.is_asked.swap(true, Relaxed);
        if begins {
            self.now();
        }
        begins
    }

    /// Has every row read at once. Asked again meanwhile, one more round follows.
    pub(super) fn now(&self) {
        if let Some(asks) = &self.asks {
            let _ = asks.try_send(());
        }
    }
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        self.asks = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for the next step; whether it belongs to a round that was asked for. `None`: the end.
fn wait(asked: &Receiver<()>, pause: Option<Duration>) -> Option<bool> {
    let Some(pause) = pause else { return asked.recv().ok().map(|()| true) };
    match asked.recv_timeout(pause) {
        Ok(()) => Some(true),
        Err(RecvTimeoutError::Timeout) => Some(false),
        Err(RecvTimeoutError::Disconnected) => None,
    }
}

/// Whether nobody is there any more who could ask. What was asked meanwhile is answered by the round that goes on.
fn is_over(asked: &Receiver<()>) -> bool {
    matches!(asked.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected))
}

struct Round<'a> {
    engine: &'a Engine,
    counts: &'a ScrubCounts,
    /// The last entry of the index that was looked at.
    after: Vec<u8>,
}

impl Round<'_> {
    /// From here to the end, and then from the beginning to the end.
    fn finish(&mut self, asked: &Receiver<()>, on_failure: &FailureHandler) {
        let rounds = if self.after.is_empty() { 1 } else { 2 };
        for _ in 0..rounds {
            while self.step_or_tell(on_failure) == Ok(false) && !is_over(asked) {}
        }
    }

    /// A failure of the engine ends the process.
    fn step_or_tell(&mut self, on_failure: &FailureHandler) -> Result<bool, ()> {
        self.step().map_err(|error| on_failure.tell(StoreFailure::Read(error)))
    }

    /// Looks at the next rows; `true` when that was the last of them.
    fn step(&mut self) -> Result<bool, atoll_crdt::ReadError> {
        let scrubbed = self.engine.scrub(&self.after, ROWS_AT_ONCE)?;
        self.counts.rows.fetch_add(scrubbed.rows, Relaxed);
        self.counts.failures.fetch_add(scrubbed.failures, Relaxed);
        self.after = scrubbed.last.unwrap_or_default();
        self.counts.rounds.fetch_add(u64::from(self.after.is_empty()), Relaxed);
        Ok(self.after.is_empty())
    }

    fn pause(&self, every: Duration) -> Duration {
        let steps = (self.engine.rows_about() / ROWS_AT_ONCE).max(1);
        (every / u32::try_from(steps).unwrap_or(u32::MAX)).min(PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_was_asked_for_is_not_begun_again_before_its_end() {
        let (asks, asked) = sync_channel(1);
        let scrubber = Scrubber { asks: Some(asks), thread: None, counts: Arc::default() };
        assert!(scrubber.begin());
        assert_eq!(asked.try_recv(), Ok(()));
        assert!(!scrubber.begin());
        assert!(asked.try_recv().is_err(), "nothing more is asked for");
        // The thread has come to its end.
        scrubber.counts.is_asked.store(false, Relaxed);
        assert!(scrubber.begin());
    }
}
