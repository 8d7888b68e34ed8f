//! Measures reconciliation: `cargo bench -p atoll-replication --bench reconcile -- [FLAGS]`.
//!
//! * `--rows 1e5,1e6` rows that both sides begin with;
//! * `--differ 1,100,1e4,1e5` how many of them are then overwritten, removed or added on one side (a third each);
//! * `--sessions 3` sessions a line, each with other differences; CPU is the median, bytes the mean.
//!
//! `--rows 1e7` takes half a gigabyte of memory. Ids and digests are random numbers, as they are in a node;
//! hashing rows is measured by itself. One session is what two nodes do: encoded bytes go over, nothing is shared.
//! Beside it a Merkle descent over the same leaves: 16 ways a level, 8 bytes a node, then the list of ids and digests
//! (16 bytes a row) of each leaf that differs.
//!
//! A plain program and no statistics library: bytes and flights are counted, not timed.
#![allow(clippy::print_stdout, reason = "a measurement is printed")]

use atoll_crdt::{ActorId, CollectionKey, DataType, Dot, Hlc, Payload, Row, RowKey};
use atoll_replication::sketch::{
    Cell, Change, Decoder, DigestKey, Estimate, ID_BITS, MODULUS, NodeDifference, Opening, Progress, RowDigest, RowId,
    Sketch, Verdict, decode_cells, encode_cells, leaf_bits_for,
};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

fn main() {
    let mut rows = vec![100_000, 1_000_000];
    let mut differ = vec![1, 100, 10_000, 100_000];
    let mut sessions = 3;
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(flag) = arguments.next() {
        let value = arguments.next().unwrap_or_default();
        match flag.as_str() {
            "--rows" => rows = numbers(&value),
            "--differ" => differ = numbers(&value),
            "--sessions" => sessions = numbers(&value).first().map_or(1, |count| (*count).max(1)),
            other => panic!("one of --rows, --differ, --sessions; not {other}"),
        }
    }
    hashing();
    for rows in rows {
        let world = World::new(rows);
        upkeep(&world);
        table(&world, &differ, sessions);
    }
}

/// Counts, separated by commas; `1e6` is a million.
fn numbers(text: &str) -> Vec<u64> {
    let one = |count: &str| count.parse::<f64>().unwrap_or_else(|_| panic!("{count} is no count")) as u64;
    text.split(',').map(one).collect()
}

