//! The store against a plain map: whatever is appended, synced, published, checkpointed and crashed in whatever order.

use super::layered::Built;
use super::{Fixture, Rows, rows, set, sketch, small};
use crate::store::View;
use atoll_crdt::{ActorId, CollectionKey, DataType, Dot, Payload, Row, RowKey, RowSource, VersionVector, flags, sets};
use atoll_replication::sketch::{DigestKey, RowId, Sketch};
use atoll_replication::{Adoption, Aside, Clocks, Pinned, Position, RecordBytes, RowChange, Sides, Store};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Clone, Copy)]
enum Step {
    Add(u8, u8),
    Remove(u8, u8),
    Clear(u8),
    /// A set is deleted, and its rows removed in steps; all but what so many records put last, and whether the record tells how many are left.
    ClearLater(u8, u64, bool),
    /// A step of so many rows.
    RemoveSome(usize),
    Flag(u8, bool),
    Large(u8),
    /// A reconciliation ends: a member of a set comes, the next one goes; whether an actor was lost.
    Adopt(u8, u8, bool),
    /// A layer is begun, of rows that follow from a number.
    LayerBegin(u8),
    /// Its pin moves on.
    LayerNote,
    /// It is looked at over its pin.
    LayerOver,
    /// A pass, so many writes meanwhile, and the entry that names it.
    LayerEnd(u8),
    Submit,
    Publish,
    Checkpoint,
    HoldView,
    HoldPin,
    /// The log goes, but for so many records of each actor.
    Truncate(u64),
    /// Ends the process; whether what is not submitted is submitted first.
    Reopen(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..3_u8, 0..12_u8).prop_map(|(s, m)| Step::Add(s, m)),
        4 => (0..3_u8, 0..12_u8).prop_map(|(s, m)| Step::Remove(s, m)),
        1 => (0..3_u8).prop_map(Step::Clear),
        3 => (0..3_u8, 0..4_u64, any::<bool>()).prop_map(|(s, unseen, known)| Step::ClearLater(s, unseen, known)),
        8 => (1..4_usize).prop_map(Step::RemoveSome),
        4 => (0..6_u8, any::<bool>()).prop_map(|(k, v)| Step::Flag(k, v)),
        1 => (0..3_u8).prop_map(Step::Large),
        2 => (0..3_u8, 0..12_u8, any::<bool>()).prop_map(|(s, m, lost)| Step::Adopt(s, m, lost)),
        3 => any::<u8>().prop_map(Step::LayerBegin),
        1 => Just(Step::LayerNote),
        1 => Just(Step::LayerOver),
        2 => (0..6_u8).prop_map(Step::LayerEnd),
        6 => Just(Step::Submit),
        4 => Just(Step::Publish),
        1 => Just(Step::Checkpoint),
        2 => Just(Step::HoldView),
        2 => Just(Step::HoldPin),
        2 => (0..8_u64).prop_map(Step::Truncate),
        1 => any::<bool>().prop_map(Step::Reopen),
    ];
    prop::collection::vec(step, 1..120)
}

/// One state.
#[derive(Clone)]
struct Expected {
    rows: Rows,
    sketch: Sketch,
    clocks: Clocks,
}

/// Who wrote what reconciliations bring.
const ELSEWHERE: ActorId = ActorId::new(1 << 40);

fn digest_key() -> DigestKey {
    DigestKey::derive(b"test")
}

/// What must be true, kept as simply as possible.
#[derive(Default)]
struct Model {
    /// What holds after each entry, from entry 0.
    states: Vec<Expected>,
    /// Every row that ever was.
    keys: BTreeSet<RowKey>,
    /// The records by the place of their entry.
    log: BTreeMap<Position, RecordBytes>,
    submitted: Position,
}

impl Model {
    fn last(&self) -> Position {
        Position(self.states.len() as u64 - 1)
    }

    fn at(&self, position: Position) -> &Expected {
        &self.states[position.0 as usize]
    }

