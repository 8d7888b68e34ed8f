//! All paths of the emulator and every packet under way: the part that decides, without sockets and clocks.
//!
//! How it goes: the relay offers a packet to a path ([`Switch::offer`]); if it arrives at all, it waits here,
//! in order of due time. The delivery thread takes what is due ([`Switch::pop_due`]), sends it, and reports
//! that it did ([`Switch::record_sent`]).
//!
//! What always holds:
//!
//! 1. **S1** Packets leave in order of due time, and equal due times in order of offering; together with the
//!    paths' own rule (P2) a path that does not reorder delivers in the order in which it was offered.
//! 2. **S2** A cut loses what is offered while it lasts *and* what was under way when it fell: after a cut
//!    nothing crosses, whatever heals in between.
//! 3. **S3** Each packet, and each duplicate made of one, is counted exactly once: sent, refused by the
//!    socket, lost, cut, dropped at a full queue, dropped at the emulator's own bound, or still under way.
//! 4. **S4** Packets under way never weigh more than `in_flight_bytes_max`.
//!
//! What is not here: what a single path does to a packet (`path`), and the threads (`relay`, `delivery`).
//!
//! Why a packet under way is lost by a cut and not delivered: a test that cuts a link must know that from
//! then on *nothing* passes; with a rest under way it would have to sleep for the delay and hope.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

use atoll_geo::RegionName;

use super::cuts::{Cuts, Place};
use super::path::{Fate, Path};
use super::report::PathCounters;
use super::shape::Shape;

/// What a packet under way weighs beyond its payload: its place in the queue and its allocation. Without it
/// empty packets would be free.
const PACKET_OVERHEAD_BYTES: usize = 128;

/// One direction of one link, as the switch numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PathId(usize);

/// All paths and every packet under way. `P` is what a packet is to whoever sends it.
#[derive(Debug)]
pub(super) struct Switch<P> {
    seed: u64,
    in_flight_bytes_max: usize,
    paths: Vec<Line>,
    cuts: Cuts,
    in_flight: BinaryHeap<Reverse<InFlight<P>>>,
    in_flight_bytes: usize,
    next_seq: u64,
}

/// A path with its two ends and its state.
#[derive(Debug)]
struct Line {
    ends: (RegionName, RegionName),
    path: Path,
    is_down: bool,
    /// Grows with every cut that takes this line down; a packet of an earlier epoch is lost.
    cut_epoch: u64,
    counters: PathCounters,
}

/// A packet under way, ordered by due time and then by arrival.
#[derive(Debug)]
struct InFlight<P> {
    due: Duration,
    seq: u64,
    cut_epoch: u64,
    departure: Departure<P>,
}

/// A packet that is due.
#[derive(Debug)]
pub(super) struct Departure<P> {
    /// The path it travelled.
    pub(super) path: PathId,
    /// When it was to leave.
    pub(super) due: Duration,
    /// The size of its payload.
    pub(super) bytes: usize,
    /// The packet.
    pub(super) packet: P,
}

impl<P: Clone> Switch<P> {
    pub(super) fn new(seed: u64, in_flight_bytes_max: usize) -> Self {
        Self {
            seed,
            in_flight_bytes_max,
            paths: Vec::new(),
            cuts: Cuts::default(),
            in_flight: BinaryHeap::new(),
            in_flight_bytes: 0,
            next_seq: 0,
        }
    }

    /// Adds a path. Its random draws depend on the seed, its two ends, and how many paths with these ends
    /// there were before; not on paths between other regions.
    pub(super) fn add_path(&mut self, from: &RegionName, to: &RegionName, shape: Shape) -> PathId {
        let ends = (from.clone(), to.clone());
        let earlier = self.paths.iter().filter(|line| line.ends == ends).count();
        let is_down = self.cuts.is_down(&ends);
        self.paths.push(Line {
            path: Path::new(shape, path_seed(self.seed, &ends, earlier as u64)),
            ends,
            is_down,
            cut_epoch: 0,
            counters: PathCounters::default(),
        });
        PathId(self.paths.len() - 1)
    }

    /// Gives every path between the two ends, in this direction, a new shape; returns how many there are.
    pub(super) fn reshape(&mut self, from: &RegionName, to: &RegionName, shape: Shape) -> usize {
        let place = Place::Direction(from.clone(), to.clone());
        let concerned = self.paths.iter_mut().filter(|line| place.concerns(&line.ends));
        concerned.map(|line| line.path.reshape(shape)).count()
    }

    /// Takes `place` down; returns how many paths are part of it.
    pub(super) fn cut(&mut self, place: Place) -> usize {
        let concerned = self.count(&place);
        self.cuts.insert(place);
        self.apply_cuts();
        concerned
    }

