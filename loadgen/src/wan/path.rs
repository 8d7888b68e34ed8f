//! One direction of one link: decides, packet by packet, what becomes of it and when.
//!
//! How it goes: a packet first waits for the wire (if bandwidth is limited), then travels for the delay and
//! the jitter, and on the way it may be lost or doubled.
//!
//! What always holds:
//!
//! 1. **P1** Nothing is due before it was offered plus the delay.
//! 2. **P2** Without `reorder`, due times never decrease in the order of offering.
//! 3. **P3** Every packet takes the same number of random draws whatever its fate and the shape: changing a
//!    shape in mid-run, or one of its probabilities, leaves all later draws as they were.
//! 4. **P4** Every fate is a function of the seed, the shapes and the offers (time and size) alone.
//!
//! What is not here: sockets, clocks and the packets' bytes; cuts, which concern regions (`switch`).
//!
//! Why a lost packet still occupies the wire: it is lost on its way, not before it set out; a sender that
//! ignores loss must not find the link wider than it is.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::shape::Shape;

/// What a datagram weighs on the wire beyond its payload: an IPv4 and a UDP header.
const HEADER_BYTES: u64 = 28;

/// One direction of one link. Times are measured from the start of the emulator.
#[derive(Debug)]
pub(super) struct Path {
    shape: Shape,
    rng: StdRng,
    /// When the wire has carried all that was accepted so far.
    wire_free_at: Duration,
    /// The latest due time that was given out.
    last_due: Duration,
}

/// What becomes of an offered packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It arrives, and perhaps a second time.
    Arrives {
        /// When it is due.
        due: Duration,
        /// When its duplicate is due, if it has one.
        duplicate_due: Option<Duration>,
    },
    /// It is lost on its way.
    Lost,
    /// The queue in front of the wire is full: dropped at its tail.
    QueueFull,
}

/// The random draws of one packet, each from [0, 1).
struct Draws {
    loss: f64,
    duplicate: f64,
    jitter: f64,
    duplicate_jitter: f64,
}

impl Path {
    pub(super) fn new(shape: Shape, seed: u64) -> Self {
        Self { shape, rng: StdRng::seed_from_u64(seed), wire_free_at: Duration::ZERO, last_due: Duration::ZERO }
    }

    /// Changes the shape for packets offered from now on; those under way keep their due times.
    pub(super) fn reshape(&mut self, shape: Shape) {
        self.shape = shape;
    }

    /// Decides about a packet of `payload_bytes` that arrives here at `now`.
    pub(super) fn offer(&mut self, now: Duration, payload_bytes: usize) -> Fate {
        let draws = self.draw(); // P3: before any way out.
        let Some(leaves) = self.take_wire(now, payload_bytes as u64) else {
            return Fate::QueueFull;
        };
        if draws.loss < self.shape.loss {
            return Fate::Lost;
        }
        let due = self.due(leaves, draws.jitter);
        let duplicate_due = (draws.duplicate < self.shape.duplicate).then(|| self.due(leaves, draws.duplicate_jitter));
        Fate::Arrives { due, duplicate_due }
    }

    fn draw(&mut self) -> Draws {
        Draws {
            loss: self.rng.random(),
            duplicate: self.rng.random(),
            jitter: self.rng.random(),
            duplicate_jitter: self.rng.random(),
        }
    }

    /// When the packet's last bit has left, or `None` if there is no room to wait for the wire. An idle wire
    /// takes a packet of any size.
    fn take_wire(&mut self, now: Duration, payload_bytes: u64) -> Option<Duration> {
        let Some(bps) = self.shape.bandwidth_bps else {
            return Some(now);
        };
        let bytes = payload_bytes + HEADER_BYTES;
        let waiting = self.wire_free_at.saturating_sub(now);
        let waiting_bytes = waiting.as_nanos() * u128::from(bps.get()) / (8 * 1_000_000_000);
        if !waiting.is_zero() && waiting_bytes + u128::from(bytes) > u128::from(self.shape.queue_bytes) {
            return None;
        }
        let on_wire = Duration::from_nanos(bytes * 8 * 1_000_000_000 / bps);
        self.wire_free_at = self.wire_free_at.max(now) + on_wire;
        Some(self.wire_free_at)
    }

    fn due(&mut self, leaves: Duration, draw: f64) -> Duration {
        let due = leaves + self.shape.delay + self.shape.jitter_for(draw); // P1
        if self.shape.reorder {
            return due;
        }
        self.last_due = self.last_due.max(due); // P2
        self.last_due
    }
}

#[cfg(test)]
mod tests {
    use super::super::shape::{JitterKind, ShapeSpec};
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn path(spec: ShapeSpec, seed: u64) -> Path {
        Path::new(spec.check().unwrap(), seed)
    }

    /// Offers `n` packets of 1,200 B, one every `gap`, and returns their fates with their times.
    fn offer_many(path: &mut Path, n: u32, gap: Duration) -> Vec<(Duration, Fate)> {
        (0..n).map(|i| (gap * i, path.offer(gap * i, 1_200))).collect()
    }

    fn due_of(fate: Fate) -> Duration {
        match fate {
            Fate::Arrives { due, duplicate_due: None } => due,
            other @ (Fate::Arrives { .. } | Fate::Lost | Fate::QueueFull) => {
                panic!("expected one arrival, got {other:?}")
            }
        }
    }

    #[test]
    fn a_plain_delay_is_exact() {
        let mut path = path(ShapeSpec { delay_ms: 40.0, ..ShapeSpec::default() }, 1);
        for (now, fate) in offer_many(&mut path, 100, MS / 3) {
            assert_eq!(due_of(fate), now + 40 * MS);
        }
    }

