//! When to reconcile and with whom, and the closing entry.

use super::{Kept, Replica, Unapplied};
use crate::effect::{DisconnectReason, Effect, LinkId};
use crate::entry::Entry;
use crate::link::{Link, LogState};
use crate::mutants::{Mutant, is};
use crate::reconcile::message::{Hearing, Reconcile, SessionId, Step};
use crate::reconcile::receiver::{Beginning, Closed, Outcome, Receiver};
use crate::store::Store;
use crate::wire::Message;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::{ActorId, Dot, ReadError, VersionVector};

/// Failures in a row that lengthen the pause before the next session: it doubles to 32 times the first.
const FAILURES_COUNTED: u32 = 5;

impl Replica {
    /// A step of a reconciliation came in.
    pub(super) fn on_reconcile(
        &mut self,
        link: LinkId,
        message: Reconcile,
        store: &mut dyn Store,
        out: &mut Vec<Effect>,
    ) -> Result<Result<(), DisconnectReason>, ReadError> {
        match message.step {
            Step::Open(open) => self.on_open(link, message.session, open, store, out),
            Step::More { .. } | Step::Want(_) | Step::WantAll | Step::Taken(_) | Step::GiveUp => {
                self.on_asked(link, message, out);
            }
            _ => {
                if let Some(verdict) = self.on_compared(link, &message, store, out)? {
                    return Ok(verdict);
                }
                let Some(receiver) = &mut self.receiving else { return Ok(Ok(())) };
                if receiver.link != link || receiver.talk.session != message.session || receiver.is_settling() {
                    return Ok(Ok(()));
                }
                receiver.granted(&message);
                match receiver.talk.hear(&message) {
                    Hearing::Stale => {}
                    Hearing::Gap => self.cut_off(out),
                    Hearing::Next if matches!(message.step, Step::Abort) => self.cut_off(out),
                    Hearing::Next => return self.on_told(link, message.step, store, out),
                }
            }
        }
        Ok(Ok(()))
    }

    // -- the side that takes state over ---------------------------------------------------------------------------

    fn on_told(
        &mut self,
        link: LinkId,
        step: Step,
        store: &mut dyn Store,
        out: &mut Vec<Effect>,
    ) -> Result<Result<(), DisconnectReason>, ReadError> {
        if let Step::Accept { context, .. } = &step
            && self.check_claims(context).is_err()
        {
            self.give_up(out);
            return Ok(Err(DisconnectReason::Impostor));
        }
        let Some(receiver) = &mut self.receiving else { return Ok(Ok(())) };
        let outcome = match receiver.on_step(step, &self.config.limits, store, self.now.instant) {
            Ok(outcome) => outcome,
            Err(error) => return self.gave_up_by(error, store, out).map(Ok),
        };
        match outcome {
            Outcome::Goes(None) => {}
            Outcome::Goes(Some(answer)) => say(&mut self.links, out, link, receiver.talk.say(answer)),
            Outcome::Finished => self.settle(store, out)?,
            Outcome::TooMuch => {
                self.counts.sessions_too_large += 1;
                self.give_up(out);
            }
            Outcome::Wrong => {
                self.give_up(out);
                return Ok(Err(DisconnectReason::Protocol));
            }
        }
        Ok(Ok(()))
    }

    /// A row that the session needs cannot be read. If it is damaged, the session ends, and what it has collected is of no use:
    /// the next one names the row among its holes.
    fn gave_up_by(&mut self, error: ReadError, store: &mut dyn Store, out: &mut Vec<Effect>) -> Result<(), ReadError> {
        self.give_up(out);
        self.known_hole(error, store)
    }

    /// Goes on with a session that the source has ended, and has it send more otherwise.
    pub(super) fn settle_session(&mut self, store: &mut dyn Store, out: &mut Vec<Effect>) -> Result<(), ReadError> {
        let Some(receiver) = &mut self.receiving else { return Ok(()) };
        if receiver.staging.is_on_disk() && store.aside_use().is_lost {
            self.give_up(out);
            self.notice_holes(store);
            return Ok(());
        }
        if receiver.staging.is_on_disk() && store.aside_use().is_full {
            self.counts.sessions_disk_full += 1;
            self.give_up(out);
            return Ok(());
        }
        if receiver.is_settling() {
            return self.settle(store, out);
        }
        if let Some(taken) = receiver.taken(&self.config.limits, store) {
            say(&mut self.links, out, receiver.link, receiver.talk.say(taken));
        }
        Ok(())
    }

    /// Everything was said: the closing entry, if nothing is left to be done before it.
    fn settle(&mut self, store: &mut dyn Store, out: &mut Vec<Effect>) -> Result<(), ReadError> {
        let Some(receiver) = &mut self.receiving else { return Ok(()) };
        match receiver.settle(&self.clocks.context, &self.config.limits, store) {
            Ok(closed) => closed.map_or(Ok(()), |closed| self.adopt(closed, store, out)),
            Err(error) => self.gave_up_by(error, store, out),
        }
    }

