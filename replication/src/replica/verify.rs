//! Verifying: whether this node and every other member can be right about all rows at once, while writes go on.
//!
//! **How it goes.** One peer after the other is compared ([`crate::reconcile::comparison`]). Where nothing is suspect, the
//! two agree at the join of their contexts. Where something is, both sides get time to see what the other has seen,
//! and the peer is asked once more: a dot that is still live on a side that by now covers the other's first context, in
//! which it was dead, is a contradiction.
//!
//! **What always holds.** Nothing here changes a row or a clock. At most one verification runs; it ends, whatever peers
//! do: a peer that does not answer is told as not compared.

use super::Replica;
use super::reconcile::say;
use crate::effect::{DisconnectReason, Effect, LinkId};
use crate::names::{NodeName, RegionName};
use crate::reconcile::comparison::{Comparison, Found, Heard, Suspect};
use crate::reconcile::message::{Hearing, Reconcile, SessionId, Step};
use crate::status::{Contradiction, PeerVerdict, Verification};
use crate::store::Store;
use crate::time::Instant;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::{ReadError, RowKey};

/// Rows that a verdict names.
const NAMED_MAX: usize = 1_000;
/// Why a comparison ends that came by a hole.
const DAMAGED: &str = "a row is damaged here, and is being repaired";

/// Where a verification stands.
#[derive(Debug, Default)]
pub(super) struct Verifying {
    /// Who is still to be compared, after the one at hand.
    queue: VecDeque<(NodeName, RegionName)>,
    at: Option<Peer>,
    /// What was found so far, for whoever asks.
    report: Option<Arc<Verification>>,
    verdicts: Vec<PeerVerdict>,
    count: u64,
}

/// The peer that is compared.
#[derive(Debug)]
struct Peer {
    node: NodeName,
    region: RegionName,
    /// Whether a root asks for it, and not an operator.
    doubted: bool,
    stage: Stage,
    /// When it is given up.
    until: Instant,
}

#[derive(Debug)]
enum Stage {
    /// It is to be asked, from this moment on.
    Asking(Instant, Option<Found>),
    /// It answers; what the first comparison found, if this is the second.
    Comparing(Box<Comparison>, Option<Found>),
}

impl Replica {
    /// The verification that runs, or the last one.
    #[must_use]
    pub fn verification(&self) -> Option<&Arc<Verification>> {
        self.verifying.report.as_ref()
    }

    /// Begins a verification unless one runs.
    pub(super) fn on_verify(&mut self, store: &dyn Store, out: &mut Vec<Effect>) {
        match self.verifying.at.take() {
            Some(peer) if !peer.doubted => {
                self.verifying.at = Some(peer);
                return;
            }
            // It is compared again afterwards.
            Some(mut peer) => {
                self.doubts.entry(peer.node.clone()).and_modify(|doubt| doubt.compare_at = self.now.instant);
                self.give_up_comparison(&mut peer, out);
            }
            None => {}
        }
        self.verifying.queue = self.freshness.members().map(|(node, region)| (node.clone(), region.clone())).collect();
        self.verifying.verdicts = Vec::new();
        self.verifying.count += 1;
        self.next_peer(store);
    }

    fn next_peer(&mut self, store: &dyn Store) {
        let next = self.verifying.queue.pop_front();
        self.verifying.at = next.map(|(node, region)| self.peer(node, region, false));
        self.verifying.report = Some(Arc::new(Verification {
            count: self.verifying.count,
            running: self.verifying.at.as_ref().map(|peer| peer.node.clone()),
            vector: self.clocks.context.clone(),
            root: store.synced_root(),
            peers: self.verifying.verdicts.clone(),
        }));
    }

    fn peer(&self, node: NodeName, region: RegionName, doubted: bool) -> Peer {
        let now = self.now.instant;
        Peer { node, region, doubted, stage: Stage::Asking(now, None), until: now + self.config.limits.verify_peer }
    }

    /// Tells the peer that nothing more is asked.
    fn give_up_comparison(&mut self, peer: &mut Peer, out: &mut Vec<Effect>) {
        if let Stage::Comparing(comparison, _) = &mut peer.stage {
            let message = comparison.talk.say(Step::GiveUp);
            say(&mut self.links, out, comparison.link, message);
        }
    }

    fn verdict(&mut self, compared: bool, why: &'static str, found: Vec<Contradiction>, more: u64, store: &dyn Store) {
        if let Some(peer) = self.verifying.at.take() {
            let Peer { node, region, doubted, .. } = peer;
            let differing = found.len() as u64 + more;
            let named = found.into_iter().take(NAMED_MAX).collect();
            let verdict = PeerVerdict { node, region, compared, why, differing, named };
            if doubted {
                // Its root was counted.
                self.doubt_examined(verdict);
                return;
            }
            self.counts.contradictions += differing;
            self.verifying.verdicts.push(verdict);
        }
        self.next_peer(store);
    }

