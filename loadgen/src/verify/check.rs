//! One region's dump against the history.
//!
//! Two relations are certain from what clients saw. A write *surely saw* another if the same
//! session asked it after the other was acknowledged: its token covers the other, and its region
//! waited for that. A write *may have seen* another unless it was over before the other began.
//! Everything below is said with these two.
//!
//! - **Values** (registers and their siblings; a map's values, of which only the winner shows;
//!   flags). What shows was asked for. No acknowledged value shows that an acknowledged write surely
//!   saw: that write is lost. An acknowledged value of a register that is no sibling was replaced
//!   by a write that may have seen it; if there is none, it is lost. A cell with an acknowledged
//!   value shows something.
//! - **Sums** (counters, a map's counters; additions only). At least what was acknowledged, at most
//!   that and what is of unknown fate. What is missing was lost, what is too much was duplicated;
//!   the fewest additions that explain it are counted.
//! - **Members** (sets, a map's member sets). A member is there if some acknowledged add was seen
//!   by no remove, that is, if none may have seen it. It is not there if every add that may have
//!   happened was surely seen by an acknowledged remove: one that shows is that remove lost.
//!   Otherwise either is right.

use std::collections::{BTreeMap, BTreeSet};

use atoll_client::api::DataType;
use atoll_geo::RegionName;
use serde_json::Value;

use super::{Dump, EXPLANATIONS_MAX, Observed};
use crate::history::{Outcome, Write};
use crate::workload::{Cell, Change, Kind, Leaf, Member, Workload, WriteNumber, number_of_value};

/// What is wrong in one region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// How many cells were checked.
    pub cells: usize,
    /// Acknowledged writes without effect.
    pub lost: u64,
    /// Writes that took effect more than once.
    pub duplicated: u64,
    /// Things that nobody asked for.
    pub foreign: u64,
    /// The first of all these, each in one line.
    pub explanations: Vec<String>,
}

/// Checks what `region` shows against the `history`.
#[must_use]
pub fn check(
    workload: &Workload,
    regions: &[RegionName],
    history: &[Write],
    region: &RegionName,
    dump: &Dump,
) -> Findings {
    let mut cells: BTreeMap<Cell, Vec<&Write>> = BTreeMap::new();
    for write in history.iter().filter(|write| write.may_have_happened()) {
        cells.entry(write.cell).or_default().push(write);
    }
    let mut check = Check { workload, regions, region, dump, findings: Findings::default() };
    for (&cell, writes) in &cells {
        check.cell(cell, writes);
    }
    check.foreign_cells(&cells);
    check.findings.cells = cells.len();
    check.findings
}

struct Check<'a> {
    workload: &'a Workload,
    regions: &'a [RegionName],
    region: &'a RegionName,
    dump: &'a Dump,
    findings: Findings,
}

