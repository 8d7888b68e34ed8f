//! One conversation with one peer: what it holds, what it lacks, and what to send next.
//!
//! **How it goes.** Both sides greet; each then knows what the other holds durably. For every actor on which the peer is
//! behind there is a cursor into that actor's log. This process's own records (and those of its earlier lives) are sent
//! at once, live and catching up alike. Other actors' records are relayed: when the peer has not moved on them for a
//! while, because then whoever should send them cannot, and when it asks, because something it was sent builds on them.
//! A relay goes on until the peer gets the records sooner from somebody else.
//!
//! **What always holds.** L1: a slow peer costs a cursor an actor and the window, never a queue. L2: nothing is taken as
//! arrived before the peer reports it durable; what was sent and is not reported in time is sent again, ever more
//! rarely. L3: records of one actor leave in order.

use crate::config::Limits;
use crate::effect::LinkId;
use crate::mutants::{Mutant, is};
use crate::names::{NodeName, RegionName};
use crate::time::Instant;
use crate::wire::{Hello, VectorDigest};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use atoll_crdt::{ActorId, Dot, VersionVector};
use core::time::Duration;

/// Where one actor's log goes on for this peer.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    /// The next seq to send.
    next: u64,
    /// The last seq that exists here.
    last: u64,
    /// When the peer last moved on this actor, or was first seen behind.
    moved_at: Instant,
    /// How long to wait for a move before sending (again).
    patience: Duration,
    /// Whether the log is this side's to send without being asked.
    own: bool,
}

/// What a peer said beside what it holds durably, of one moment.
#[derive(Debug)]
pub(crate) struct Said {
    /// When the question left that it answered.
    pub(crate) asked: Instant,
    /// What it had taken in and did not hold durably.
    pub(crate) volatile: VersionVector,
    /// The processes it was connected to.
    pub(crate) links: Vec<ActorId>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) node: NodeName,
    pub(crate) region: RegionName,
    pub(crate) dialled: bool,
    pub(crate) hello: Option<Hello>,
    /// The version that both sides speak; 0 before the peer has greeted.
    pub(crate) version: u16,
    /// Whether the peer digests rows under another secret, so that sums cannot be compared.
    pub(crate) foreign_digests: bool,
    pub(crate) up_at: Instant,
    pub(crate) heard_at: Instant,
    pub(crate) ping_at: Instant,
    /// When to tell the peer a root next.
    pub(crate) prove_at: Instant,
    pub(crate) rtt: Option<Duration>,
    /// The peer's wall clock less this node's, in milliseconds, less half the round trip towards zero.
    pub(crate) offset_ms: Option<i64>,
    /// The last answer that all is known of.
    pub(crate) said: Option<Said>,
    /// Whether the peer holds something else than what is known here: the next probe asks for all of it.
    pub(crate) wants_whole: bool,
    /// What the peer holds durably, as it said: its context.
    peer: VersionVector,
    /// What it last told to hold durably in one piece: the other reports are parts, which may get lost one by one.
    whole: VersionVector,
    /// Where its log cursors are behind that, the seqs with which they go on.
    wanted: VersionVector,
    /// From which seqs on its log can serve, where that is not from the first.
    starts: VersionVector,
    /// What this side told it holds durably.
    pub(crate) told: VersionVector,
    /// What this side told of its log.
    pub(crate) told_log: LogState,
    pub(crate) told_at: Instant,
    behind: BTreeMap<ActorId, Cursor>,
    /// Other nodes' actors whose records the peer gets through this side.
    relayed: BTreeSet<ActorId>,
    outstanding_bytes: usize,
}

/// What a node tells of its log beside what it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogState {
    /// Where its cursors are behind its context, the seqs with which they go on.
    pub wanted: VersionVector,
    /// From which seqs on its log can serve, where that is not from the first.
    pub starts: VersionVector,
}

/// What to read from the log and send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Send {
    pub(crate) actor: ActorId,
    pub(crate) from: u64,
}