    /// The closing entry: rows and clocks at once.
    fn adopt(&mut self, closed: Closed, store: &mut dyn Store, out: &mut Vec<Effect>) -> Result<(), ReadError> {
        self.receiving = None;
        let mut adoption = closed.adoption;
        if is(Mutant::KeepCursor) {
            adoption.cursor = VersionVector::new();
        }
        let changes = adoption.row_changes(&*store)?;
        self.purging.all_changed();
        self.counts.sessions_finished += 1;
        self.counts.sessions_on_disk += u64::from(adoption.layer.is_some());
        self.counts.further_passes += u64::from(closed.passes.saturating_sub(1));
        self.counts.rows_adopted += changes.len() as u64 + closed.layer_rows;
        self.counts.rows_repaired += changes.iter().filter(|change| change.is_repair()).count() as u64;
        let adoption = Arc::new(adoption);
        self.clocks.adopt(&adoption);
        let position = store.append(Entry::Adopt(Arc::clone(&adoption)), changes);
        self.appended.push_back((position, Unapplied::Context(adoption.context.clone())));
        self.last_position = position;
        self.notice_holes(store);
        if closed.repairs_left {
            // What was taken over may have touched those that are left. C5
            self.holes_context.clone_from(&self.clocks.context);
        }
        self.lost_since = None;
        self.failed = (0, None);
        self.refresh_log(store);
        self.pending.forget_applied(&self.clocks);
        self.tell_links_what_exists();
        self.apply_pending(store, out)?;
        self.context_grew(store, out)
    }

    /// Ends the session here, and nothing of it is of use.
    pub(super) fn give_up(&mut self, out: &mut Vec<Effect>) {
        let Some(receiver) = self.end_session(out) else { return };
        self.aside_unwanted |= receiver.staging.is_on_disk();
    }

    /// Ends the session here; the next one goes on with what it left on disk.
    fn cut_off(&mut self, out: &mut Vec<Effect>) {
        let Some(receiver) = self.end_session(out) else { return };
        let permille = receiver.permille();
        if receiver.staging.is_on_disk() {
            self.kept = Some(Kept { staging: receiver.staging, since: self.now.instant, permille });
        }
    }

    fn end_session(&mut self, out: &mut Vec<Effect>) -> Option<Receiver> {
        let mut receiver = self.receiving.take()?;
        say(&mut self.links, out, receiver.link, receiver.talk.say(Step::GiveUp));
        self.counts.sessions_given_up += 1;
        self.lost_since = Some(self.now.instant);
        self.failed = (self.failed.0.saturating_add(1), Some(receiver.link));
        Some(receiver)
    }

    /// Sessions end with their connection. C3
    pub(super) fn link_gone(&mut self, link: LinkId, out: &mut Vec<Effect>) {
        self.sources.remove(&link);
        self.comparison_ended(link);
        self.early.remove(&link);
        if self.receiving.as_ref().is_some_and(|receiver| receiver.link == link && !receiver.is_settling()) {
            self.cut_off(out);
        }
    }

    /// Begins a session when nobody can send what is lacking, and gives up those in which nothing moves.
    pub(super) fn tick_reconcile(&mut self, store: &mut dyn Store, out: &mut Vec<Effect>) {
        let (now, limits) = (self.now.instant, self.config.limits);
        self.sources.retain(|_, source| now.since(source.moved_at) < limits.reconcile_idle);
        self.open_early(store, out);
        if let Some(receiver) = &self.receiving {
            if !receiver.is_settling() && now.since(receiver.moved_at) >= limits.reconcile_idle {
                self.cut_off(out);
            }
            return;
        }
        let link = self.whom_to_ask();
        self.clearing.quiet_wanted = false;
        self.drop_unwanted(link.is_none(), store);
        let Some(link) = link else {
            self.lost_since = None;
            return;
        };
        let since = *self.lost_since.get_or_insert(now);
        // A session that needs more than there is room for, say, is not tried over and over at full speed.
        let pause = limits.reconcile_after * 2_u32.saturating_pow(self.failed.0.min(FAILURES_COUNTED));
        self.clearing.quiet_wanted = now.since(since) >= pause && self.is_clearing(store);
        if now.since(since) >= pause && !store.is_moving_aside() && !self.clearing.quiet_wanted {
            self.open_session(link, store, out);
        }
    }