impl Check<'_> {
    fn cell(&mut self, cell: Cell, writes: &[&Write]) {
        let observed = self.dump.get(&(cell.data_type(), cell.key().as_str().to_owned()));
        let leaf = match (observed, cell.path()) {
            (Some(Observed::Map(map)), Some(path)) => map.pointer(&path),
            _ => None,
        };
        match cell.kind {
            Kind::Register => {
                let values = match observed {
                    Some(Observed::Register(siblings)) => {
                        siblings.iter().map(|sibling| self.number(&sibling.value)).collect()
                    }
                    _ => Vec::new(),
                };
                self.values(cell, writes, &values, true);
            }
            Kind::Map(Leaf::Value(_)) => {
                let value = leaf.map(|value| value.as_str().and_then(|text| self.number(text.as_bytes())));
                self.values(cell, writes, value.as_slice(), false);
            }
            Kind::Flag => {
                let state = match observed {
                    Some(&Observed::Flag(state)) => Some(state),
                    _ => None,
                };
                self.flag(cell, writes, state);
            }
            Kind::Counter => {
                let value = match observed {
                    Some(&Observed::Counter(value)) => Some(value),
                    _ => None,
                };
                self.sum(cell, writes, value);
            }
            Kind::Map(Leaf::Counter(_)) => self.sum(cell, writes, leaf.and_then(Value::as_i64)),
            Kind::Set => {
                let none = BTreeSet::new();
                let members = match observed {
                    Some(Observed::Set(members)) => members,
                    _ => &none,
                };
                self.members(cell, writes, members);
            }
            Kind::Map(Leaf::Set(_)) => {
                let members = leaf.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
                let members = members.iter().filter_map(Value::as_str).map(str::to_owned).collect();
                self.members(cell, writes, &members);
            }
        }
    }

    fn number(&self, value: &[u8]) -> Option<WriteNumber> {
        number_of_value(value, self.workload.value_bytes)
    }

    /// Values by the number of their write; `None` for what no write of ours put. `all` says that
    /// concurrent values show, too.
    fn values(&mut self, cell: Cell, writes: &[&Write], shown: &[Option<WriteNumber>], all: bool) {
        let mut there = Vec::with_capacity(shown.len());
        for number in shown {
            match writes.iter().find(|write| Some(write.number) == *number) {
                Some(write) => there.push(*write),
                None => self.foreign(format_args!("{cell} shows a value that was never put there")),
            }
        }
        for &old in &there {
            if let Some(new) = writes.iter().find(|new| new.surely_saw(old)) {
                let (new, old) = (self.told(new), self.told(old));
                self.lost(1, format_args!("{cell}: {new} replaced {old}, which shows again"));
            }
        }
        let acknowledged = || writes.iter().filter(|write| write.is_acknowledged());
        if shown.is_empty() {
            if let Some(write) = acknowledged().next_back() {
                let write = self.told(write);
                self.lost(1, format_args!("{cell}: {write} put a value, and there is none"));
            }
        } else if all {
            let replacers = Latest::of(writes);
            for write in acknowledged().filter(|write| !there.iter().any(|one| one.number == write.number)) {
                if !replacers.may_have_seen(write) {
                    let write = self.told(write);
                    self.lost(
                        1,
                        format_args!("{cell}: {write} put a value that nothing can have replaced, and it is not there"),
                    );
                }
            }
        }
    }

    fn flag(&mut self, cell: Cell, writes: &[&Write], shown: Option<bool>) {
        let Some(last) = writes.iter().rfind(|write| write.is_acknowledged()) else { return };
        let Some(shown) = shown else {
            let write = self.told(last);
            self.lost(1, format_args!("{cell}: {write} set it, and there is nothing"));
            return;
        };
        let explains =
            |write: &&&Write| write.change == Change::Switch(shown) && !writes.iter().any(|new| new.surely_saw(write));
        if writes.iter().find(explains).is_none() {
            let write = self.told(last);
            self.lost(1, format_args!("{cell} is {shown}, which nothing set since {write}"));
        }
    }

    fn sum(&mut self, cell: Cell, writes: &[&Write], shown: Option<i64>) {
        let amounts = |wanted: Outcome| -> Vec<i128> {
            let amount = |write: &&&Write| match write.change {
                Change::Add(n) if write.outcome == wanted => Some(i128::from(n)),
                _ => None,
            };
            let mut amounts: Vec<_> = writes.iter().filter_map(|write| amount(&write)).collect();
            amounts.sort_unstable_by(|a, b| b.cmp(a));
            amounts
        };
        let (acknowledged, unknown) = (amounts(Outcome::Acknowledged), amounts(Outcome::Unknown));
        let least: i128 = acknowledged.iter().sum();
        let most = least + unknown.iter().sum::<i128>();
        let value = i128::from(shown.unwrap_or(0));
        let known = format!(
            "{cell}: {} additions of {least} in all were acknowledged and {} of {} are of unknown fate, but it shows {}",
            acknowledged.len(),
            unknown.len(),
            most - least,
            shown.map_or("nothing".to_owned(), |value| value.to_string()),
        );
        if value < least || (shown.is_none() && !acknowledged.is_empty()) {
            let fewest = fewest(&acknowledged, least - value);
            self.lost(fewest, format_args!("{known}: at least {fewest} lost"));
        } else if value > most {
            let mut all = [acknowledged, unknown].concat();
            all.sort_unstable_by(|a, b| b.cmp(a));
            let fewest = fewest(&all, value - most);
            self.duplicated(fewest, format_args!("{known}: at least {fewest} counted twice"));
        }
    }

    fn members(&mut self, cell: Cell, writes: &[&Write], shown: &BTreeSet<String>) {
        let mut asked: BTreeMap<Member, (Vec<&Write>, Vec<&Write>)> = BTreeMap::new();
        for &write in writes {
            match write.change {
                Change::Include(member) => asked.entry(member).or_default().0.push(write),
                Change::Exclude(member) => asked.entry(member).or_default().1.push(write),
                Change::Put | Change::Switch(_) | Change::Add(_) => {}
            }
        }
        for (&member, (adds, removes)) in &asked {
            if adds.is_empty() {
                continue; // If it shows, it is foreign.
            }
            let there = shown.contains(&member.to_string());
            let latest = Latest::of(removes);
            let certain = adds.iter().find(|add| add.is_acknowledged() && !latest.may_have_seen(add));
            if let (Some(add), false) = (certain, there) {
                let add = self.told(add);
                self.lost(
                    1,
                    format_args!("{cell}: {add} added {member}, nothing can have removed it, and it is not there"),
                );
            }
            let remover = |add: &&Write| removes.iter().find(|remove| remove.surely_saw(add));
            let removers: Option<Vec<_>> = adds.iter().map(remover).collect();
            if let (Some(remove), true) = (removers.and_then(|all| all.last().copied()), there) {
                let remove = self.told(remove);
                self.lost(
                    1,
                    format_args!("{cell}: {remove} removed {member}, nothing added it since, and it is there"),
                );
            }
        }
        for name in shown {
            let adds = Member::from_name(name).and_then(|member| asked.get(&member)).map(|(adds, _)| adds);
            if adds.is_none_or(Vec::is_empty) {
                self.foreign(format_args!("{cell} has {name:?}, which nothing added"));
            }
        }
    }

    /// V3: keys and leaves that no write can have made.
    fn foreign_cells(&mut self, cells: &BTreeMap<Cell, Vec<&Write>>) {
        let mut keys: BTreeSet<(DataType, String)> = BTreeSet::new();
        let mut leaves: BTreeSet<(String, String)> = BTreeSet::new();
        for cell in cells.keys() {
            let key = cell.key().as_str().to_owned();
            if let Some(path) = cell.path() {
                leaves.insert((key.clone(), path));
            }
            keys.insert((cell.data_type(), key));
        }
        for (key, observed) in self.dump {
            let (data_type, name) = key;
            if !keys.contains(key) {
                self.foreign(format_args!("{data_type}/{name} is there, which nothing wrote"));
            } else if *observed == Observed::Nothing {
                self.foreign(format_args!("{data_type}/{name} is listed, and there is nothing"));
            } else if let Observed::Map(map) = observed {
                for path in paths(map) {
                    if !leaves.contains(&(name.clone(), path.clone())) {
                        self.foreign(format_args!("{data_type}/{name}{path} is there, which nothing wrote"));
                    }
                }
            }
        }
    }

    fn told(&self, write: &Write) -> String {
        let region = self.regions.get(write.region).map_or("?", RegionName::as_str);
        let outcome = match write.outcome {
            Outcome::Acknowledged => "acknowledged",
            _ => "of unknown fate",
        };
        format!(
            "write {:x} (session {}, asked in {region} at {}, {outcome} at {})",
            write.number.0, write.session.0, write.started, write.answered
        )
    }

    fn lost(&mut self, count: u64, why: std::fmt::Arguments<'_>) {
        self.findings.lost += count;
        self.explain(why);
    }

    fn duplicated(&mut self, count: u64, why: std::fmt::Arguments<'_>) {
        self.findings.duplicated += count;
        self.explain(why);
    }

    fn foreign(&mut self, why: std::fmt::Arguments<'_>) {
        self.findings.foreign += 1;
        self.explain(why);
    }

    fn explain(&mut self, why: std::fmt::Arguments<'_>) {
        if self.findings.explanations.len() < EXPLANATIONS_MAX {
            self.findings.explanations.push(format!("in {}: {why}", self.region));
        }
    }
}

