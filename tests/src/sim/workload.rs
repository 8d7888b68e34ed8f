//! What clients do: writes of every type on a few names, with and without what they saw.

use super::history::Meaning;
use super::options::{Mix, Options};
use super::random::Random;
use atoll_crdt::{CollectionKey, DataType, LeafKind, MapPath, RowKey, Seen, VersionVector, maps};
use atoll_replication::{Command, MapChange};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What one client action asks for, and what that means for counters.
#[derive(Debug)]
pub struct Write {
    /// The commands.
    pub commands: Vec<Command>,
    /// Counters that they add to or reset.
    pub meanings: Vec<Meaning>,
    /// What they replace, if the client said so.
    pub seen: Option<Seen>,
}

fn collection(data_type: DataType, key: &str) -> CollectionKey {
    CollectionKey::new("sim", data_type, key).expect("a valid name")
}

fn path(pointer: &str) -> MapPath {
    MapPath::from_pointer(pointer).expect("a valid pointer")
}

/// The counters that exist.
#[must_use]
pub fn counters() -> Vec<CollectionKey> {
    vec![collection(DataType::Counter, "c0"), collection(DataType::Counter, "c1")]
}

/// Ghost of one request: what its commands do to counters, one after the other.
#[derive(Debug, Default)]
struct Ghost {
    added: BTreeMap<RowKey, i64>,
    reset: BTreeMap<RowKey, VersionVector>,
}

impl Ghost {
    fn add(&mut self, key: RowKey, amount: i64) {
        *self.added.entry(key).or_default() += amount;
    }

    fn reset(&mut self, key: RowKey, seen: &VersionVector) {
        self.added.remove(&key);
        self.reset.entry(key).or_default().join(seen);
    }

    fn meanings(self) -> Vec<Meaning> {
        let added = self.added.into_iter().map(|(key, amount)| Meaning::Added(key, amount));
        added.chain(self.reset.into_iter().map(|(key, seen)| Meaning::Reset(key, seen))).collect()
    }
}

/// Draws a write at a node whose context is `context`. `shown` is an earlier read of a counter, which a delete may
/// bring along; `seen` one of anything.
#[must_use]
pub fn draw(
    random: &mut Random,
    options: &Options,
    context: &VersionVector,
    shown: Option<&(CollectionKey, Seen)>,
    seen: Option<&Seen>,
) -> Write {
    if random.permille(60)
        && let Some((key, shown)) = shown
    {
        let meanings = vec![Meaning::Reset(key.row(), shown.context.clone())];
        return Write { commands: vec![Command::Delete { key: key.clone() }], meanings, seen: Some(shown.clone()) };
    }
    if options.mix != Mix::Ordinary && random.permille(600) {
        return mixed(random, options, context);
    }
    let counter_share = options.counter_share;
    let with_seen = seen.filter(|_| random.permille(250));
    let mut ghost = Ghost::default();
    let mut commands = Vec::new();
    for _ in 0..*random.pick(&[1, 1, 1, 2, 4]).unwrap_or(&1) {
        // What an older context means for a counter inside a map is not exact by design, so they do not meet here.
        let command = if with_seen.is_none() && random.permille(counter_share) {
            counter(random, context, &mut ghost)
        } else {
            other(random, with_seen.is_none().then_some((context, &mut ghost)))
        };
        commands.push(command);
    }
    Write { commands, meanings: ghost.meanings(), seen: with_seen.cloned() }
}

