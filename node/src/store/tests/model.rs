//! The store against a plain map: whatever is appended, synced, published, checkpointed and crashed in whatever order.

use super::{Fixture, Rows, rows, set, small};
use crate::store::View;
use atoll_crdt::{CollectionKey, DataType, RowSource, flags, sets};
use atoll_replication::{Position, RecordBytes, RowChange, Store};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug, Clone, Copy)]
enum Step {
    Add(u8, u8),
    Remove(u8, u8),
    Clear(u8),
    Flag(u8, bool),
    Large(u8),
    Submit,
    Publish,
    Checkpoint,
    HoldView,
    /// Ends the process; whether what is not submitted is submitted first.
    Reopen(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..3_u8, 0..12_u8).prop_map(|(s, m)| Step::Add(s, m)),
        4 => (0..3_u8, 0..12_u8).prop_map(|(s, m)| Step::Remove(s, m)),
        1 => (0..3_u8).prop_map(Step::Clear),
        4 => (0..6_u8, any::<bool>()).prop_map(|(k, v)| Step::Flag(k, v)),
        1 => (0..3_u8).prop_map(Step::Large),
        6 => Just(Step::Submit),
        4 => Just(Step::Publish),
        1 => Just(Step::Checkpoint),
        2 => Just(Step::HoldView),
        1 => any::<bool>().prop_map(Step::Reopen),
    ];
    prop::collection::vec(step, 1..120)
}

/// What must be true, kept as simply as possible.
#[derive(Default)]
struct Model {
    /// The rows after each entry, from entry 0.
    states: Vec<Rows>,
    /// The records by the place of their entry.
    log: BTreeMap<Position, RecordBytes>,
    submitted: Position,
}

impl Model {
    fn last(&self) -> Position {
        Position(self.states.len() as u64 - 1)
    }

    fn at(&self, position: Position) -> &Rows {
        &self.states[position.0 as usize]
    }

    fn append(&mut self, changes: &[RowChange]) {
        let mut rows = self.states.last().cloned().unwrap_or_default();
        for change in changes {
            let replaced = match change.after.is_empty() {
                true => rows.remove(&change.key),
                false => rows.insert(change.key.clone(), Arc::clone(&change.after)),
            };
            assert_eq!(replaced, change.before, "a change says what it replaces");
        }
        self.states.push(rows);
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
    boots: u64,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let model = Model { states: vec![Rows::new()], ..Model::default() };
        let mut world = Self { dir, fixture: None, model, views: Vec::new(), boots: 0 };
        world.open();
        world
    }

    fn open(&mut self) {
        self.boots += 1;
        let mut fixture = Fixture::open(small(self.dir.path()), self.boots).expect("opens");
        assert_eq!(fixture.opened.store.last(), self.model.last(), "every whole entry is there");
        let records: Vec<_> = self.model.log.values().map(RecordBytes::dot).collect();
        assert_eq!(fixture.recovered().clocks.cursor, records.into_iter().collect());
        assert_eq!(fixture.recovered().clocks.context, fixture.recovered().clocks.cursor);
        fixture.start();
        self.model.append(&[]);
        self.fixture = Some(fixture);
    }

    fn fixture(&mut self) -> &mut Fixture {
        self.fixture.as_mut().expect("the store is open")
    }

    fn write(&mut self, write: impl FnOnce(&mut atoll_crdt::Draft<'_>) -> Result<(), atoll_crdt::ReadError>) {
        let fixture = self.fixture();
        let (position, changes) = fixture.write(write);
        let dot = atoll_crdt::Dot::new(fixture.actor, fixture.context.get(fixture.actor));
        let record = fixture.store().log(dot.actor, dot.seq, 1).expect("readable").remove(0);
        assert_eq!(record.dot(), dot);
        self.model.append(&changes);
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
            Step::Flag(k, value) => {
                let flag = CollectionKey::new("_system", DataType::Flag, &k.to_string()).expect("valid");
                self.write(|draft| flags::set(draft, &flag.row(), value));
            }
            Step::Large(s) => {
                let set = set(&s.to_string());
                let members: Vec<_> = (0..40).map(|n| set.member(&format!("{n:0100}")).expect("valid")).collect();
                self.write(|draft| members.iter().try_for_each(|member| sets::add(draft, member)));
            }
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
            Step::Reopen(submit) => self.reopen(submit),
        }
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
        self.fixture = None;
        // What was submitted was written; the rest is gone.
        let written = self.model.submitted;
        self.model.truncate(written);
        self.open();
    }

    fn check(&mut self) {
        let (fixture, model) = (self.fixture.as_mut().expect("the store is open"), &self.model);
        let store = &fixture.opened.store;
        check_source(store, model.at(model.last()));
        let view = fixture.opened.views.current();
        check_source(&*view, model.at(view.position()));
        assert_eq!(view.rows(), model.at(view.position()).len() as u64);
        let upto = model.log.range(..=view.position()).map(|(_, record)| record.dot());
        assert_eq!(**view.context(), upto.collect());
        for view in &self.views {
            assert_eq!(&rows(&**view), model.at(view.position()), "a view never changes");
        }
        check_log(store, model);
    }
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

fn check_log(store: &crate::store::NodeStore, model: &Model) {
    let mut logs: BTreeMap<_, Vec<&RecordBytes>> = BTreeMap::new();
    for record in model.log.values() {
        logs.entry(record.dot().actor).or_default().push(record);
    }
    for (actor, records) in logs {
        assert_eq!(store.log_start(actor), Some(1));
        let last = records.len() as u64;
        for from in [1, last / 2 + 1, last] {
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
