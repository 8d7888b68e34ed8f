//! Writing: a record is made by the real types on a draft, and applied at home first.

use super::history::{Lattice, Record};
use super::places::places;
use super::variant::Variant;
use super::wish::{Ghost, Wish, text_of};
use super::world::{Reading, World};
use super::{Outcome, demand};
use atoll_crdt::{
    ActorId, Dot, Draft, Floors, Hlc, Op, Payload, Row, RowKey, RowOp, Run, Seen, VersionVector, counters,
};
use std::rc::Rc;
use std::sync::Arc;

/// A register's dots that pass, the oldest first.
pub(crate) fn oldest_first(row: &Row, passes: impl Fn(Dot) -> bool) -> Vec<Dot> {
    let mut dots: Vec<_> = row
        .iter()
        .filter(|(dot, _)| passes(*dot))
        .map(|(dot, payload)| match payload {
            Payload::Value { at, .. } => (*at, dot.seq, dot),
            _ => (Hlc::default(), dot.seq, dot),
        })
        .collect();
    dots.sort_unstable();
    dots.into_iter().map(|(_, _, dot)| dot).collect()
}

impl World {
    /// A write of some kind; `None` when there was nothing to do.
    pub(crate) fn write(&mut self, at: usize) -> Outcome<Option<Dot>> {
        if self.dice.chance(self.temper.purge_percent) {
            let counter = self.dice.pick(&[places().counter.clone(), places().p_n_counter()]);
            if let Some(op) = self.purge(at, &counter) {
                return self.write_record(at, vec![Op::Row(op)], &[], None).map(Some);
            }
        }
        let many = self.variant != Some(Variant::LatticeCounter) && self.dice.chance(self.temper.batch_percent);
        let how_many = if many { self.dice.between(2, 3) } else { 1 };
        let wishes: Vec<Wish> = (0..how_many).map(|_| self.wish()).collect();
        let seen = self.client_context(at, &wishes);
        self.write_wishes(at, &wishes, seen.as_ref())
    }

    /// A client that never reads puts and puts: every value stays, up to the cap.
    pub(crate) fn burst(&mut self, at: usize) -> Outcome {
        for _ in 0..self.dice.between(10, 70) {
            self.write_wishes(at, &[Wish::PutRegister], Some(&Seen::default()))?;
        }
        self.count("bursts of blind puts");
        Ok(())
    }

    fn wish(&mut self) -> Wish {
        let amount: i64 = self.dice.pick(&[1, 2, 5, -1]);
        let which = self.dice.below(2);
        let [often, seldom] = [self.dice.chance(65), self.dice.chance(20)];
        match self.dice.weighted(&self.temper.tastes.clone()) {
            0 if often => Wish::PutRegister,
            0 => Wish::DeleteRegister,
            1 if seldom => Wish::DeleteFlag,
            1 => Wish::SetFlag(often),
            2 if seldom => Wish::Reset,
            2 => Wish::Add(if self.variant == Some(Variant::LatticeCounter) { amount.abs() } else { amount }),
            3 if seldom => Wish::DeleteSet,
            3 if often => Wish::AddMember(which),
            3 => Wish::RemoveMember(which),
            4 if often => Wish::AddPN(amount),
            4 => self.dice.pick(&[Wish::RemovePN, Wish::RemoveP, Wish::SetP]),
            _ => self.dice.pick(&[
                Wish::SetP,
                Wish::SetPObject,
                Wish::SetPA,
                Wish::SetPA,
                Wish::AddPT,
                Wish::AddPT,
                Wish::RemovePT,
                Wish::RemoveP,
                Wish::DeleteMap,
            ]),
        }
    }

    /// Something that a client was shown earlier, here or elsewhere, and that this node has caught up with.
    fn client_context(&mut self, at: usize, wishes: &[Wish]) -> Option<Seen> {
        if self.variant == Some(Variant::LatticeCounter) || !self.dice.chance(self.temper.stale_percent) {
            return None;
        }
        let Reading { context, floors } = self.dice.pick(&self.readings);
        let names_totals = self.dice.chance(75);
        if !context.leq(&self.nodes[at].state.context) {
            self.count("contexts that must wait");
            return None;
        }
        let counter = if let [wish] = wishes { wish.counter() } else { None };
        let floors = counter.filter(|_| names_totals).and_then(|counter| floors.get(&counter).cloned());
        Some(Seen { context, floors })
    }