/// A write of which this seed has many.
fn mixed(random: &mut Random, options: &Options, context: &VersionVector) -> Write {
    let mut ghost = Ghost::default();
    let set = collection(DataType::Set, "huge");
    let command = match options.mix {
        Mix::HugeSets => {
            let (first, all) = (random.below(options.huge.0), options.huge.0);
            let numbers = first..first + random.between(all / 10, all / 3);
            let member = |n: u64| set.member(&format!("m{}", n % all)).expect("a short member");
            let members: Vec<_> = numbers.map(member).collect();
            match random.below(20) {
                0 => Command::Delete { key: set },
                1 => Command::SetChange { add: Vec::new(), remove: members, key: set },
                _ => Command::SetChange { add: members, remove: Vec::new(), key: set },
            }
        }
        Mix::HotKeys if random.permille(500) => {
            let key = counters().remove(0);
            ghost.add(key.row(), 1);
            Command::CounterAdd { key, amount: 1 }
        }
        Mix::HotKeys | Mix::Ordinary => Command::RegisterPut {
            key: collection(DataType::Register, "r0"),
            content_type: "text/plain".into(),
            bytes: Arc::from(random.next().to_be_bytes().as_slice()),
        },
        Mix::Deletes => match random.below(4) {
            0 => Command::Delete { key: collection(DataType::Set, "s") },
            1 => {
                let key = counters().remove(0);
                ghost.reset(key.row(), context);
                Command::Delete { key }
            }
            2 => {
                let map = collection(DataType::Map, "m");
                for pointer in ["/n", "/a/n"] {
                    ghost.reset(path(pointer).leaf(&map, LeafKind::Counter), context);
                }
                Command::Delete { key: map }
            }
            _ => Command::Delete { key: collection(DataType::Register, random.pick(&["r0", "r1"]).unwrap_or(&"r0")) },
        },
    };
    Write { commands: vec![command], meanings: ghost.meanings(), seen: None }
}

fn counter(random: &mut Random, context: &VersionVector, ghost: &mut Ghost) -> Command {
    let amount = *random.pick(&[1, 2, 5, -1, -7]).unwrap_or(&1);
    if random.permille(400) {
        let pointer = *random.pick(&["/n", "/a/n"]).unwrap_or(&"/n");
        let map = collection(DataType::Map, "m");
        ghost.add(path(pointer).leaf(&map, LeafKind::Counter), amount);
        return Command::MapPatch { key: map, changes: vec![MapChange::Add(path(pointer), amount)] };
    }
    let keys = counters();
    let key = random.pick(&keys).unwrap_or(&keys[0]).clone();
    if random.permille(250) {
        ghost.reset(key.row(), context);
        Command::Delete { key }
    } else {
        ghost.add(key.row(), amount);
        Command::CounterAdd { key, amount }
    }
}

fn other(random: &mut Random, counters: Option<(&VersionVector, &mut Ghost)>) -> Command {
    let register = collection(DataType::Register, random.pick(&["r0", "r1"]).unwrap_or(&"r0"));
    let set = collection(DataType::Set, "s");
    let flag = collection(DataType::Flag, "f");
    match random.below(12) {
        0..=3 => Command::RegisterPut {
            key: register,
            content_type: "text/plain".into(),
            bytes: Arc::from(random.next().to_be_bytes().as_slice()),
        },
        4 => Command::Delete { key: register },
        5..=7 => {
            let mut members = |share| {
                ["x", "y", "z"]
                    .into_iter()
                    .filter(|_| random.permille(share))
                    .map(|member| set.member(member).expect("a short member"))
                    .collect::<Vec<_>>()
            };
            let (add, remove) = (members(500), members(250));
            Command::SetChange { add, remove, key: set }
        }
        8 => Command::Delete { key: set },
        9 => Command::FlagSet { key: flag, enabled: random.permille(500) },
        _ => match counters {
            Some((context, ghost)) => map(random, context, ghost),
            None => Command::Delete { key: flag },
        },
    }
}

fn map(random: &mut Random, context: &VersionVector, ghost: &mut Ghost) -> Command {
    let key = collection(DataType::Map, "m");
    let leaf = |pointer: &str| path(pointer).leaf(&key, LeafKind::Counter);
    let json = maps::Value::Json(Arc::from(random.next().to_string().as_bytes()));
    let change = match random.below(7) {
        0 => MapChange::Set(path("/a/b"), json),
        1 => {
            ghost.reset(leaf("/a/n"), context);
            MapChange::Set(path("/a"), json)
        }
        2 => {
            ghost.reset(leaf("/a/n"), context);
            MapChange::Set(path("/a"), maps::Value::Object(vec![("c".into(), json)]))
        }
        3 => {
            ghost.reset(leaf("/a/n"), context);
            MapChange::Remove(path("/a"))
        }
        4 => MapChange::AddMember(path("/tags"), "t".into()),
        5 => MapChange::RemoveMember(path("/tags"), "t".into()),
        _ => {
            ghost.reset(leaf("/a/n"), context);
            ghost.reset(leaf("/n"), context);
            return Command::Delete { key };
        }
    };
    Command::MapPatch { key, changes: vec![change] }
}