    /// Drops a layer that no session will go on with.
    fn drop_unwanted(&mut self, lacks_nothing: bool, store: &mut dyn Store) {
        let (now, limits) = (self.now.instant, &self.config.limits);
        let (within, bytes_min) = (limits.resume_within, limits.resume_bytes_min);
        let of_no_use = |kept: &Kept| {
            let usage = store.aside_use();
            let of_little_use = now.since(kept.since) >= within || usage.bytes < bytes_min;
            lacks_nothing || of_little_use || usage.is_lost || usage.is_full
        };
        if self.kept.as_ref().is_some_and(of_no_use) {
            self.kept = None;
            self.aside_unwanted = true;
        }
        if core::mem::take(&mut self.aside_unwanted) {
            store.drop_aside();
        }
    }

    fn open_session(&mut self, link: LinkId, store: &mut dyn Store, out: &mut Vec<Effect>) {
        let speaks_new = self.links.get(&link).is_some_and(speaks_new);
        if !speaks_new && self.kept.take().is_some() {
            // The first form cannot say that rows are wanted whole.
            store.drop_aside();
        }
        let over = if self.kept.is_some() { store.over_aside() } else { None };
        if self.kept.is_some() && over.is_none() {
            // On its way to the disk: the next tick looks again.
            return;
        }
        // The peer serves one session a connection: from here on this one.
        self.comparison_ended(link);
        self.next_session += 1;
        let (session, now) = (SessionId(self.next_session), self.now.instant);
        let begin = Beginning {
            context: self.clocks.context.clone(),
            cursor: self.clocks.cursor.clone(),
            holes: Arc::clone(&self.holes),
            holes_context: self.holes_context.clone(),
            speaks_new,
        };
        let (mut receiver, open) = match self.kept.take().zip(over) {
            Some((kept, over)) => {
                self.counts.sessions_resumed += 1;
                Receiver::resume(session, link, (over, kept.staging, kept.permille), begin, now)
            }
            None => Receiver::open(session, link, store.pin(), begin, now),
        };
        say(&mut self.links, out, link, receiver.talk.say(open));
        self.receiving = Some(receiver);
    }

    /// A peer that holds something no peer's log can bring here, or any that can repair while rows are damaged: the nearest one, and
    /// another than failed last.
    fn whom_to_ask(&self) -> Option<LinkId> {
        let live = || self.links.values().filter(|link| link.is_live());
        let lacks_from = |link: &&Link| {
            let held = if is(Mutant::LostByCursor) { link.cursors() } else { link.peer().clone() };
            held.iter().any(|dot| {
                let next = Dot::new(dot.actor, self.clocks.cursor.get(dot.actor) + 1);
                dot.seq >= next.seq && !live().any(|other| other.can_serve(next))
            })
        };
        live()
            .filter(|link| if self.holes.is_empty() { lacks_from(link) } else { speaks_new(link) })
            .min_by_key(|link| (Some(link.id) == self.failed.1, link.rtt, link.id))
            .map(|link| link.id)
    }

    // -- the log ----------------------------------------------------------------------------------------------------

    /// Has the store drop what of the log nobody needs.
    pub(super) fn tick_truncate(&mut self, store: &mut dyn Store) {
        let now = self.now.instant;
        if now.since(self.truncated_at) < self.config.limits.truncate_every {
            return;
        }
        self.truncated_at = now;
        if store.truncate(&self.stable()) {
            self.refresh_log(store);
        }
    }

    /// What every other member is known to hold durably, and this node too.
    fn stable(&self) -> VersionVector {
        let mut stable = self.durable.clone();
        for (node, _) in self.freshness.members() {
            stable = self.held_by.get(node).map_or_else(VersionVector::new, |held| stable.meet(held));
        }
        stable
    }

    /// What there is to say of the log.
    pub(super) fn refresh_log(&mut self, store: &dyn Store) {
        let start = |dot: Dot| {
            let cursor = self.clocks.cursor.get(dot.actor);
            let first = store.log_start(dot.actor).unwrap_or(cursor + 1);
            Dot::new(dot.actor, first.max(self.clocks.unlogged.get(dot.actor) + 1))
        };
        let starts = self.clocks.context.iter().map(start).filter(|dot| dot.seq > 1).collect();
        self.log = LogState { wanted: self.clocks.wanted(), starts };
    }

    /// An actor's cursor has moved.
    pub(super) fn cursor_moved(&mut self, actor: ActorId) {
        if self.log.wanted.get(actor) > 0 {
            self.log.wanted = self.clocks.wanted();
        }
    }
}

/// Whether the peer knows what came after the first version of the protocol: holes, layers that are taken up, what was taken in,
/// and checksums of chunks.
fn speaks_new(link: &Link) -> bool {
    link.version >= 2
}

/// Says something on a link that stands, and counts it against the window.
pub(super) fn say(links: &mut BTreeMap<LinkId, Link>, out: &mut Vec<Effect>, link: LinkId, message: Reconcile) {
    let message = Message::Reconcile(message);
    if let Some(found) = links.get_mut(&link) {
        found.handed(message.weight());
        out.push(Effect::Send(link, message));
    }
}