    fn append(&mut self, changes: &[RowChange], clocks: impl FnOnce(&mut Clocks)) {
        let mut state = self.states.last().cloned().expect("there is a first state");
        let rows = &mut state.rows;
        for change in changes {
            let replaced = match change.after.is_empty() {
                true => rows.remove(&change.key),
                false => rows.insert(change.key.clone(), Arc::clone(&change.after)),
            };
            assert_eq!(replaced, change.before, "a change says what it replaces");
            self.keys.insert(change.key.clone());
        }
        state.sketch = sketch(&digest_key(), rows);
        clocks(&mut state.clocks);
        self.states.push(state);
    }

    fn truncate(&mut self, position: Position) {
        self.states.truncate(position.0 as usize + 1);
        self.log.split_off(&Position(position.0 + 1));
    }
}

struct World {
    dir: tempfile::TempDir,
    fixture: Option<Fixture>,
    model: Model,
    views: Vec<Arc<View>>,
    pins: Vec<(Arc<dyn Pinned>, Position)>,
    layer: Option<Built>,
    /// All that a truncation was told of.
    stable: VersionVector,
    boots: u64,
    checks: u32,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let empty = Expected { rows: Rows::new(), sketch: Sketch::new(0, 0), clocks: Clocks::default() };
        let model = Model { states: vec![empty], ..Model::default() };
        let (views, pins, stable) = (Vec::new(), Vec::new(), VersionVector::new());
        let layer = None;
        let mut world = Self { dir, fixture: None, model, views, pins, layer, stable, boots: 0, checks: 0 };
        world.open();
        world
    }

    fn open(&mut self) {
        self.boots += 1;
        let mut fixture = Fixture::open(small(self.dir.path()), self.boots).expect("opens");
        assert_eq!(fixture.opened.store.last(), self.model.last(), "every whole entry is there");
        assert_eq!(fixture.recovered().clocks, self.model.at(self.model.last()).clocks);
        fixture.start();
        self.model.append(&[], |_| ());
        self.fixture = Some(fixture);
    }

    fn fixture(&mut self) -> &mut Fixture {
        self.fixture.as_mut().expect("the store is open")
    }

    fn write(&mut self, write: impl FnOnce(&mut atoll_crdt::Draft<'_>) -> Result<(), atoll_crdt::ReadError>) {
        let fixture = self.fixture();
        let (position, changes) = fixture.write(write);
        let dot = Dot::new(fixture.actor, fixture.context.get(fixture.actor));
        let record = fixture.store().log(dot.actor, dot.seq, 1).expect("readable").remove(0);
        assert_eq!(record.dot(), dot);
        if let Some(layer) = &mut self.layer {
            layer.changed.extend(changes.iter().map(|change| change.key.clone()));
        }
        self.model.append(&changes, |clocks| clocks.record(dot));
        assert_eq!(position, self.model.last());
        self.model.log.insert(position, record);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Add(s, m) => {
                let member = set(&s.to_string()).member(&m.to_string()).expect("valid");
                self.write(|draft| sets::add(draft, &member));
            }
            Step::Remove(s, m) => {
                let member = set(&s.to_string()).member(&m.to_string()).expect("valid");
                self.write(|draft| sets::remove(draft, &member));
            }
            Step::Clear(s) => self.write(|draft| sets::delete(draft, &set(&s.to_string()))),
            // What changes while a layer is built must be told at once.
            Step::ClearLater(s, ..) if self.layer.is_some() => self.step(Step::Clear(s)),
            Step::ClearLater(s, unseen, is_known) => self.clear_later(&set(&s.to_string()), unseen, is_known),
            Step::RemoveSome(rows) => {
                self.fixture().store().clear_step(rows).expect("readable");
            }
            Step::Flag(k, value) => {
                let flag = CollectionKey::new("_system", DataType::Flag, &k.to_string()).expect("valid");
                self.write(|draft| flags::set(draft, &flag.row(), value));
            }
            Step::Large(s) => {
                let set = set(&s.to_string());
                let members: Vec<_> = (0..40).map(|n| set.member(&format!("{n:0100}")).expect("valid")).collect();
                self.write(|draft| members.iter().try_for_each(|member| sets::add(draft, member)));
            }
            // One at a time.
            Step::Adopt(..) if self.layer.is_some() => {}
            Step::Adopt(s, m, lost) => {
                self.clear_all();
                self.adopt(s, m, lost);
            }
            Step::LayerBegin(seed) => {
                self.clear_all();
                self.begin_layer(seed);
            }
            Step::LayerNote => self.note_layer(),
            Step::LayerOver => self.look_over_layer(),
            Step::LayerEnd(writes) => self.end_layer(writes),
            Step::Submit => {
                if let Some(last) = self.fixture().submit() {
                    self.model.submitted = last;
                }
            }
            Step::Publish => self.publish(),
            Step::Checkpoint => {
                self.publish();
                self.fixture().store().checkpoint();
            }
            Step::HoldView => {
                let view = self.fixture().opened.views.current();
                self.views.push(view);
            }
            Step::HoldPin => {
                self.clear_all();
                let at = self.model.last();
                let pin = self.fixture().store().pin();
                self.pins.push((pin, at));
            }
            Step::Truncate(kept) => self.truncate(kept),
            Step::Reopen(submit) => self.reopen(submit),
        }
    }

    fn clear_later(&mut self, set: &CollectionKey, unseen: u64, is_known: bool) {
        let fixture = self.fixture();
        let changes = fixture.clear_later(set, unseen, is_known);
        let dot = Dot::new(fixture.actor, fixture.context.get(fixture.actor));
        let record = fixture.store().log(dot.actor, dot.seq, 1).expect("readable").remove(0);
        self.model.append(&changes, |clocks| clocks.record(dot));
        let last = self.model.last();
        self.model.log.insert(last, record);
    }

    /// All steps of what is being cleared, as before anything is compared.
    fn clear_all(&mut self) {
        while self.fixture().store().clearing() > 0 {
            self.step(Step::Submit);
            self.step(Step::Publish);
            self.step(Step::RemoveSome(3));
        }
    }

    fn adopt(&mut self, s: u8, m: u8, lost: bool) {
        let member = |m: u8| set(&s.to_string()).member(&m.to_string()).expect("valid");
        let known = self.fixture().context.get(ELSEWHERE);
        let dot = Dot::new(ELSEWHERE, known + 1);
        let mut row = Row::empty();
        row.put(dot, Payload::Member);
        let mut rows: BTreeMap<RowKey, Arc<Row>> = [(member(m), Arc::new(row))].into();
        let gone = member(m + 1);
        if self.model.at(self.model.last()).rows.contains_key(&gone) {
            rows.insert(gone, Arc::new(Row::empty()));
        }
        let context: VersionVector = [dot].into_iter().collect();
        let cursor = if lost { context.clone() } else { VersionVector::new() };
        let adoption = Adoption { context, cursor, rows: rows.into_iter().collect(), layer: None };
        let changes = self.fixture().adopt(adoption.clone());
        self.model.append(&changes, |clocks| clocks.adopt(&adoption));
    }

    fn begin_layer(&mut self, seed: u8) {
        if self.layer.is_some() || self.fixture().store().is_moving_aside() {
            return;
        }
        let now = self.model.at(self.model.last()).rows.clone();
        let context = self.fixture().context.clone();
        let layer = Built::begin(&mut self.fixture().opened.store, seed, now, (&context, ELSEWHERE));
        self.layer = Some(layer);
    }

    fn note_layer(&mut self) {
        let now = self.model.at(self.model.last()).rows.clone();
        if let Some(mut layer) = self.layer.take() {
            layer.note(&mut self.fixture().opened.store, now);
            self.layer = Some(layer);
        }
    }

    fn look_over_layer(&mut self) {
        let Some(layer) = self.layer.take() else { return };
        let (over, expected) = layer.over(&mut self.fixture().opened.store);
        assert!(*over.sketch() == sketch(&digest_key(), &expected), "the sketch over a layer is that of other rows");
        check_source(&*over, &expected);
        check_ids(&*over, &self.model.keys, &expected, self.checks);
        self.layer = Some(layer);
    }

    fn end_layer(&mut self, writes: u8) {
        self.note_layer();
        let Some(layer) = self.layer.take() else { return };
        let context = self.fixture().context.clone();
        self.fixture().store().merge_aside(Sides { ours: context, theirs: layer.theirs.clone() });
        self.layer = Some(layer);
        self.step(Step::Submit);
        self.step(Step::Publish);
        for n in 0..writes {
            self.step(if n % 2 == 0 { Step::Add(n % 3, n) } else { Step::Remove(n % 3, n) });
        }
        let Some(layer) = self.layer.take() else { return };
        let (now, context) = (self.model.at(self.model.last()).rows.clone(), self.fixture().context.clone());
        let (adoption, all) = layer.close(&mut self.fixture().opened.store, &now, &context);
        self.fixture().adopt(adoption.clone());
        self.model.append(&all, |clocks| clocks.adopt(&adoption));
    }

    fn truncate(&mut self, kept: u64) {
        let view = self.fixture().opened.views.current();
        let held = view.context().iter().filter(|dot| dot.seq > kept);
        let stable: VersionVector = held.map(|dot| Dot::new(dot.actor, dot.seq - kept)).collect();
        self.stable.join(&stable);
        self.fixture().store().truncate(&stable);
    }

    fn publish(&mut self) {
        let submitted = self.model.submitted;
        let fixture = self.fixture();
        if submitted > Position(fixture.store().stats().position()) {
            fixture.wait_for(submitted);
            fixture.store().publish(submitted);
        }
    }

    fn reopen(&mut self, submit: bool) {
        if submit {
            self.step(Step::Submit);
        }
        self.views.clear();
        self.pins.clear();
        self.layer = None;
        self.fixture = None;
        // What was submitted was written; the rest is gone.
        let written = self.model.submitted;
        self.model.truncate(written);
        self.open();
    }

    fn check(&mut self) {
        self.checks += 1;
        let is_quiet = self.fixture().store().clearing() == 0;
        let pin = is_quiet.then(|| self.fixture().store().pin());
        let (fixture, model) = (self.fixture.as_mut().expect("the store is open"), &self.model);
        let store = &fixture.opened.store;
        let last = model.last();
        check_source(store, &model.at(last).rows);
        if let Some(pin) = pin {
            check_pin(&*pin, model, last, self.checks);
        }
        let view = fixture.opened.views.current();
        let expected = model.at(view.position());
        check_source(&*view, &expected.rows);
        if !view.is_clearing() {
            assert_eq!((view.rows(), view.root()), (expected.rows.len() as u64, expected.sketch.root()));
        }
        assert_eq!(**view.context(), expected.clocks.context);
        for view in &self.views {
            let expected = model.at(view.position());
            assert_eq!(rows(&**view), expected.rows, "a view never changes");
            assert!(view.is_clearing() || view.root() == expected.sketch.root());
        }
        for (pin, at) in &self.pins {
            check_source(&**pin, &model.at(*at).rows);
            check_pin(&**pin, model, *at, self.checks);
        }
        check_log(store, model, &self.stable);
    }
}