impl Link {
    pub(crate) fn new(id: LinkId, node: NodeName, region: RegionName, dialled: bool, now: Instant) -> Self {
        Self {
            id,
            node,
            region,
            dialled,
            hello: None,
            version: 0,
            foreign_digests: false,
            up_at: now,
            heard_at: now,
            ping_at: now,
            prove_at: now,
            rtt: None,
            offset_ms: None,
            said: None,
            wants_whole: false,
            peer: VersionVector::new(),
            whole: VersionVector::new(),
            wanted: VersionVector::new(),
            starts: VersionVector::new(),
            told: VersionVector::new(),
            told_log: LogState::default(),
            told_at: now,
            behind: BTreeMap::new(),
            relayed: BTreeSet::new(),
            outstanding_bytes: 0,
        }
    }

    /// What the peer holds durably.
    pub(crate) fn peer(&self) -> &VersionVector {
        &self.peer
    }

    /// Of all that is known of what the peer holds and of its log.
    pub(crate) fn digest(&self) -> VectorDigest {
        VectorDigest::of([&self.peer, &self.wanted, &self.starts])
    }

    /// All that the peer's process held durably at some moment since it greeted.
    pub(crate) fn whole(&self) -> &VersionVector {
        &self.whole
    }

    /// The peer told all that it holds durably.
    pub(crate) fn told_whole(&mut self, durable: &VersionVector) {
        self.whole.join(durable);
    }

    /// Whether both sides have greeted.
    pub(crate) fn is_live(&self) -> bool {
        self.hello.is_some()
    }

