//! Writes that wait until this node has seen what their session has.
//!
//! **What always holds.** A write is handed out once: when the context covers what it waits for, or when its time is up.

use crate::effect::{RequestId, WriteRequest};
use crate::time::Instant;
use alloc::vec::Vec;
use atoll_crdt::VersionVector;

#[derive(Debug)]
struct Waiting {
    request: RequestId,
    write: WriteRequest,
    since: Instant,
    deadline: Instant,
}

/// Every write that waits. Few at a time: only sessions that moved here ahead of their data.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    waiting: Vec<Waiting>,
}

/// Whether everything that a write brings along is covered.
pub(crate) fn is_covered(write: &WriteRequest, context: &VersionVector) -> bool {
    write.token.leq(context) && write.seen.as_ref().is_none_or(|seen| seen.context.leq(context))
}

/// Everything that a write brings along.
pub(crate) fn needs(write: &WriteRequest) -> VersionVector {
    let mut needs = write.token.clone();
    if let Some(seen) = &write.seen {
        needs.join(&seen.context);
    }
    needs
}

impl Waits {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Adds one.
    pub(crate) fn wait(&mut self, request: RequestId, write: WriteRequest, since: Instant) {
        let deadline = since + write.wait;
        self.waiting.push(Waiting { request, write, since, deadline });
    }

    /// Takes out, in the order they came, those that may go on.
    pub(crate) fn covered(&mut self, context: &VersionVector) -> Vec<(RequestId, WriteRequest)> {
        self.take(|waiting| is_covered(&waiting.write, context)).map(|due| (due.request, due.write)).collect()
    }

    /// Takes out those whose time is up, and since when they waited.
    pub(crate) fn timed_out(&mut self, now: Instant) -> Vec<(RequestId, WriteRequest, Instant)> {
        self.take(|waiting| waiting.deadline <= now).map(|due| (due.request, due.write, due.since)).collect()
    }

    fn take(&mut self, is_due: impl Fn(&Waiting) -> bool) -> alloc::vec::IntoIter<Waiting> {
        if !self.waiting.iter().any(&is_due) {
            return Vec::new().into_iter();
        }
        let (due, still): (Vec<_>, _) = core::mem::take(&mut self.waiting).into_iter().partition(is_due);
        self.waiting = still;
        due.into_iter()
    }
}
