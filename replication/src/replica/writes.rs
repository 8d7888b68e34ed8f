//! The write path: from a request to an answer that is durable.

use super::purge::puts_runs;
use super::{Replica, Unsynced};
use crate::apply::touched;
use crate::command::{CommandError, check_size};
use crate::effect::{Effect, RequestId, WriteError, WriteOutcome, WriteRequest};
use crate::mutants::{Mutant, is};
use crate::record::Record;
use crate::roster::Fence;
use crate::status::Readiness;
use crate::store::{Position, Store};
use crate::waits::{is_covered, needs};
use alloc::vec::Vec;
use atoll_crdt::{ClockError, Dot, Draft, Hlc, Op, ReadError};

impl Replica {
    pub(super) fn on_write(
        &mut self,
        request: RequestId,
        write: WriteRequest,
        store: &mut dyn Store,
        out: &mut Vec<Effect>,
    ) -> Result<(), ReadError> {
        let ended = self.purging.ending && !is(Mutant::WriteAfterLastWord);
        let refused = if ended || self.readiness() != Readiness::Serving {
            Some(WriteError::NotReady)
        } else if let Some(fence) = self.fence().filter(|fence| fences(*fence, &write)) {
            Some(WriteError::Fenced(fence))
        } else if self.waiting_writes() >= self.config.limits.waiting_writes {
            Some(WriteError::Overloaded)
        } else {
            None
        };
        if let Some(error) = refused {
            out.push(Effect::Reply(request, Err(error)));
            return Ok(());
        }
        if !is_covered(&write, &self.clocks.context) && !is(Mutant::WriteIgnoresToken) {
            self.waits.wait(request, write, self.now.instant);
            return Ok(());
        }
        match self.write(request, &write, store) {
            Ok(()) if is(Mutant::AnswerBeforeSync) => self.answer_synced(self.last_position, out),
            Ok(()) => self.answer_nothing_to_wait_for(out),
            Err(WriteError::Command(CommandError::Read(error))) => {
                self.known_hole(error, store)?;
                out.push(Effect::Reply(request, Err(WriteError::Damaged)));
            }
            Err(error) => out.push(Effect::Reply(request, Err(error))),
        }
        Ok(())
    }

    /// Writes that wait for a context or for other regions, or will.
    pub(super) fn waiting_writes(&self) -> usize {
        self.waits.len() + self.levels.len() + self.unsynced_levels
    }

    /// Makes the record, appends it, and keeps the answer until it is durable.
    fn write(&mut self, request: RequestId, write: &WriteRequest, store: &mut dyn Store) -> Result<(), WriteError> {
        let at = self.stamp(write)?;
        let mut draft = Draft::new(store, self.next_dot(), at, &self.clocks.context, write.seen.as_ref());
        let mut answers = Vec::with_capacity(write.commands.len());
        for command in &write.commands {
            answers.push(command.run(&mut draft)?);
        }
        let ops = draft.into_ops();
        let mut token = self.clocks.context.clone();
        let dot = if ops.is_empty() {
            None
        } else {
            let dot = self.append_own(at, ops, store)?;
            token.include(dot);
            Some(dot)
        };
        self.unsynced_levels += usize::from(write.regions > 1);
        self.unsynced.push_back(Unsynced {
            position: self.last_position,
            request,
            outcome: WriteOutcome { answers, dot, token, acked: 1, reached: write.regions <= 1 },
            regions: write.regions,
            deadline: self.now.instant + write.regions_wait,
        });
        Ok(())
    }

    /// The dot that this process's next record will have.
    pub(super) fn next_dot(&self) -> Dot {
        Dot::new(self.actor, self.clocks.cursor.get(self.actor) + 1)
    }