    /// Asks the peer that is due, and gives up the one that does not answer.
    pub(super) fn tick_verify(&mut self, store: &mut dyn Store, out: &mut Vec<Effect>) -> Result<(), ReadError> {
        let (now, is_clearing) = (self.now.instant, self.is_clearing(&*store));
        if self.verifying.at.is_none()
            && let Some((node, region)) = self.next_doubted()
        {
            self.verifying.at = Some(self.peer(node, region, true));
        }
        let Some(peer) = &mut self.verifying.at else { return Ok(()) };
        let link = self.links.values().find(|link| link.node == peer.node && link.is_live());
        let Some(link) = link else {
            self.verdict(false, "not connected", Vec::new(), 0, store);
            return Ok(());
        };
        if now >= peer.until {
            if let Some(mut peer) = self.verifying.at.take() {
                self.give_up_comparison(&mut peer, out);
                self.verifying.at = Some(peer);
            }
            self.verdict(false, "it did not answer, or did not catch up, in time", Vec::new(), 0, store);
            return Ok(());
        }
        let Stage::Asking(from, first) = &mut peer.stage else { return Ok(()) };
        // Both sides have seen what the other had: what is dead by then stays dead.
        let caught_up =
            first.as_ref().is_none_or(|found| found.theirs.leq(&self.clocks.context) && found.ours.leq(link.peer()));
        if now < *from || !caught_up {
            return Ok(());
        }
        if self.receiving.as_ref().is_some_and(|receiver| receiver.link == link.id) {
            // A peer serves one session a connection, and what is lacking goes first.
            return Ok(());
        }
        if is_clearing {
            self.clearing.quiet_wanted = true;
            return Ok(());
        }
        let (link, first) = (link.id, first.take());
        self.next_session += 1;
        let clocks = (self.clocks.context.clone(), self.clocks.cursor.clone());
        let (mut comparison, open) = Comparison::open(SessionId(self.next_session), link, store.pin(), clocks, now);
        let message = comparison.talk.say(open);
        peer.stage = Stage::Comparing(Box::new(comparison), first);
        say(&mut self.links, out, link, message);
        Ok(())
    }

    /// The link of the peer that is compared is gone, or it cannot answer now: it is asked again a little later.
    pub(super) fn comparison_ended(&mut self, link: LinkId) {
        let again = self.now.instant + self.config.limits.reconcile_after;
        if let Some(peer) = &mut self.verifying.at
            && let Stage::Comparing(comparison, first) = &mut peer.stage
            && comparison.link == link
        {
            peer.stage = Stage::Asking(again, first.take());
        }
    }

    /// A step of a comparison came in. `None`: it is of none.
    pub(super) fn on_compared(
        &mut self,
        link: LinkId,
        message: &Reconcile,
        store: &mut dyn Store,
        out: &mut Vec<Effect>,
    ) -> Result<Option<Result<(), DisconnectReason>>, ReadError> {
        let Some(Peer { stage: Stage::Comparing(comparison, _), .. }) = &mut self.verifying.at else { return Ok(None) };
        if comparison.link != link || comparison.talk.session != message.session {
            return Ok(None);
        }
        comparison.granted(message);
        match comparison.talk.hear(message) {
            Hearing::Stale => return Ok(Some(Ok(()))),
            Hearing::Gap => {
                let message = comparison.talk.say(Step::GiveUp);
                say(&mut self.links, out, link, message);
                self.comparison_ended(link);
                return Ok(Some(Ok(())));
            }
            Hearing::Next if matches!(message.step, Step::Abort) => {
                self.comparison_ended(link);
                return Ok(Some(Ok(())));
            }
            Hearing::Next => {}
        }
        let heard = match comparison.on_step(message.step.clone(), self.now.instant) {
            Err(ReadError::Damaged(_)) => {
                let message = comparison.talk.say(Step::GiveUp);
                say(&mut self.links, out, link, message);
                self.verdict(false, DAMAGED, Vec::new(), 0, store);
                return Ok(Some(Ok(())));
            }
            heard => heard?,
        };
        match heard {
            Heard::Goes(None) => {}
            Heard::Goes(Some(answer)) => {
                let message = comparison.talk.say(answer);
                say(&mut self.links, out, link, message);
            }
            Heard::Finished => self.compared(store)?,
            Heard::Wrong => {
                self.verdict(false, "it said what cannot be", Vec::new(), 0, store);
                return Ok(Some(Err(DisconnectReason::Protocol)));
            }
        }
        Ok(Some(Ok(())))
    }

    /// A comparison has come to its end.
    fn compared(&mut self, store: &mut dyn Store) -> Result<(), ReadError> {
        let Some(peer) = &mut self.verifying.at else { return Ok(()) };
        let again = Stage::Asking(self.now.instant, None);
        let Stage::Comparing(comparison, first) = core::mem::replace(&mut peer.stage, again) else { return Ok(()) };
        let found = comparison.finish();
        match first {
            None if found.suspects.is_empty() => self.verdict(true, "", Vec::new(), 0, store),
            None => peer.stage = Stage::Asking(self.now.instant, Some(found)),
            Some(first) => {
                let more = first.more.min(found.more);
                match contradictions(first.suspects, &found.suspects, &*store) {
                    Err(ReadError::Damaged(_)) => self.verdict(false, DAMAGED, Vec::new(), 0, store),
                    rows => {
                        let rows = rows?;
                        self.verdict(true, "", rows, more, store);
                    }
                }
            }
        }
        Ok(())
    }
}

/// What of the first comparison's suspicions is left when both sides had seen what the other had.
fn contradictions(
    first: BTreeMap<RowKey, Suspect>,
    second: &BTreeMap<RowKey, Suspect>,
    store: &dyn Store,
) -> Result<Vec<Contradiction>, ReadError> {
    let none = Suspect::default();
    let mut rows = Vec::new();
    for (key, before) in first {
        let after = second.get(&key).unwrap_or(&none);
        let now = store.row(&key)?;
        let here = before.here.iter().filter(|dot| now.as_ref().is_some_and(|row| row.get(**dot).is_some())).count();
        let there = before.there.iter().filter(|dot| after.there.contains(dot)).count();
        let contents = before.contents && after.contents;
        if here + there > 0 || contents {
            rows.push(Contradiction { key, here, there, contents });
        }
    }
    Ok(rows)
}