    pub(crate) fn write_wishes(&mut self, at: usize, wishes: &[Wish], seen: Option<&Seen>) -> Outcome<Option<Dot>> {
        let (node, stamp) = (&self.nodes[at], Hlc::at_ms(self.dice.between(1, 40) as u64));
        let dot = Dot::new(node.actor, node.state.cursor.get(node.actor) + 1);
        // Rows that are ahead exist only under a mutant, which is to be judged by what it breaks.
        let context = node.state.context.clone();
        let mut draft = Draft::new(&node.state.rows, dot, stamp, &context, seen);
        for wish in wishes {
            wish.carry_out(&mut draft, &text_of(dot));
        }
        let sizes = [&places().set, &places().map].map(|collection| draft.live_rows(collection).expect("readable"));
        let says_empty = draft.is_empty();
        let ops = draft.into_ops();
        demand!(says_empty == ops.is_empty(), "a draft says {says_empty} of being empty and gives {ops:?}");
        if ops.is_empty() {
            return Ok(None);
        }
        let written = self.write_record(at, ops, wishes, seen)?;
        let state = &self.nodes[at].state;
        let counted = [&places().set, &places().map].map(|c| state.rows.count_under(c.as_bytes()));
        if self.variant.is_none() {
            demand!(sizes == counted, "a draft foretells {sizes:?} live rows, there are {counted:?} after {wishes:?}");
        }
        Ok(Some(written))
    }

    /// Makes the record of the node's next dot and applies it there.
    fn write_record(&mut self, at: usize, mut ops: Vec<Op>, wishes: &[Wish], seen: Option<&Seen>) -> Outcome<Dot> {
        let state = &self.nodes[at].state;
        let actor = self.nodes[at].actor;
        let dot = Dot::new(actor, state.cursor.get(actor) + 1);
        demand!(!self.history.contains(dot), "dot {dot} used twice");
        let mut ghost = Ghost::new(&state.rows, &state.context, seen);
        for wish in wishes {
            ghost.note(wish);
        }
        let meant = ghost.meant;
        let evicted = meant.get(&places().register).map(|meant| meant.evicted.clone()).unwrap_or_default();
        let floors = [&places().counter, &places().p_n_counter()].map(|key| counters::floors(&state.rows.get(key)));
        let lattice = self.lattice_of(at, wishes);
        let context = state.context.clone();
        self.leave_a_rule_out(dot, &context, &mut ops, &evicted, &floors);

        let state = &self.nodes[at].state;
        let mut deps = state.context.clone();
        let mut record = Record::new(dot, ops, meant);
        for key in record.touches() {
            deps.join(&state.context_of(key));
        }
        record.deps = deps;
        record.lattice = lattice;
        let record = Rc::new(record);
        self.history.insert(Rc::clone(&record));
        let node = &mut self.nodes[at];
        node.state.take_in(&record);
        node.commit(self.variant);
        Ok(dot)
    }

    /// What some mutants do to a record that the real types made.
    fn leave_a_rule_out(
        &mut self,
        dot: Dot,
        context: &VersionVector,
        ops: &mut Vec<Op>,
        evicted: &[Dot],
        floors: &[Floors; 2],
    ) {
        let mut foreign = self.dice.pick(&self.readings).context;
        foreign.join(context);
        for op in ops {
            match (op, self.variant) {
                (Op::Clear(clear), Some(Variant::ClearUnclipped)) => {
                    clear.context = foreign.clone();
                }
                (Op::Row(op), Some(Variant::CapAtMerge)) => {
                    op.kills.retain(|kill| !evicted.contains(kill));
                }
                (Op::Row(RowOp { put, .. }), Some(Variant::CounterWithoutMarker)) => {
                    if let Some(Payload::Count(count)) = put {
                        count.floors = Arc::default();
                        *put = count.run.is_some().then(|| Payload::Count(count.clone()));
                    }
                }
                (Op::Row(op), Some(Variant::CounterWithoutBirth)) => {
                    let floors = &floors[usize::from(op.key != places().counter)];
                    if let Some(Payload::Count(count)) = &mut op.put {
                        let run_on = |run: Run| Run {
                            birth: 0,
                            total: run.total + floors.get(&dot.actor).map_or(0, |floor| floor.total),
                        };
                        count.run = count.run.map(|run| if run.birth == dot.seq { run_on(run) } else { run });
                    }
                }
                _ => {}
            }
        }
    }

