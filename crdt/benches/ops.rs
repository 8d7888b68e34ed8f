//! What one operation costs: by the size of the collection it is in, and by the number of actors in a counter.
//!
//! The rows are in an ordered map, as in a store's memory; what grows with a collection is the depth of that map, and
//! nothing else may. `docs/internals/performance-crdt.md` holds a run.

use atoll_crdt::codec::{Reader, Writer};
use atoll_crdt::{
    ActorId, CollectionKey, DataType, Dot, Draft, Hlc, MapPath, Op, ReadError, Row, RowKey, RowSource, VersionVector,
    counters, maps, registers, sets,
};
use criterion::{BenchmarkId, Criterion};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

const SIZES: [u64; 4] = [10, 1_000, 100_000, 1_000_000];

/// One node's rows, clock and next dot.
#[derive(Default)]
struct Store {
    rows: BTreeMap<RowKey, Arc<Row>>,
    live: BTreeMap<CollectionKey, u64>,
    context: VersionVector,
}

impl RowSource for Store {
    fn row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        Ok(self.rows.get(key).cloned())
    }

    fn visit(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError> {
        let rows = self.rows.range::<[u8], _>((Bound::Included(prefix.max(from)), Bound::Unbounded));
        for (key, row) in rows.take_while(|(key, _)| key.as_bytes().starts_with(prefix)) {
            if !visitor(key, row) {
                break;
            }
        }
        Ok(())
    }

    fn live_rows(&self, collection: &CollectionKey) -> Result<u64, ReadError> {
        Ok(self.live.get(collection).copied().unwrap_or(0))
    }
}