    #[test]
    fn jitter_keeps_order_unless_told_otherwise() {
        for jitter in [JitterKind::Exponential, JitterKind::Uniform] {
            for reorder in [false, true] {
                let spec = ShapeSpec { delay_ms: 5.0, jitter_ms: 3.0, jitter, reorder, ..ShapeSpec::default() };
                let fates = offer_many(&mut path(spec, 7), 2_000, MS / 10);
                let dues: Vec<_> = fates.iter().map(|(_, fate)| due_of(*fate)).collect();
                assert_eq!(dues.is_sorted(), !reorder, "{jitter:?}, reorder {reorder}");
                for ((now, _), due) in fates.iter().zip(&dues) {
                    assert!(*due >= *now + 5 * MS, "due before light arrives");
                    assert!(*due <= *now + 5 * MS + 2_000 * MS / 10 + 30 * MS);
                }
            }
        }
    }

    #[test]
    fn loss_and_duplication_have_the_rate_they_were_given() {
        let spec = ShapeSpec { loss: 0.2, duplicate: 0.1, ..ShapeSpec::default() };
        let n = 20_000;
        let fates = offer_many(&mut path(spec, 3), n, MS);
        let lost = fates.iter().filter(|(_, fate)| *fate == Fate::Lost).count();
        let twice =
            fates.iter().filter(|(_, fate)| matches!(fate, Fate::Arrives { duplicate_due: Some(_), .. })).count();
        // Five standard deviations of a binomial: 283 and 192.
        assert!(lost.abs_diff(4_000) < 283, "{lost} lost of {n}");
        assert!(twice.abs_diff(1_600) < 192, "{twice} doubled of {n}");
    }

    #[test]
    fn certain_loss_loses_all_and_no_loss_loses_none() {
        let all = ShapeSpec { loss: 1.0, ..ShapeSpec::default() };
        assert!(offer_many(&mut path(all, 1), 1_000, MS).iter().all(|(_, fate)| *fate == Fate::Lost));
        let none = ShapeSpec::default();
        assert!(offer_many(&mut path(none, 1), 1_000, MS).iter().all(|(_, fate)| *fate != Fate::Lost));
    }

    #[test]
    fn a_limited_wire_spaces_packets_and_counts_headers() {
        // 1,228 B at 1 Mbit/s are 9.824 ms on the wire.
        let spec = ShapeSpec { delay_ms: 1.0, bandwidth_bps: Some(1_000_000), ..ShapeSpec::default() };
        let mut path = path(spec, 1);
        for i in 1..=50 {
            assert_eq!(due_of(path.offer(Duration::ZERO, 1_200)), MS + Duration::from_micros(9_824) * i);
        }
        // Once the wire has been idle, nothing of the past is left.
        let later = Duration::from_secs(10);
        assert_eq!(due_of(path.offer(later, 1_200)), later + MS + Duration::from_micros(9_824));
    }

    #[test]
    fn a_full_queue_drops_at_its_tail_and_drains_at_line_speed() {
        let spec = ShapeSpec { bandwidth_bps: Some(1_000_000), queue_bytes: 10 * 1_228, ..ShapeSpec::default() };
        let mut path = path(spec, 1);
        let accepted = (0..100).filter(|_| path.offer(Duration::ZERO, 1_200) != Fate::QueueFull);
        assert_eq!(accepted.count(), 10);
        // Ten milliseconds later one packet has left the queue: there is room for exactly one more.
        assert_ne!(path.offer(10 * MS, 1_200), Fate::QueueFull);
        assert_eq!(path.offer(10 * MS, 1_200), Fate::QueueFull);
    }

    #[test]
    fn an_idle_wire_takes_a_packet_larger_than_its_queue() {
        let spec = ShapeSpec { bandwidth_bps: Some(1_000_000), queue_bytes: 0, ..ShapeSpec::default() };
        let mut path = path(spec, 1);
        assert_ne!(path.offer(Duration::ZERO, 1_200), Fate::QueueFull);
        assert_eq!(path.offer(MS, 1_200), Fate::QueueFull);
        assert_ne!(path.offer(10 * MS, 1_200), Fate::QueueFull);
    }

    #[test]
    fn lost_packets_still_occupy_the_wire() {
        let spec =
            ShapeSpec { bandwidth_bps: Some(1_000_000), queue_bytes: 10 * 1_228, loss: 1.0, ..ShapeSpec::default() };
        let mut path = path(spec, 1);
        let lost = (0..100).filter(|_| path.offer(Duration::ZERO, 1_200) == Fate::Lost).count();
        assert_eq!(lost, 10);
    }

    #[test]
    fn one_seed_gives_one_history_and_another_seed_another() {
        let spec = ShapeSpec { jitter_ms: 2.0, loss: 0.1, duplicate: 0.1, reorder: true, ..ShapeSpec::default() };
        let history = |seed| offer_many(&mut path(spec, seed), 1_000, MS);
        assert_eq!(history(5), history(5));
        assert_ne!(history(5), history(6));
    }

    #[test]
    fn a_change_of_shape_leaves_later_draws_as_they_were() {
        let lossy = ShapeSpec { loss: 0.3, ..ShapeSpec::default() };
        let fates_from_500 = |first: ShapeSpec| {
            let mut path = path(first, 11);
            offer_many(&mut path, 500, MS);
            path.reshape(lossy.check().unwrap());
            (500..1_000).map(|i| path.offer(MS * i, 1_200) == Fate::Lost).collect::<Vec<_>>()
        };
        let jammed = ShapeSpec { bandwidth_bps: Some(1_000_000), queue_bytes: 0, ..ShapeSpec::default() };
        assert_eq!(fates_from_500(lossy), fates_from_500(ShapeSpec { loss: 1.0, ..lossy }));
        assert_eq!(fates_from_500(lossy), fates_from_500(jammed));
    }
}
