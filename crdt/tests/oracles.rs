//! Two types of `crdts` as oracles: on the same causal history our rows show what `Orswot` and `MVReg` show.
//!
//! **How it goes.** Three replicas hold a row-based set (or register) and, beside it, the type of `crdts`. Both take in the
//! same writes, in the same order, by the same mixture of operations and merges.
//!
//! **Why with care.** Both types lose data for ever when an actor's operations arrive with a gap, so records are received in
//! order, once; the oracle numbers its operations itself, since its removes take no dot. `MVReg` confuses two clients that
//! write through one replica with one old context, so here every write has seen what its replica holds. `crdts::Map` is no
//! oracle for anything: it is wrong under plain causal delivery.

mod replicas;
mod rows;

use atoll_crdt::{ActorId, CollectionKey, DataType, registers, sets};
use crdts::{CmRDT, CvRDT, MVReg, Orswot, mvreg, orswot};
use proptest::prelude::*;
use replicas::{Record, Replica};
use std::collections::BTreeSet;

/// What happens to one of three replicas.
#[derive(Debug, Clone, Copy)]
enum Event {
    Write(u8),
    Merge(usize),
    Receive(usize),
}

fn events() -> impl Strategy<Value = Vec<(usize, Event)>> {
    let event = prop_oneof![
        4 => (0_u8..20).prop_map(Event::Write),
        1 => (1_usize..3).prop_map(Event::Merge),
        3 => (1_usize..5).prop_map(Event::Receive),
    ];
    proptest::collection::vec((0_usize..3, event), 1..60)
}

/// A type of `crdts` beside a replica of ours.
trait Oracle: CmRDT + CvRDT + Clone + Default {
    /// Writes to both; `None` when there was nothing to do.
    fn write(&self, replica: &mut Replica, what: u8) -> Option<(Record, Self::Op)>;

    /// Whether both show the same.
    fn agrees(&self, replica: &Replica) -> Result<(), TestCaseError>;
}

fn set() -> CollectionKey {
    CollectionKey::new("shop", DataType::Set, "cart").expect("a valid name")
}

impl Oracle for Orswot<String, ActorId> {
    fn write(&self, replica: &mut Replica, what: u8) -> Option<(Record, orswot::Op<String, ActorId>)> {
        let name = ["x", "y", "z"][usize::from(what % 3)].to_owned();
        let key = set().member(&name).expect("short");
        if what == 19 {
            let members: Vec<_> = self.read().val.into_iter().collect();
            let record = replica.try_write(None, |draft| sets::delete(draft, &set()).expect("readable"))?;
            return Some((record, self.rm_all(members, self.read_ctx().derive_rm_ctx())));
        }
        if what < 12 {
            let record = replica.write(|draft| sets::add(draft, &key).expect("readable"));
            return Some((record, self.add(name, self.read_ctx().derive_add_ctx(replica.actor))));
        }
        let record = replica.try_write(None, |draft| sets::remove(draft, &key).expect("readable"))?;
        let context = self.contains(&name).derive_rm_ctx();
        Some((record, self.rm(name, context)))
    }

    fn agrees(&self, replica: &Replica) -> Result<(), TestCaseError> {
        let theirs: BTreeSet<String> = self.read().val.into_iter().collect();
        prop_assert_eq!(replica.members(&set()), theirs.into_iter().collect::<Vec<_>>());
        Ok(())
    }
}

fn register() -> atoll_crdt::RowKey {
    CollectionKey::new("shop", DataType::Register, "greeting").expect("a valid name").row()
}

impl Oracle for MVReg<Vec<u8>, ActorId> {
    fn write(&self, replica: &mut Replica, what: u8) -> Option<(Record, mvreg::Op<Vec<u8>, ActorId>)> {
        let value = vec![what];
        replica.clock_ms = u64::from(what % 4) + 1;
        let record = replica.write(|draft| registers::put(draft, &register(), "", &value).expect("readable"));
        Some((record, self.write(value, self.read().derive_add_ctx(replica.actor))))
    }

    fn agrees(&self, replica: &Replica) -> Result<(), TestCaseError> {
        let mut theirs = self.read().val;
        theirs.sort();
        let siblings = registers::siblings(&replica.row(&register()));
        let mut ours: Vec<Vec<u8>> = siblings.into_iter().map(|sibling| sibling.bytes.to_vec()).collect();
        ours.sort();
        prop_assert_eq!(ours, theirs);
        Ok(())
    }
}

fn agree_on<O: Oracle>(events: &[(usize, Event)]) -> Result<(), TestCaseError>
where
    O::Op: Clone,
{
    let mut both: Vec<(Replica, O)> = [1, 2, 3].map(|actor| (Replica::new(actor), O::default())).into();
    let mut history: Vec<(Record, O::Op)> = Vec::new();
    for (who, event) in events {
        match *event {
            Event::Write(what) => {
                let (replica, oracle) = &mut both[*who];
                if let Some((record, op)) = oracle.write(replica, what) {
                    oracle.apply(op.clone());
                    history.push((record, op));
                }
            }
            Event::Merge(other) => {
                let (replica, oracle) = both[(*who + other) % 3].clone();
                both[*who].0.merge(&replica);
                both[*who].1.merge(oracle);
            }
            Event::Receive(limit) => {
                let (replica, oracle) = &mut both[*who];
                let taken = history.iter().filter(|(record, _)| replica.receive(record)).take(limit);
                taken.for_each(|(_, op)| oracle.apply(op.clone()));
            }
        }
        let (replica, oracle) = &both[*who];
        oracle.agrees(replica)?;
    }
    let (mut replica, mut oracle) = both.pop().expect("three");
    for (other, its_oracle) in both {
        replica.merge(&other);
        oracle.merge(its_oracle);
    }
    oracle.agrees(&replica)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn our_set_shows_what_an_orswot_shows(events in events()) {
        agree_on::<Orswot<String, ActorId>>(&events)?;
    }

    #[test]
    fn our_register_keeps_the_siblings_that_an_mvreg_keeps(events in events()) {
        agree_on::<MVReg<Vec<u8>, ActorId>>(&events)?;
    }
}