    /// Undoes the cut of `place`; returns how many paths are part of it.
    pub(super) fn heal(&mut self, place: Place) -> usize {
        let concerned = self.count(&place);
        self.cuts.remove(place);
        self.apply_cuts();
        concerned
    }

    /// Undoes every cut.
    pub(super) fn heal_all(&mut self) {
        self.cuts.clear();
        self.apply_cuts();
    }

    fn count(&self, place: &Place) -> usize {
        self.paths.iter().filter(|line| place.concerns(&line.ends)).count()
    }

    fn apply_cuts(&mut self) {
        for line in &mut self.paths {
            let is_down = self.cuts.is_down(&line.ends);
            if is_down && !line.is_down {
                line.cut_epoch += 1; // S2: whatever is under way belongs to an earlier epoch now.
            }
            line.is_down = is_down;
        }
    }

    /// Takes in a packet of `bytes` payload that arrived at `now` at the near end of `path`.
    pub(super) fn offer(&mut self, now: Duration, path: PathId, bytes: usize, packet: P) {
        let line = &mut self.paths[path.0];
        // The path draws for every packet, cut or not, so that a cut leaves later draws as they were.
        let fate = line.path.offer(now, bytes);
        if line.is_down {
            line.counters.cut += 1; // S2
            return;
        }
        match fate {
            Fate::Lost => line.counters.lost += 1,
            Fate::QueueFull => line.counters.queue_full += 1,
            Fate::Arrives { due, duplicate_due } => {
                if let Some(due) = duplicate_due {
                    line.counters.duplicated += 1;
                    self.send_off(Departure { path, due, bytes, packet: packet.clone() });
                }
                self.send_off(Departure { path, due, bytes, packet });
            }
        }
    }

    fn send_off(&mut self, departure: Departure<P>) {
        let line = &mut self.paths[departure.path.0];
        let weight = departure.bytes + PACKET_OVERHEAD_BYTES;
        if self.in_flight_bytes + weight > self.in_flight_bytes_max {
            line.counters.emulator_full += 1; // S4
            return;
        }
        self.in_flight_bytes += weight;
        let seq = self.next_seq;
        self.next_seq += 1;
        self.in_flight.push(Reverse(InFlight { due: departure.due, seq, cut_epoch: line.cut_epoch, departure }));
    }

    /// When the next packet is due, if any is under way.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.in_flight.peek().map(|Reverse(first)| first.due)
    }

    /// Takes the next packet that is due at `now`, passing over those that a cut has lost.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<Departure<P>> {
        while self.next_due()? <= now {
            let Reverse(InFlight { cut_epoch, departure, .. }) = self.in_flight.pop()?;
            self.in_flight_bytes -= departure.bytes + PACKET_OVERHEAD_BYTES;
            let line = &mut self.paths[departure.path.0];
            if cut_epoch == line.cut_epoch {
                return Some(departure);
            }
            line.counters.cut += 1; // S2
        }
        None
    }

    /// Counts a packet that was taken by [`Switch::pop_due`]: sent, or refused by its socket.
    pub(super) fn record_sent(&mut self, path: PathId, bytes: usize, was_sent: bool) {
        let counters = &mut self.paths[path.0].counters;
        if was_sent {
            counters.forwarded += 1;
            counters.forwarded_bytes += bytes as u64;
        } else {
            counters.send_failed += 1;
        }
    }

    /// The counters of every path with its two ends, in the order in which the paths were added.
    pub(super) fn counters(&self) -> impl Iterator<Item = (&(RegionName, RegionName), &PathCounters)> {
        self.paths.iter().map(|line| (&line.ends, &line.counters))
    }
}

/// FNV-1a over all that tells one path from another. Any mixing would do; this one is the same everywhere.
fn path_seed(seed: u64, ends: &(RegionName, RegionName), earlier: u64) -> u64 {
    let names = [ends.0.as_str().as_bytes(), b">", ends.1.as_str().as_bytes()].concat();
    let numbers = [seed.to_le_bytes(), earlier.to_le_bytes()].concat();
    numbers
        .iter()
        .chain(&names)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl<P> InFlight<P> {
    fn key(&self) -> (Duration, u64) {
        (self.due, self.seq) // S1
    }
}

impl<P> PartialEq for InFlight<P> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<P> Eq for InFlight<P> {}

impl<P> PartialOrd for InFlight<P> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<P> Ord for InFlight<P> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

#[cfg(test)]
#[path = "switch_tests.rs"]
mod tests;