    /// Makes a record of this process's own and appends it.
    pub(super) fn append_own(&mut self, at: Hlc, ops: Vec<Op>, store: &mut dyn Store) -> Result<Dot, CommandError> {
        let dot = self.next_dot();
        let mut deps = self.clocks.context.beyond(&self.deps);
        if is(Mutant::ForgetDeps) {
            deps = deps.meet(&self.deps);
        }
        deps = deps.iter().filter(|dep| dep.actor != self.actor).collect();
        let record = Record { dot, at, deps, ops };
        if let Some(hole) = touched(&record, &self.holes) {
            // A clear may name it without having read it.
            return Err(CommandError::Read(ReadError::Damaged(hole.clone())));
        }
        let bytes = record.encode();
        check_size(bytes.as_bytes().len())?;
        self.append_record(&record, bytes, store)?;
        self.deps.join(&record.deps);
        self.purging.wrote_runs |= puts_runs(&record.ops);
        self.counts.written += 1;
        Ok(dot)
    }

    fn stamp(&mut self, write: &WriteRequest) -> Result<Hlc, WriteError> {
        let skew_ms = self.clock_skew_ms().unsigned_abs();
        if skew_ms > self.config.limits.skew_max_ms && write.commands.iter().any(crate::Command::is_stamped) {
            return Err(WriteError::ClockSkew { skew_ms });
        }
        self.clock.stamp(self.now.wall_ms).map_err(|error| match error {
            ClockError::SteppedBack { ahead_ms } | ClockError::PeerAhead { ahead_ms } => {
                WriteError::ClockSkew { skew_ms: ahead_ms }
            }
            // The disk has not taken the higher ceiling yet: it is seconds behind.
            ClockError::CeilingReached => WriteError::Overloaded,
        })
    }

    /// A write that had nothing to do, on a state that is durable already, is answered at once (R1).
    fn answer_nothing_to_wait_for(&mut self, out: &mut Vec<Effect>) {
        let durable_upto = match self.appended.front() {
            Some((first, _)) => Position(first.0 - 1),
            None => self.last_position,
        };
        self.answer_synced(durable_upto, out);
    }

    /// Answers every write up to `position`, or has it wait for other regions.
    pub(super) fn answer_synced(&mut self, position: Position, out: &mut Vec<Effect>) {
        while self.unsynced.front().is_some_and(|write| write.position <= position) {
            let Some(write) = self.unsynced.pop_front() else { break };
            self.unsynced_levels -= usize::from(write.regions > 1);
            match write.outcome.dot {
                Some(dot) if write.regions > 1 => {
                    self.levels.wait(write.regions, dot.seq, write.deadline, write.request, write.outcome);
                }
                _ => {
                    // Nothing to replicate is everywhere.
                    let acked = if write.outcome.dot.is_none() { write.regions.max(1) } else { 1 };
                    self.reply(write.request, WriteOutcome { acked, reached: true, ..write.outcome }, out);
                }
            }
        }
        self.answer_reached(out);
    }

    /// Answers writes whose level is reached.
    pub(super) fn answer_reached(&mut self, out: &mut Vec<Effect>) {
        for (request, outcome) in self.levels.reached() {
            self.reply(request, outcome, out);
        }
    }

    /// Answers writes whose time is up.
    pub(super) fn time_out(&mut self, out: &mut Vec<Effect>) {
        for (request, outcome) in self.levels.timed_out(self.now.instant) {
            self.counts.below_level += 1;
            self.reply(request, outcome, out);
        }
        for (request, write, since) in self.waits.timed_out(self.now.instant) {
            let lost = self.is_lost(&needs(&write), since);
            let error = if lost { WriteError::SessionLost } else { WriteError::SessionBehind };
            out.push(Effect::Reply(request, Err(error)));
        }
    }

    fn reply(&mut self, request: RequestId, outcome: WriteOutcome, out: &mut Vec<Effect>) {
        self.counts.answered += 1;
        out.push(Effect::Reply(request, Ok(outcome)));
    }
}

/// Whether a fence holds this write off: a node that drains still writes the rows that are the cluster's own.
fn fences(fence: Fence, write: &WriteRequest) -> bool {
    fence != Fence::Draining || !write.commands.iter().all(|command| command.key().is_reserved())
}