/// A pin has the sketch of its rows, and finds exactly those that are asked for, other ones each time.
fn check_pin(pin: &dyn Pinned, model: &Model, at: Position, salt: u32) {
    let expected = model.at(at);
    assert!(*pin.sketch() == expected.sketch, "the sketch of {at:?} is that of other rows");
    assert_eq!(pin.rows(), expected.rows.len() as u64);
    check_ids(pin, &model.keys, &expected.rows, salt);
}

fn check_ids(pin: &dyn Pinned, keys: &BTreeSet<RowKey>, expected: &Rows, salt: u32) {
    let key = digest_key();
    let wanted = |id: RowId| id.to_bits() >> (salt % 50) & 1 == 0;
    let mut ids: Vec<RowId> =
        keys.iter().chain(expected.keys()).map(|row| key.id(row)).filter(|id| wanted(*id)).collect();
    ids.push(key.id_of_bytes(&salt.to_le_bytes()));
    ids.sort_unstable();
    ids.dedup();
    let mut found = Rows::new();
    let visit = pin.visit_ids(&ids, &mut |row_key, row| {
        assert_eq!(found.insert(row_key.clone(), Arc::clone(row)), None, "a row is shown once");
    });
    visit.expect("readable");
    let mut rows = expected.clone();
    rows.retain(|row, _| wanted(key.id(row)));
    assert_eq!(found, rows);
}

