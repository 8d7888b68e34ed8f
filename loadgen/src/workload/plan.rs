//! What a session writes next.

use std::collections::VecDeque;
use std::sync::Arc;

use atoll_client::api::DataType;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Cell, Change, Kind, Leaf, Member, SessionId, Workload, WriteNumber};

/// Leaves of each kind in one map.
const LEAVES: u8 = 4;
/// Members of a set that everybody adds and removes.
const COMMON_MEMBERS: u8 = 8;
/// Own members that a session remembers in order to remove some: the latest.
const REMEMBERED_MAX: usize = 256;
/// An addition is 1 to this.
const ADD_MAX: u32 = 9;

/// Out of a hundred changes of a set: how many add a common member, remove a common one, and
/// remove one of the session's own. The others add an own one.
const COMMON_ADDS: u32 = 15;
const COMMON_REMOVES: u32 = 10;
const OWN_REMOVES: u32 = 20;

/// A write to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Its number.
    pub number: WriteNumber,
    /// What it writes to.
    pub cell: Cell,
    /// What it does there.
    pub change: Change,
}

/// Draws one session's writes.
#[derive(Debug)]
pub struct Planner {
    workload: Arc<Workload>,
    session: SessionId,
    rng: StdRng,
    written: u32,
    /// Own members that were acknowledged and not yet asked to be removed, each with its set.
    own: VecDeque<(Cell, Member)>,
}