    // -- markers ------------------------------------------------------------------------------------------------

    /// Every record of `actor` that had not seen the marker is here: the process itself said so, or is this one. A process
    /// that ended before it saw the marker never says it, and its successors cannot say it instead: records of it may be
    /// on their way.
    fn is_settled(&self, at: usize, actor: ActorId, marker: Dot) -> bool {
        let blind = self.variant == Some(Variant::PurgeOnReport);
        let context = &self.nodes[at].state.context;
        let by_itself =
            |said: &VersionVector| said.covers(marker) && (blind || context.covers(Dot::new(actor, said.get(actor))));
        actor == self.nodes[at].actor || self.said.get(&actor).is_some_and(by_itself)
    }

    /// Every member reported a durable context with `dot`, and this node has seen all that those hold.
    fn is_stable(&self, at: usize, dot: Dot) -> bool {
        let context = &self.nodes[at].state.context;
        let blind = self.variant == Some(Variant::PurgeOnReport);
        self.reported.iter().all(|report| report.covers(dot) && (blind || report.leq(context)))
    }

    /// What the real code lets go of a counter's markers.
    fn purge(&mut self, at: usize, key: &RowKey) -> Option<RowOp> {
        let row = self.nodes[at].state.rows.get(key);
        let node = &self.nodes[at];
        let mut looked_at = Row::clone(&row);
        if self.variant == Some(Variant::PurgeShadowing) {
            let is_run = |payload: &Payload| matches!(payload, Payload::Count(count) if count.run.is_some());
            let runs: Vec<Dot> = row.iter().filter(|(_, payload)| is_run(payload)).map(|(dot, _)| dot).collect();
            looked_at.kill(&runs);
        }
        let own = node.actor;
        let purge = counters::purgeable(&looked_at, &mut |actor, marker| self.is_settled(at, actor, marker))?;
        let dot = Dot::new(own, node.state.cursor.get(own) + 1);
        let mut draft = Draft::new(&node.state.rows, dot, Hlc::default(), &node.state.context, None);
        let what = if purge.is_whole() { "markers purged" } else { "markers written anew" };
        counters::purge(&mut draft, key, purge).expect("the model's rows can be read");
        let op = draft.into_ops().into_iter().find_map(|op| match op {
            Op::Row(op) => Some(op),
            Op::Clear(_) => None,
        });
        self.count(what);
        op
    }

    // -- the lattice mutant -------------------------------------------------------------------------------------

    fn lattice_of(&self, at: usize, wishes: &[Wish]) -> Option<Lattice> {
        if self.variant != Some(Variant::LatticeCounter) {
            return None;
        }
        let node = &self.nodes[at];
        match wishes {
            [Wish::Add(amount)] => {
                let before = node.state.lattice.get(&node.actor).map_or(0, |(total, _)| *total);
                Some(Lattice { totals: [(node.actor, before + i128::from(*amount))].into(), is_reset: false })
            }
            [Wish::Reset] => {
                let totals = node.state.lattice.iter().map(|(actor, (total, _))| (*actor, *total)).collect();
                Some(Lattice { totals, is_reset: true })
            }
            _ => None,
        }
    }

    /// Only under [`Variant::LatticeCounter`]: drops the maps at zero once every member saw every reset.
    pub(crate) fn purge_lattice(&mut self, at: usize) {
        let context: &VersionVector = &self.nodes[at].state.context;
        let is_reset = |record: &&Rc<Record>| record.lattice.as_ref().is_some_and(|lattice| lattice.is_reset);
        let mut resets = self.history.records().filter(|r| context.covers(r.dot)).filter(is_reset).peekable();
        let zero = self.nodes[at].state.lattice.values().all(|(total, baseline)| total == baseline);
        if zero && resets.peek().is_some() && resets.all(|record| self.is_stable(at, record.dot)) {
            self.nodes[at].state.lattice.clear();
        }
    }
}