/// A number that looks random and follows from `n`.
fn spread(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn row_id(n: u64) -> RowId {
    RowId::from_bits(spread(n) % MODULUS).expect("below the modulus")
}

fn digest(row: u64, state: u64) -> RowDigest {
    RowDigest::from_bits(spread(spread(!row) ^ state) % (MODULUS - 1) + 1).expect("below the modulus")
}

/// Rows 0, 1, 2, … in their first state, and what one node keeps about them.
struct World {
    rows: u64,
    sketch: Sketch,
    built: Duration,
}

impl World {
    fn new(rows: u64) -> Self {
        let begin = Instant::now();
        let mut sketch = Sketch::for_rows(rows);
        for row in 0..rows {
            sketch.apply(Change::between(row_id(row), RowDigest::ABSENT, digest(row, 0)));
        }
        Self { rows, sketch, built: begin.elapsed() }
    }

    /// What makes a second node out of the first: `differ` rows that differ, by id.
    fn differences(&self, differ: u64, session: u64) -> Differences {
        let mut rows = BTreeSet::new();
        let mut salt = spread(session ^ (differ << 20));
        while (rows.len() as u64) < differ {
            salt = spread(salt);
            let new = rows.len() % 3 == 2;
            rows.insert(if new { self.rows + salt % (1 << 40) } else { salt % self.rows });
        }
        let old_rows = rows.range(..self.rows).count();
        let mut changes: Vec<Change> = rows
            .into_iter()
            .map(|row| {
                let old = if row < self.rows { digest(row, 0) } else { RowDigest::ABSENT };
                let removed = row < self.rows && spread(row).is_multiple_of(2);
                let new = if removed { RowDigest::ABSENT } else { digest(row, 1) };
                Change::between(row_id(row), old, new)
            })
            .collect();
        changes.sort_unstable_by_key(|change| change.id);
        Differences { changes, old_rows }
    }
}

/// What a second node has beyond the first.
struct Differences {
    changes: Vec<Change>,
    /// How many of the rows the first node has.
    old_rows: usize,
}

/// Nanoseconds a turn.
fn time(turns: u64, mut turn: impl FnMut(u64)) -> f64 {
    let begin = Instant::now();
    for n in 0..turns {
        turn(n);
    }
    begin.elapsed().as_secs_f64() * 1e9 / turns as f64
}

fn hashing() {
    let secret = DigestKey::derive(b"a cluster");
    let key: RowKey = CollectionKey::new("shop", DataType::Register, "user:00000000000000001234").expect("a key").row();
    println!("hashing a row: value bytes, ns for its id, ns for its digest");
    for bytes in [8, 220, 4_096] {
        let mut row = Row::empty();
        let at = Hlc::from_bits(1 << 40);
        let payload = Payload::Value { at, content_type: "text/plain".into(), bytes: vec![7; bytes].into() };
        row.put(Dot::new(ActorId::new(u64::MAX), 1 << 40), payload);
        let id = time(100_000, |_| _ = black_box(secret.id(black_box(&key))));
        let digest = time(100_000, |_| _ = black_box(secret.digest(black_box(&key), black_box(&row))));
        println!("{bytes:>10} {id:>6.0} {digest:>6.0}");
    }
}

fn upkeep(world: &World) {
    const TURNS: u64 = 1_000_000;
    let change = |n: u64| Change::between(row_id(n), digest(n, 0), digest(n, 1));
    let none = time(TURNS, |n| _ = black_box(change(n)));
    let mut leaves = world.sketch.leaves().clone();
    let leaves_ns = time(TURNS, |n| leaves.apply(change(n))) - none;
    let mut prefix = world.sketch.prefix().clone();
    let prefix_ns = time(TURNS, |n| prefix.apply(change(n))) - none;
    let mut whole = world.sketch.clone();
    let whole_ns = time(TURNS, |n| whole.apply(change(n))) - none;
    let clone_ms = time(20, |_| _ = black_box(world.sketch.clone())) / 1e6;
    let opening_ms = time(20, |n| _ = black_box(Opening::of(&world.sketch, 22, n as u32).encode())) / 1e6;
    let checkpoint_ms = time(5, |_| _ = black_box(Sketch::decode(&world.sketch.encode()))) / 1e6;
    println!(
        "\n{} rows, 2^{} leaves: {:.1} MB, built in {:.0} ms. Upkeep of a change: leaves {leaves_ns:.0} ns, prefix \
         {prefix_ns:.0} ns, both {whole_ns:.0} ns.\nClone {clone_ms:.1} ms, opening {opening_ms:.1} ms, checkpoint \
         written and read {checkpoint_ms:.0} ms.",
        world.rows,
        world.sketch.leaves().bits(),
        world.sketch.memory_bytes() as f64 / 1e6,
        world.built.as_secs_f64() * 1e3,
    );
    assert!(whole.check_invariants());
}

/// What one reconciliation took.
#[derive(Debug, Default, Clone, Copy)]
struct Cost {
    bytes: u64,
    flights: u32,
    initiator_ms: f64,
    responder_ms: f64,
    missed: usize,
    false_rows: usize,
    by_leaves: bool,
}

fn table(world: &World, differ: &[u64], sessions: u64) {
    println!(
        "{:>8} {:>12} {:>9} {:>8} {:>13} {:>13} {:>6} {:>5} | {:>13} {:>8} {:>7} {:>10}",
        "differ",
        "digest bytes",
        "per row",
        "flights",
        "initiator ms",
        "responder ms",
        "missed",
        "false",
        "Merkle bytes",
        "per row",
        "flights",
        "false rows"
    );
    for &differ in differ.iter().filter(|differ| **differ <= world.rows) {
        let (mut costs, mut trees) = (Vec::new(), Vec::new());
        for session in 0..sessions {
            let differences = world.differences(differ, session);
            let mut theirs = world.sketch.clone();
            differences.changes.iter().for_each(|change| theirs.apply(*change));
            costs.push(reconcile(&theirs, &world.sketch, &differences.changes, session as u32));
            trees.push(merkle(world, &theirs, &differences));
        }
        let (cost, tree) = (typical(&costs), typical(&trees));
        println!(
            "{differ:>8} {:>12} {:>9.1} {:>8} {:>13.2} {:>13.2} {:>6} {:>5} | {:>13} {:>8.1} {:>7} {:>10}{}",
            cost.bytes,
            cost.bytes as f64 / differ as f64,
            cost.flights,
            cost.initiator_ms,
            cost.responder_ms,
            cost.missed,
            cost.false_rows,
            tree.bytes,
            tree.bytes as f64 / differ as f64,
            tree.flights,
            tree.false_rows,
            if cost.by_leaves { "  (by leaves)" } else { "" }
        );
        let target = 57_354 + 42 * differ;
        let beyond = costs.iter().filter(|cost| cost.bytes > target || cost.flights > 2 || cost.missed > 0).count();
        if beyond > 0 {
            println!("         {beyond} of {sessions} sessions are beyond the target of 2 flights and {target} bytes");
        }
    }
}

/// Mean bytes, most flights and mistakes, median CPU.
fn typical(costs: &[Cost]) -> Cost {
    let median = |of: fn(&Cost) -> f64| {
        let mut all: Vec<f64> = costs.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    Cost {
        bytes: costs.iter().map(|cost| cost.bytes).sum::<u64>() / costs.len() as u64,
        flights: costs.iter().map(|cost| cost.flights).max().unwrap_or_default(),
        initiator_ms: median(|cost| cost.initiator_ms),
        responder_ms: median(|cost| cost.responder_ms),
        missed: costs.iter().map(|cost| cost.missed).max().unwrap_or_default(),
        false_rows: costs.iter().map(|cost| cost.false_rows).max().unwrap_or_default(),
        by_leaves: costs.iter().any(|cost| cost.by_leaves),
    }
}

/// Runs `work` and adds the time it took.
fn timed<T>(ms: &mut f64, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let result = work();
    *ms += begin.elapsed().as_secs_f64() * 1e3;
    result
}

/// A session between two nodes: `a` opens, `b` answers. Flights are one-way, and of digests: two more carry the rows.
fn reconcile(a: &Sketch, b: &Sketch, expected: &[Change], salt: u32) -> Cost {
    let mut cost = Cost::default();
    let opening = timed(&mut cost.initiator_ms, || Opening::of(a, b.leaves().bits(), salt).encode());
    cost.send(opening.len());
    let (opening, verdict) = timed(&mut cost.responder_ms, || {
        let opening = Opening::decode(&opening).expect("ours");
        let verdict = opening.compare(b).expect("ours");
        (opening, verdict)
    });
    let changes = match verdict {
        Verdict::Equal => Vec::new(),
        // The responder knows, and sends the rows with its very answer.
        Verdict::Decoded(changes) => changes,
        Verdict::About(estimate) => {
            let wanted = estimate.cells_wanted().min(opening.prefix_cells(b));
            let peeled = peel(a, b, Decoder::new(), wanted, &mut cost);
            peeled.or_else(|| by_leaves(a, b, Some(estimate), &mut cost)).unwrap_or_default()
        }
        // Where even that names too few, a node copies all rows: every row counts as missed here.
        Verdict::TooMany(estimate) => by_leaves(a, b, estimate, &mut cost).unwrap_or_default(),
    };
    let found: BTreeSet<RowId> = changes.iter().map(|change| change.id).collect();
    let expected: BTreeSet<RowId> = expected.iter().map(|change| change.id).collect();
    cost.missed = expected.difference(&found).count();
    cost.false_rows = found.difference(&expected).count();
    cost
}

/// `b` sends cells, `wanted` of them at first, and `a` peels until every row that differs is named.
fn peel(a: &Sketch, b: &Sketch, mut decoder: Decoder, wanted: usize, cost: &mut Cost) -> Option<Vec<Change>> {
    let mut wanted = 0..wanted;
    loop {
        let bytes = timed(&mut cost.responder_ms, || encode_cells(&b.prefix().cells()[wanted.clone()]));
        cost.send(bytes.len());
        let progress = timed(&mut cost.initiator_ms, || {
            let cells = decode_cells(&bytes, wanted.len()).expect("ours");
            decoder.extend(a.prefix(), &cells).expect("ours")
        });
        match progress {
            Progress::Complete => break,
            Progress::More(more) => {
                wanted = more;
                // The request for more.
                cost.send(8);
            }
            Progress::Exhausted => return None,
        }
    }
    Some(timed(&mut cost.initiator_ms, || decoder.into_changes().expect("ours")))
}

impl Cost {
    fn send(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.flights += 1;
    }
}

/// The way beyond the prefix's reach: `b` streams a level of its leaves, and then cells for the rows that were not alone
/// in theirs.
fn by_leaves(a: &Sketch, b: &Sketch, estimate: Option<Estimate>, cost: &mut Cost) -> Option<Vec<Change>> {
    const STRETCH: usize = 1 << 14;
    cost.by_leaves = true;
    let common = a.leaves().bits().min(b.leaves().bits());
    let bits = estimate.map_or(common, |estimate| estimate.level_bits_wanted().min(common));
    let mut differing: Vec<NodeDifference> = Vec::new();
    for first in (0..1 << bits).step_by(STRETCH) {
        let count = STRETCH.min((1 << bits) - first);
        let bytes = timed(&mut cost.responder_ms, || {
            let cells: Vec<Cell> = b.leaves().nodes(bits, first, count).expect("within the level").collect();
            encode_cells(&cells)
        });
        cost.bytes += bytes.len() as u64;
        timed(&mut cost.initiator_ms, || {
            let cells = decode_cells(&bytes, STRETCH).expect("ours");
            differing.extend(a.leaves().compare(bits, first, &cells).expect("within the level"));
        });
    }
    // The stream is one flight, the request for cells another.
    cost.flights += 1;
    cost.send(8);
    let named: Vec<Change> = differing.iter().filter_map(|node| node.only).collect();
    let left = Estimate::from_nodes(differing.len(), 1 << bits, bits)?.less(named.len() as u64);
    peel(a, b, Decoder::knowing(named), left.cells_wanted(), cost)
}

/// A Merkle descent over the leaves of both: what it would send, and in how many flights.
fn merkle(world: &World, theirs: &Sketch, differences: &Differences) -> Cost {
    const WAYS_LOG: u32 = 4;
    const NODE_BYTES: u64 = 8;
    const ROW_BYTES: u64 = 16;
    let bits = leaf_bits_for(world.rows);
    let mut cost = Cost { bytes: NODE_BYTES, flights: 1, ..Cost::default() };
    let (ours, theirs) = (world.sketch.leaves(), theirs.leaves());
    let mut level = 0;
    let mut differing = vec![0_usize];
    while level < bits && !differing.is_empty() {
        let next = (level + WAYS_LOG).min(bits);
        let ways = 1_usize << (next - level);
        let (a, b) = (ours.fold(next), theirs.fold(next));
        // Which nodes, a bit for each child of the level before, and the children of each.
        cost.bytes += differing.len() as u64 * (ways as u64 * NODE_BYTES + 2);
        cost.flights += 1;
        differing = differing.iter().flat_map(|node| node * ways..(node + 1) * ways).collect();
        differing.retain(|node| a[*node] != b[*node]);
        level = next;
    }
    let mut listed = vec![0_u32; 1 << bits];
    let leaf_of = |id: RowId| (id.to_bits() >> (ID_BITS - bits)) as usize;
    (0..world.rows).for_each(|row| listed[leaf_of(row_id(row))] += 1);
    let rows: u64 = differing.iter().map(|leaf| u64::from(listed[*leaf])).sum();
    // Bits for the leaves that differ, then the list of one side; the other side answers with rows.
    cost.bytes += rows * ROW_BYTES + differing.len() as u64 * 2;
    cost.flights += 1;
    cost.false_rows = rows as usize - differences.old_rows;
    let expected: BTreeSet<usize> = differences.changes.iter().map(|change| leaf_of(change.id)).collect();
    assert_eq!(differing.len(), expected.len());
    cost
}