fn check_source(source: &dyn RowSource, expected: &Rows) {
    assert_eq!(&rows(source), expected);
    for s in 0..3 {
        let set = set(&s.to_string());
        let members = expected.keys().filter(|key| key.as_bytes().starts_with(set.as_bytes()));
        assert_eq!(source.live_rows(&set), Ok(members.count() as u64), "members of set {s}");
        for m in 0..12 {
            let key = set.member(&m.to_string()).expect("valid");
            assert_eq!(source.row(&key).expect("readable").as_ref(), expected.get(&key));
        }
        // A listing that begins in the middle and stops early.
        let from = set.member("3").expect("valid");
        let (mut seen, mut left) = (Vec::new(), 2);
        let visit = source.visit(set.as_bytes(), from.as_bytes(), &mut |key, _| {
            seen.push(key.clone());
            left -= 1;
            left > 0
        });
        visit.expect("readable");
        let wanted = expected.keys().filter(|key| **key >= from && key.as_bytes().starts_with(set.as_bytes()));
        assert_eq!(seen, wanted.take(2).cloned().collect::<Vec<_>>());
    }
}

fn check_log(store: &crate::store::NodeStore, model: &Model, stable: &VersionVector) {
    let mut logs: BTreeMap<_, Vec<&RecordBytes>> = BTreeMap::new();
    for record in model.log.values() {
        logs.entry(record.dot().actor).or_default().push(record);
    }
    for (actor, records) in logs {
        let last = records.len() as u64;
        let start = store.log_start(actor).unwrap_or(last + 1);
        assert!(start <= stable.get(actor) + 1, "a member still lacks some of {start}..");
        for from in [start, (start + last) / 2, last].into_iter().filter(|from| (start..=last).contains(from)) {
            for bytes_max in [1, 700, 1 << 20] {
                let found = store.log(actor, from, bytes_max).expect("readable");
                let mut room = bytes_max;
                let expected = records[from as usize - 1..].iter().enumerate().take_while(|(at, record)| {
                    let bytes = record.as_bytes().len();
                    let fits = *at == 0 || bytes <= room;
                    room = room.saturating_sub(bytes);
                    fits
                });
                let expected: Vec<_> = expected.map(|(_, record)| (*record).clone()).collect();
                assert_eq!(found, expected, "from {from} of {last}, {bytes_max} bytes");
            }
        }
        for gone in [1, start - 1].into_iter().filter(|seq| (1..start).contains(seq)) {
            assert_eq!(store.log(actor, gone, 1 << 20), Ok(Vec::new()), "{gone} is in no log that begins with {start}");
        }
        assert_eq!(store.log(actor, last + 1, 1 << 20), Ok(Vec::new()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 2_000, ..ProptestConfig::default() })]
    #[test]
    fn the_store_is_a_map_with_a_log_whatever_happens_to_the_process(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check();
        }
        world.reopen(true);
        world.check();
    }
}