/// The two writes of some that end last, so that "may any other than this have seen it" is
/// answered without going through all.
struct Latest<'a>([Option<&'a Write>; 2]);

impl<'a> Latest<'a> {
    fn of(writes: &[&'a Write]) -> Self {
        // What is of unknown fate may still be under way.
        let end = |write: &Write| (write.outcome == Outcome::Unknown, write.answered);
        let mut latest = [None; 2];
        for &write in writes {
            if latest[0].is_none_or(|first| end(write) > end(first)) {
                latest = [Some(write), latest[0]];
            } else if latest[1].is_none_or(|second| end(write) > end(second)) {
                latest[1] = Some(write);
            }
        }
        Self(latest)
    }

    /// Whether any of them but `write` itself may have seen `write`.
    fn may_have_seen(&self, write: &Write) -> bool {
        let other = self.0.iter().flatten().find(|one| one.number != write.number);
        other.is_some_and(|other| other.may_have_seen(write))
    }
}

/// How many of `amounts`, largest first and each as often as need be, it takes at least to make up
/// `sum`; at least one.
fn fewest(amounts: &[i128], sum: i128) -> u64 {
    let mut left = sum;
    let mut count = 0;
    for amount in amounts {
        if left <= 0 {
            break;
        }
        left -= amount;
        count += 1;
    }
    let largest = amounts.first().copied().unwrap_or(1).max(1);
    let more = (left.max(0) + largest - 1) / largest;
    (count + u64::try_from(more).unwrap_or(u64::MAX)).max(1)
}

/// The paths of a map's leaves: `/v/N`, `/n/N`, `/t/N`, or whatever else is there.
fn paths(map: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    for (top, under) in map.as_object().into_iter().flatten() {
        match under.as_object() {
            Some(under) => paths.extend(under.keys().map(|name| format!("/{top}/{name}"))),
            None => paths.push(format!("/{top}")),
        }
    }
    paths
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
