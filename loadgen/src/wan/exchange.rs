//! What the two threads and the callers share: the switch behind a lock, and two signals.
//!
//! What always holds:
//!
//! 1. **E1** Nothing blocks while it holds the lock: sockets are read and written outside it.
//! 2. **E2** Once it has sent all that was due, the delivery thread sleeps until the next due time, but for
//!    one `grain` at least. Whoever brings a packet that is due sooner wakes it, and nobody else does.
//! 3. **E3** When [`Exchange::change`] returns, every packet that was taken out before the change has been
//!    sent: what a caller has cut stays silent from then on.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use mio::net::UdpSocket;

use super::report::{DelayError, FlowCounters, WanReport, sum_directions};
use super::switch::{Departure, PathId, Switch};

/// Why a poisoned lock ends the thread that meets it: half a change of the switch may have been made.
const POISONED: &str = "nothing panics while it holds the switch";

/// A datagram under way, with the socket it leaves through.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) payload: Arc<[u8]>,
    pub(super) via: Arc<UdpSocket>,
    /// Where to; `None` if the socket is connected.
    pub(super) to: Option<SocketAddr>,
}

/// A datagram that the relay has just read.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) at: Duration,
    pub(super) path: PathId,
    pub(super) packet: Packet,
}

/// A datagram that the delivery thread has just sent, or tried to.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) path: PathId,
    pub(super) bytes: usize,
    pub(super) late: Duration,
    pub(super) was_sent: bool,
}

/// The state shared by the relay thread, the delivery thread and the callers.
#[derive(Debug)]
pub(super) struct Exchange {
    started: Instant,
    grain: Duration,
    state: Mutex<State>,
    /// Wakes the delivery thread: something earlier is due, or the emulator stops.
    sooner: Condvar,
    /// Wakes callers: the delivery thread has sent what it had taken out.
    batch_sent: Condvar,
}

#[derive(Debug)]
struct State {
    switch: Switch<Packet>,
    flows: FlowCounters,
    delay_error: DelayError,
    /// Until when the delivery thread sleeps; `None` while it does not.
    sleeping_until: Option<Duration>,
    /// Before then it does not wake for a due time.
    resting_until: Duration,
    is_sending: bool,
    batches_sent: u64,
    is_stopping: bool,
}

impl State {
    /// When the delivery thread has something to do (E2).
    fn wake_time(&self) -> Duration {
        match self.switch.next_due() {
            Some(due) => due.max(self.resting_until),
            None => Duration::MAX,
        }
    }
}

/// What the delivery thread is to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Send,
    Stop,
}

impl Exchange {
    pub(super) fn new(switch: Switch<Packet>, grain: Duration) -> Self {
        Self {
            started: Instant::now(),
            grain,
            state: Mutex::new(State {
                switch,
                flows: FlowCounters::default(),
                delay_error: DelayError::new(),
                sleeping_until: None,
                resting_until: Duration::ZERO,
                is_sending: false,
                batches_sent: 0,
                is_stopping: false,
            }),
            sooner: Condvar::new(),
            batch_sent: Condvar::new(),
        }
    }

    /// The time since the emulator started.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(POISONED)
    }

    /// Offers what was read, and leaves `arrivals` empty.
    pub(super) fn offer(&self, arrivals: &mut Vec<Arrival>) {
        if arrivals.is_empty() {
            return;
        }
        let mut state = self.lock();
        for Arrival { at, path, packet } in arrivals.drain(..) {
            state.switch.offer(at, path, packet.payload.len(), packet);
        }
        let wakes = state.sleeping_until.is_some_and(|until| state.wake_time() < until);
        if wakes {
            state.sleeping_until = None; // One call to wake it is enough.
        }
        drop(state);
        if wakes {
            self.sooner.notify_one(); // E2
        }
    }

    pub(super) fn set_flows(&self, flows: FlowCounters) {
        self.lock().flows = flows;
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.lock().is_stopping
    }

    pub(super) fn stop(&self) {
        self.lock().is_stopping = true;
        self.sooner.notify_one();
    }

    /// Counts what was sent, waits until something is due, and takes out up to `batch_max` packets into
    /// `batch`. Only the delivery thread calls it.
    pub(super) fn turn_over(&self, sent: &mut Vec<Sent>, batch: &mut Vec<Departure<Packet>>, batch_max: usize) -> Next {
        let mut state = self.lock();
        for one in sent.drain(..) {
            state.switch.record_sent(one.path, one.bytes, one.was_sent);
            state.delay_error.record(one.late);
        }
        if state.is_sending {
            state.is_sending = false;
            state.batches_sent += 1;
            self.batch_sent.notify_all();
        }
        let mut has_rested = false;
        loop {
            if state.is_stopping {
                return Next::Stop;
            }
            let now = self.now();
            batch.extend(std::iter::from_fn(|| state.switch.pop_due(now)).take(batch_max));
            if !batch.is_empty() {
                state.is_sending = true;
                return Next::Send;
            }
            if !has_rested {
                state.resting_until = now + self.grain;
                has_rested = true;
            }
            state = self.sleep(state, now);
        }
    }

    /// Until something is due and the thread has rested, or until woken.
    fn sleep<'a>(&'a self, mut state: MutexGuard<'a, State>, now: Duration) -> MutexGuard<'a, State> {
        let until = state.wake_time();
        state.sleeping_until = Some(until);
        let mut state = if until == Duration::MAX {
            self.sooner.wait(state).expect(POISONED)
        } else {
            self.sooner.wait_timeout(state, until.saturating_sub(now)).expect(POISONED).0
        };
        state.sleeping_until = None;
        state
    }

    /// Changes the switch, and returns once the change holds for the sockets too (E3).
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Switch<Packet>) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state.switch);
        let batches_sent = state.batches_sent;
        while state.is_sending && state.batches_sent == batches_sent {
            let woken = self.batch_sent.wait(state);
            state = woken.expect(POISONED);
        }
        result
    }

    pub(super) fn report(&self) -> WanReport {
        let state = self.lock();
        WanReport {
            directions: sum_directions(state.switch.counters()),
            flows: state.flows,
            delay_error: state.delay_error.clone(),
        }
    }
}