impl Planner {
    /// The planner of `session`. Its sequence depends on the workload, its seed, the session and
    /// what was [`acknowledged`](Self::acknowledged).
    #[must_use]
    pub fn new(workload: Arc<Workload>, session: SessionId) -> Self {
        // Odd, so that sessions of one seed, and seeds of one session, are all apart.
        let seed = workload.seed ^ u64::from(session.0 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { workload, session, rng: StdRng::seed_from_u64(seed), written: 0, own: VecDeque::new() }
    }

    /// The next write.
    pub fn plan(&mut self) -> Planned {
        let number = WriteNumber(u64::from(self.session.0) << 32 | u64::from(self.written));
        self.written = self.written.wrapping_add(1);
        let data_type = self.workload.mix.draw(&mut self.rng);
        let kind = match data_type {
            DataType::Counters => Kind::Counter,
            DataType::Sets => Kind::Set,
            DataType::Maps => Kind::Map(self.leaf()),
            DataType::Flags => Kind::Flag,
            DataType::Registers | DataType::Docs => Kind::Register,
        };
        let cell = self.cell(kind);
        match kind {
            Kind::Register | Kind::Map(Leaf::Value(_)) => Planned { number, cell, change: Change::Put },
            Kind::Counter | Kind::Map(Leaf::Counter(_)) => {
                // W3
                let change = Change::Add(self.rng.random_range(1..=ADD_MAX));
                Planned { number, cell, change }
            }
            Kind::Flag => Planned { number, cell, change: Change::Switch(self.rng.random()) },
            Kind::Set | Kind::Map(Leaf::Set(_)) => self.change_of_set(number, cell),
        }
    }

    fn leaf(&mut self) -> Leaf {
        let nth = self.rng.random_range(0..LEAVES);
        match self.rng.random_range(0..3_u8) {
            0 => Leaf::Value(nth),
            1 => Leaf::Counter(nth),
            _ => Leaf::Set(nth),
        }
    }

    /// A cell of `kind`: the session's own or a shared one, one as likely as the other.
    fn cell(&mut self, kind: Kind) -> Cell {
        let Workload { shared_keys, own_keys, .. } = *self.workload;
        let own = own_keys > 0 && (shared_keys == 0 || self.rng.random());
        let (owner, keys) = if own { (Some(self.session), own_keys) } else { (None, shared_keys) };
        Cell { kind, owner, index: self.rng.random_range(0..keys.max(1)) }
    }

    fn change_of_set(&mut self, number: WriteNumber, cell: Cell) -> Planned {
        let common = Member::Common(self.rng.random_range(0..COMMON_MEMBERS));
        let draw = self.rng.random_range(0..100);
        let (cell, change) = if draw < COMMON_ADDS {
            (cell, Change::Include(common))
        } else if draw < COMMON_ADDS + COMMON_REMOVES {
            (cell, Change::Exclude(common))
        } else if draw < COMMON_ADDS + COMMON_REMOVES + OWN_REMOVES && !self.own.is_empty() {
            let at = self.rng.random_range(0..self.own.len());
            let (cell, member) = self.own.swap_remove_back(at).expect("the place is in range");
            (cell, Change::Exclude(member))
        } else {
            // W2
            (cell, Change::Include(Member::Own(number)))
        };
        Planned { number, cell, change }
    }

    /// Says that `planned` happened, so that what it added may be removed later.
    pub fn acknowledged(&mut self, planned: &Planned) {
        if let Change::Include(member @ Member::Own(_)) = planned.change {
            if self.own.len() == REMEMBERED_MAX {
                self.own.pop_front();
            }
            self.own.push_back((planned.cell, member));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};
    use std::time::Duration;

    use atoll_client::api::Namespace;

    use super::*;

    fn workload(seed: u64) -> Arc<Workload> {
        let namespace = Namespace::new("load").unwrap();
        Arc::new(Workload { seed, ..Workload::mixed(namespace, 1.0, Duration::from_secs(1)) })
    }

    fn plan(seed: u64, session: u32, writes: usize) -> Vec<Planned> {
        let mut planner = Planner::new(workload(seed), SessionId(session));
        (0..writes)
            .map(|_| {
                let planned = planner.plan();
                planner.acknowledged(&planned);
                planned
            })
            .collect()
    }

    #[test]
    fn one_seed_gives_one_sequence_and_sessions_differ() {
        assert_eq!(plan(1, 0, 500), plan(1, 0, 500));
        let cells = |plan: Vec<Planned>| plan.into_iter().map(|p| p.cell.index).collect::<Vec<_>>();
        assert_ne!(cells(plan(1, 0, 500)), cells(plan(2, 0, 500)));
        assert_ne!(cells(plan(1, 0, 500)), cells(plan(1, 1, 500)));
    }

    #[test]
    fn every_kind_and_every_change_comes_up_and_numbers_are_unique() {
        let planned: Vec<_> = (0..4).flat_map(|session| plan(1, session, 2_000)).collect();
        let numbers: HashSet<_> = planned.iter().map(|one| one.number).collect();
        assert_eq!(numbers.len(), planned.len());
        let kinds: BTreeSet<_> = planned.iter().map(|one| one.cell.kind).collect();
        assert_eq!(kinds.len(), 4 + 3 * usize::from(LEAVES));
        let any = |is: fn(&Change) -> bool| planned.iter().any(|one| is(&one.change));
        assert!(any(|change| matches!(change, Change::Exclude(Member::Own(_)))));
        assert!(any(|change| matches!(change, Change::Exclude(Member::Common(_)))));
        assert!(any(|change| matches!(change, Change::Include(Member::Common(_)))));
        assert!(any(|change| matches!(change, Change::Switch(true))));
        assert!(planned.iter().any(|one| one.cell.owner.is_none()));
        let foreign = |one: &&Planned| one.cell.owner.is_some_and(|owner| u64::from(owner.0) != one.number.0 >> 32);
        assert_eq!(planned.iter().find(foreign), None, "own cells are written by their owner");
    }

    #[test]
    fn own_member_is_removed_at_most_once_and_only_after_it_was_added_to_that_set() {
        let mut there = HashSet::new();
        let mut removed = 0;
        for one in plan(9, 0, 20_000) {
            match one.change {
                Change::Include(member @ Member::Own(_)) => {
                    assert!(there.insert((one.cell, member)));
                }
                Change::Exclude(member @ Member::Own(_)) => {
                    assert!(there.remove(&(one.cell, member)));
                    removed += 1;
                }
                _ => {}
            }
        }
        assert!(removed > 500, "{removed}");
    }
}
