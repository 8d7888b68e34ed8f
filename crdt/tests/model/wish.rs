//! What a writer may want: carried out by the real types on a draft, and told to the ghost beside it.

use super::history::Meant;
use super::places::places;
use super::write::oldest_first;
use crate::rows::Rows;
use atoll_crdt::{
    Dot, Draft, Payload, RowKey, SIBLINGS_MAX, Seen, VersionVector, counters, flags, maps, registers, sets,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One thing to do.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    PutRegister,
    DeleteRegister,
    SetFlag(bool),
    DeleteFlag,
    Add(i64),
    Reset,
    AddMember(usize),
    RemoveMember(usize),
    DeleteSet,
    /// A value at `/p`, in place of all that is under it.
    SetP,
    /// An object at `/p` with one member, `a`.
    SetPObject,
    SetPA,
    AddPN(i64),
    RemovePN,
    AddPT,
    RemovePT,
    /// Everything at and under `/p`.
    RemoveP,
    DeleteMap,
}

impl Wish {
    /// Does it on a draft.
    ///
    /// # Panics
    /// The model's rows can always be read and its values are small, so every operation succeeds.
    pub(crate) fn carry_out(&self, draft: &mut Draft<'_>, text: &str) {
        let p = places();
        let json = || maps::Value::Json(text.as_bytes().into());
        let done = "an operation of the model succeeds";
        match self {
            Self::PutRegister => {
                registers::put(draft, &p.register, "text/plain", text.as_bytes()).expect(done);
            }
            Self::DeleteRegister => draft.remove(&p.register).expect(done),
            Self::SetFlag(enabled) => flags::set(draft, &p.flag, *enabled).expect(done),
            Self::DeleteFlag => draft.remove(&p.flag).expect(done),
            Self::Add(amount) => drop(counters::add(draft, &p.counter, *amount).expect(done)),
            Self::Reset => counters::reset(draft, &p.counter).expect(done),
            Self::AddMember(which) => sets::add(draft, &p.members[*which]).expect(done),
            Self::RemoveMember(which) => sets::remove(draft, &p.members[*which]).expect(done),
            Self::DeleteSet => sets::delete(draft, &p.set).expect(done),
            Self::SetP => maps::set(draft, &p.map, &p.p, &json()).expect(done),
            Self::SetPObject => {
                let object = maps::Value::Object(vec![("a".into(), json())]);
                maps::set(draft, &p.map, &p.p, &object).expect(done);
            }
            Self::SetPA => maps::set(draft, &p.map, &p.p_a, &json()).expect(done),
            Self::AddPN(amount) => drop(maps::add(draft, &p.map, &p.p_n, *amount).expect(done)),
            Self::RemovePN => maps::remove(draft, &p.map, &p.p_n).expect(done),
            Self::AddPT => maps::add_member(draft, &p.map, &p.p_t, "x").expect(done),
            Self::RemovePT => maps::remove_member(draft, &p.map, &p.p_t, "x").expect(done),
            Self::RemoveP => maps::remove(draft, &p.map, &p.p).expect(done),
            Self::DeleteMap => {
                maps::remove(draft, &p.map, &atoll_crdt::MapPath::root()).expect(done);
            }
        }
    }

    /// The counter that it alone concerns, so that a client's context can name that counter's floors.
    pub(crate) fn counter(&self) -> Option<RowKey> {
        match self {
            Self::Reset => Some(places().counter.clone()),
            Self::RemovePN => Some(places().p_n_counter()),
            _ => None,
        }
    }
}

/// Tells, beside a draft, what its operations are to mean.
pub(crate) struct Ghost<'a> {
    /// The rows before the record.
    base: &'a Rows,
    /// The writer's context, or what its client had seen.
    saw: VersionVector,
    seen: Option<&'a Seen>,
    pub(crate) meant: BTreeMap<RowKey, Meant>,
}

impl<'a> Ghost<'a> {
    pub(crate) fn new(base: &'a Rows, context: &VersionVector, seen: Option<&'a Seen>) -> Self {
        let saw = seen.map_or(context, |seen| &seen.context).clone();
        Self { base, saw, seen, meant: BTreeMap::new() }
    }

    fn at(&mut self, key: &RowKey) -> &mut Meant {
        self.meant.entry(key.clone()).or_default()
    }

    fn replace(&mut self, key: &RowKey) {
        let saw = self.saw.clone();
        self.at(key).replace(&saw);
    }

    fn remove(&mut self, key: &RowKey) {
        let saw = self.saw.clone();
        self.at(key).remove(&saw);
    }

    /// Exactly what the writer or its client had seen is to go. Only where a client brings a context and no totals, a run
    /// that has moved on since is to stay whole.
    fn reset(&mut self, key: &RowKey) {
        let cut = match self.seen {
            Some(Seen { context, floors: None }) => {
                let row = self.base.get(key);
                let runs = row.iter().filter(|(_, payload)| matches!(payload, Payload::Count(c) if c.run.is_some()));
                runs.map(|(dot, _)| dot).filter(|dot| context.covers(*dot)).collect()
            }
            _ => self.saw.clone(),
        };
        self.at(key).reset(cut);
    }

    fn register(&mut self) {
        let key = &places().register;
        let row = self.base.get(key);
        let mut kept: Vec<Dot> = oldest_first(&row, |dot| !self.saw.covers(dot));
        kept.truncate((kept.len() + 1).saturating_sub(SIBLINGS_MAX));
        self.replace(key);
        self.at(key).evicted = kept;
    }

    /// What one wish is to mean.
    pub(crate) fn note(&mut self, wish: &Wish) {
        let p = places();
        match wish {
            Wish::PutRegister => self.register(),
            Wish::DeleteRegister => self.remove(&p.register),
            Wish::SetFlag(_) => self.replace(&p.flag),
            Wish::DeleteFlag => self.remove(&p.flag),
            Wish::Add(amount) => self.at(&p.counter).add(*amount),
            Wish::Reset => self.reset(&p.counter),
            Wish::AddMember(which) => self.replace(&p.members[*which]),
            Wish::RemoveMember(which) => self.remove(&p.members[*which]),
            Wish::DeleteSet => p.members.iter().for_each(|member| self.remove(member)),
            Wish::SetP => {
                self.clear_under_p();
                self.replace(&p.p_value());
            }
            Wish::SetPObject => {
                self.clear_under_p();
                self.remove(&p.p_value());
                self.replace(&p.p_a_value());
            }
            Wish::SetPA => {
                self.remove(&p.p_value());
                self.replace(&p.p_a_value());
            }
            Wish::AddPN(amount) => {
                self.remove(&p.p_value());
                self.at(&p.p_n_counter()).add(*amount);
            }
            Wish::RemovePN => self.reset(&p.p_n_counter()),
            Wish::AddPT => {
                self.remove(&p.p_value());
                self.replace(&p.p_t_member());
            }
            Wish::RemovePT => self.remove(&p.p_t_member()),
            Wish::RemoveP | Wish::DeleteMap => {
                self.clear_under_p();
                self.remove(&p.p_value());
            }
        }
    }

    fn clear_under_p(&mut self) {
        let p = places();
        self.remove(&p.p_a_value());
        self.remove(&p.p_t_member());
        self.reset(&p.p_n_counter());
    }
}

/// The text of a value that only this record puts.
pub(crate) fn text_of(dot: Dot) -> Arc<str> {
    format!("\"{dot}\"").into()
}