    /// Whether `actor` is the peer's process, or was one on its disk.
    pub(crate) fn speaks_for(&self, actor: ActorId) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.actor == actor || hello.former.contains(&actor))
    }

    fn patience(&self, limits: &Limits) -> Duration {
        limits.relay_after + self.rtt.unwrap_or(Duration::from_millis(500))
    }

    /// This node's log of `dot.actor` reaches `dot` now.
    pub(crate) fn exists(&mut self, dot: Dot, own: bool, now: Instant, limits: &Limits) {
        let next = self.cursor(dot.actor) + 1;
        if next > dot.seq {
            return;
        }
        let patience = self.patience(limits);
        let fresh = Cursor { next, last: dot.seq, moved_at: now, patience, own };
        let cursor = self.behind.entry(dot.actor).or_insert(fresh);
        cursor.last = cursor.last.max(dot.seq);
    }

    /// How far the peer's cursor is in an actor's log, as it said.
    fn cursor(&self, actor: ActorId) -> u64 {
        match self.wanted.get(actor) {
            0 => self.peer.get(actor),
            wanted => wanted - 1,
        }
    }

    /// All the peer's cursors.
    pub(crate) fn cursors(&self) -> VersionVector {
        self.peer.iter().map(|dot| Dot::new(dot.actor, self.cursor(dot.actor))).collect()
    }

    /// Whether the peer can send this record.
    pub(crate) fn can_serve(&self, dot: Dot) -> bool {
        (self.starts.get(dot.actor)..=self.cursor(dot.actor)).contains(&dot.seq)
    }

    /// The peer reports more of what it holds durably.
    pub(crate) fn reported(&mut self, durable: &VersionVector, now: Instant, limits: &Limits) {
        for dot in durable.iter().filter(|dot| !self.peer.covers(*dot)).collect::<Vec<_>>() {
            self.peer.include(dot);
            if self.wanted.get(dot.actor) == 0 {
                self.moved(dot, now, limits);
            }
        }
    }

    /// The peer tells of its log; says whether its cursors are elsewhere than was known.
    pub(crate) fn reported_log(&mut self, log: LogState, now: Instant, limits: &Limits) -> bool {
        self.starts = log.starts;
        if self.wanted == log.wanted || is(Mutant::PullFromContext) {
            return false;
        }
        let before = core::mem::replace(&mut self.wanted, log.wanted);
        for actor in before.iter().map(|dot| dot.actor) {
            self.moved(Dot::new(actor, self.cursor(actor)), now, limits);
        }
        for dot in self.wanted.iter().filter(|dot| before.get(dot.actor) == 0).collect::<Vec<_>>() {
            // What was taken as held is sent after all.
            self.behind.remove(&dot.actor);
        }
        true
    }

    /// The peer's cursor is at `dot`.
    fn moved(&mut self, dot: Dot, now: Instant, limits: &Limits) {
        let patience = self.patience(limits);
        if self.behind.get(&dot.actor).is_none_or(|cursor| dot.seq >= cursor.next) {
            // It came by another way, and sooner.
            self.relayed.remove(&dot.actor);
        }
        if let Some(cursor) = self.behind.get_mut(&dot.actor) {
            if dot.seq >= cursor.last {
                self.behind.remove(&dot.actor);
                return;
            }
            cursor.next = cursor.next.max(dot.seq + 1);
            cursor.moved_at = now;
            cursor.patience = patience;
        }
    }

    /// The next thing to send, if the window has room. Call [`Self::sent`] with what became of it.
    pub(crate) fn next_send(&mut self, now: Instant, limits: &Limits) -> Option<Send> {
        if !self.has_room(limits) {
            return None;
        }
        let (peer, wanted) = (&self.peer, &self.wanted);
        let held = |actor| if wanted.get(actor) == 0 { peer.get(actor) } else { wanted.get(actor) - 1 };
        for (actor, cursor) in &mut self.behind {
            let stalled = now.since(cursor.moved_at) >= cursor.patience;
            if cursor.next > cursor.last {
                if !stalled || is(Mutant::NeverResend) {
                    continue;
                }
                // L2: sent, and not reported in time.
                cursor.next = held(*actor) + 1;
                cursor.patience = (cursor.patience * 2).min(limits.resend_max);
                cursor.moved_at = now;
            } else if !cursor.own && !self.relayed.contains(actor) {
                if !stalled || is(Mutant::NoRelay) {
                    continue;
                }
                cursor.moved_at = now;
            }
            if !cursor.own {
                self.relayed.insert(*actor);
            }
            return Some(Send { actor: *actor, from: cursor.next });
        }
        None
    }

    /// Whether the window has room.
    pub(crate) fn has_room(&self, limits: &Limits) -> bool {
        self.is_live() && self.outstanding_bytes < limits.link_window_bytes
    }

    /// `bytes` of something else than records went to the driver.
    pub(crate) fn handed(&mut self, bytes: usize) {
        self.outstanding_bytes += bytes;
    }

    /// `bytes` of records up to `upto` went to the driver; 0 when the log could not serve.
    pub(crate) fn sent(&mut self, send: Send, upto: Option<u64>, bytes: usize) {
        self.outstanding_bytes += bytes;
        if let Some(cursor) = self.behind.get_mut(&send.actor) {
            cursor.next = upto.unwrap_or(cursor.last) + 1;
        }
    }

    /// The peer asks for an actor's records from `from` on: it had no room for them, or waits for them.
    pub(crate) fn resume(&mut self, actor: ActorId, from: u64) {
        let held = self.cursor(actor);
        if let Some(cursor) = self.behind.get_mut(&actor) {
            if !is(Mutant::NeverResend) {
                cursor.next = cursor.next.min(from.max(held + 1));
            }
            if !cursor.own && !is(Mutant::NoRelay) {
                self.relayed.insert(actor);
            }
        }
    }

    /// The transport took this many bytes.
    pub(crate) fn taken(&mut self, bytes: usize) {
        self.outstanding_bytes = self.outstanding_bytes.saturating_sub(bytes);
    }

    /// How many records of one actor the peer lacks, at most over actors.
    pub(crate) fn lacks_records(&self) -> u64 {
        self.behind.iter().map(|(actor, cursor)| cursor.last.saturating_sub(self.cursor(*actor))).max().unwrap_or(0)
    }

    /// Bytes at the driver; for bounds in simulations.
    pub(crate) fn outstanding_bytes(&self) -> usize {
        self.outstanding_bytes
    }

    /// Takes in an answer to a ping: round trip and clock offset.
    pub(crate) fn timed(&mut self, rtt: Duration, peer_wall_ms: u64, wall_ms: u64) {
        // A smoothed round trip, so that one late answer does not set patience.
        self.rtt = Some(self.rtt.map_or(rtt, |old| (old * 7 + rtt) / 8));
        let half_ms = i64::try_from(rtt.as_millis() / 2).unwrap_or(i64::MAX);
        let raw = i128::from(peer_wall_ms) + i128::from(half_ms) - i128::from(wall_ms);
        let raw = i64::try_from(raw).unwrap_or(if raw < 0 { i64::MIN } else { i64::MAX });
        // The one-way delay is unknown within the round trip: only what that cannot explain counts.
        let certain = raw.saturating_abs().saturating_sub(half_ms).max(0);
        self.offset_ms = Some(if raw < 0 { -certain } else { certain });
    }
}