impl Store {
    /// One whole write: draft, operations, rows.
    fn write(&mut self, actor: u64, make: impl FnOnce(&mut Draft<'_>)) -> Vec<Op> {
        let actor = ActorId::new(actor);
        let dot = Dot::new(actor, self.context.get(actor) + 1);
        let context = std::mem::take(&mut self.context);
        let mut draft = Draft::new(self, dot, Hlc::at_ms(dot.seq), &context, None);
        make(&mut draft);
        let ops = draft.into_ops();
        self.context = context;
        for op in &ops {
            let Op::Row(op) = op else { unreachable!("no benchmark clears") };
            let mut row = self.rows.get(&op.key).map_or_else(Row::empty, |row| Row::clone(row));
            op.apply(dot, &mut row);
            self.put(&op.key, row);
        }
        self.context.include(dot);
        ops
    }

    fn put(&mut self, key: &RowKey, row: Row) {
        let live = self.live.entry(key.collection()).or_default();
        let was = if row.is_empty() {
            self.rows.remove(key).is_some()
        } else {
            *live += 1;
            self.rows.insert(key.clone(), Arc::new(row)).is_some()
        };
        *live -= u64::from(was);
    }
}

fn collection(data_type: DataType) -> CollectionKey {
    CollectionKey::new("shop", data_type, "bench").expect("a valid name")
}

fn member(set: &CollectionKey, number: u64) -> RowKey {
    set.member(&format!("member-{number:09}")).expect("short")
}

fn encoded(ops: &[Op]) -> usize {
    let mut out = Writer::new();
    ops.iter().for_each(|op| op.encode(&mut out));
    out.as_bytes().len()
}

fn set_of(size: u64) -> Store {
    let set = collection(DataType::Set);
    let mut store = Store::default();
    for number in 0..size {
        // Every other number, so that a new member lands between old ones.
        store.write(1, |draft| {
            sets::add(draft, &member(&set, 2 * number)).expect("readable");
        });
    }
    store
}

fn sets_by_size(criterion: &mut Criterion) {
    let set = collection(DataType::Set);
    let mut group = criterion.benchmark_group("set");
    for size in SIZES {
        let mut store = set_of(size);
        let mut turn = 0_u64;
        let mut next = move || {
            turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            2 * ((turn >> 33) % size)
        };
        let id = |what: &str| BenchmarkId::new(what.to_owned(), size);
        group.bench_function(id("look a row up, the map alone"), |b| {
            b.iter(|| black_box(store.rows.contains_key(&member(&set, next()))));
        });
        group.bench_function(id("put the same member again"), |b| {
            let key = member(&set, 0);
            b.iter(|| black_box(store.write(1, |draft| sets::add(draft, &key).expect("readable"))));
        });
        group.bench_function(id("add and remove a new member"), |b| {
            b.iter(|| {
                let key = member(&set, next() + 1);
                let added = store.write(1, |draft| sets::add(draft, &key).expect("readable"));
                let removed = store.write(1, |draft| sets::remove(draft, &key).expect("readable"));
                black_box((added, removed));
            });
        });
        group.bench_function(id("put a member again"), |b| {
            b.iter(|| {
                let key = member(&set, next());
                black_box(store.write(1, |draft| sets::add(draft, &key).expect("readable")));
            });
        });
        group.bench_function(id("size after an add"), |b| {
            b.iter(|| {
                let key = member(&set, next() + 1);
                let dot = Dot::new(ActorId::new(2), 1);
                let mut draft = Draft::new(&store, dot, Hlc::at_ms(1), &store.context, None);
                sets::add(&mut draft, &key).expect("readable");
                black_box(draft.live_rows(&set).expect("readable"))
            });
        });
        let theirs = VersionVector::from_iter([Dot::new(ActorId::new(2), 1)]);
        let mut other = Row::empty();
        other.put(Dot::new(ActorId::new(2), 1), atoll_crdt::Payload::Member);
        group.bench_function(id("merge one member's row"), |b| {
            b.iter(|| {
                let row = store.rows.get(&member(&set, next())).expect("there");
                black_box(row.merge(&store.context, &other, &theirs))
            });
        });
        group.bench_function(id("encode one member's row and operation"), |b| {
            let ops = store.write(1, |draft| {
                sets::add(draft, &member(&set, 0)).expect("readable");
            });
            b.iter(|| {
                let row = store.rows.get(&member(&set, next())).expect("there");
                let mut out = Writer::new();
                row.encode(&mut out);
                black_box((out.into_bytes(), encoded(&ops)))
            });
        });
    }
    group.finish();
}

fn map_leaves_by_size(criterion: &mut Criterion) {
    let map = collection(DataType::Map);
    let path = |number: u64| MapPath::from_pointer(&format!("/users/{number}/name")).expect("valid");
    let value = maps::Value::Json(br#""Ann""#.as_slice().into());
    let mut group = criterion.benchmark_group("map");
    for size in &SIZES[..3] {
        let mut store = Store::default();
        for number in 0..*size {
            store.write(1, |draft| {
                maps::set(draft, &map, &path(number), &value).expect("a place that can be");
            });
        }
        let mut turn = 0;
        group.bench_function(BenchmarkId::new("set a leaf", size), |b| {
            b.iter(|| {
                turn = (turn + 7_919) % size;
                let path = path(turn);
                black_box(store.write(1, |draft| {
                    maps::set(draft, &map, &path, &value).expect("a place that can be");
                }))
            });
        });
    }
    group.finish();
}

fn counters_by_actors(criterion: &mut Criterion) {
    let key = collection(DataType::Counter).row();
    let mut group = criterion.benchmark_group("counter");
    for actors in [3_u64, 30] {
        let mut store = Store::default();
        for actor in 1..=actors {
            store.write(actor, |draft| {
                drop(black_box(counters::add(draft, &key, 1_000_000)));
            });
        }
        let other = Row::clone(&store.rows[&key]);
        let their_context = store.context.clone();
        let id = |what: &str| BenchmarkId::new(what.to_owned(), actors);
        group.bench_function(id("add"), |b| {
            b.iter(|| black_box(store.write(1, |draft| drop(black_box(counters::add(draft, &key, 1))))));
        });
        let row = Row::clone(&store.rows[&key]);
        group.bench_function(id("value"), |b| {
            b.iter(|| black_box(counters::value(black_box(&row))));
        });
        group.bench_function(id("merge"), |b| {
            b.iter(|| black_box(row.merge(&store.context, &other, &their_context)));
        });
        let mut out = Writer::new();
        row.encode(&mut out);
        let bytes = out.into_bytes();
        group.bench_function(id("encode"), |b| {
            b.iter(|| {
                let mut out = Writer::new();
                row.encode(&mut out);
                black_box(out.into_bytes())
            });
        });
        group.bench_function(id("decode"), |b| {
            b.iter(|| black_box(Row::decode(&mut Reader::new(black_box(&bytes)))));
        });
    }
    group.finish();
}

fn registers_put(criterion: &mut Criterion) {
    let key = collection(DataType::Register).row();
    let mut store = Store::default();
    let value = [b'v'; 100];
    criterion.bench_function("register/put 100 bytes", |b| {
        b.iter(|| {
            black_box(store.write(1, |draft| {
                registers::put(draft, &key, "text/plain", &value).expect("readable");
            }))
        });
    });
}

fn main() {
    let short = Duration::from_millis(600);
    let mut criterion =
        Criterion::default().sample_size(20).warm_up_time(short / 2).measurement_time(short).configure_from_args();
    registers_put(&mut criterion);
    counters_by_actors(&mut criterion);
    map_leaves_by_size(&mut criterion);
    sets_by_size(&mut criterion);
    criterion.final_summary();
}
