//! Measures the store: `cargo bench -p atoll-node --bench store -- PART`, one part a process, so that memory and CPU are
//! that part's own. Parts: `commit`, `publish`, `open`, `memory`, `read`, `churn`, `pin`, `adopt`, `clear`.
//!
//! A plain program and no statistics library: what is measured is whole runs of a disk and several threads, where the
//! spread between runs says more than any within one.
#![allow(clippy::print_stdout, reason = "a measurement is printed")]

use atoll_crdt::{
    ActorId, CollectionKey, DataType, Dot, Draft, Hlc, Payload, ReadError, Row, RowKey, RowSource, VersionVector,
    registers, sets,
};
use atoll_node::store::{NodeStore, Opened, StoreConfig, SyncMode};
use atoll_replication::sketch::RowId;
use atoll_replication::{
    Adoption, Aside, Cleared, Entry, Pinned, Position, Record, RowChanges, Sides, Store, replayed_changes, row_changes,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// What a typical record takes.
const VALUE_BYTES: usize = 220;
const KEYS: u64 = 1_000_000;

fn main() {
    let part = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    match part.as_deref() {
        Some("commit") => commit(),
        Some("publish") => publish(),
        Some("open") => open(),
        Some("memory") => memory(),
        Some("memory-opened") => memory_opened(),
        Some("read") => read(),
        Some("churn") => churn(),
        Some("pin") => pin(),
        Some("adopt") => adopt(),
        Some("clear") => clear(),
        other => println!("one of commit, publish, open, memory, read, churn, pin, adopt, clear; not {other:?}"),
    }
}

/// A generator of key numbers: the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn register(n: u64) -> RowKey {
    CollectionKey::new("shop", DataType::Register, &format!("user:{n:020}")).expect("a valid key").row()
}

/// A store with what a replica adds to it.
struct Writer {
    opened: Opened,
    actor: ActorId,
    context: VersionVector,
    reports: Receiver<Position>,
}

impl Writer {
    fn open(config: StoreConfig, actor: u64) -> Self {
        let (report, reports) = sync_channel(1 << 16);
        let opened = NodeStore::open(
            config,
            move |position| report.send(position).expect("somebody listens"),
            |failure| panic!("{failure}"),
        );
        let opened = opened.expect("the store opens");
        let context = opened.recovered.clocks.context.clone();
        Self { opened, actor: ActorId::new(actor), context, reports }
    }

    fn write(&mut self, draft_it: impl FnOnce(&mut Draft<'_>) -> Result<(), ReadError>) -> Position {
        let dot = Dot::new(self.actor, self.context.get(self.actor) + 1);
        let mut draft = Draft::new(&self.opened.store, dot, Hlc::at_ms(1), &self.context, None);
        draft_it(&mut draft).expect("rows are readable");
        let record = Record { dot, at: Hlc::at_ms(1), deps: VersionVector::new(), ops: draft.into_ops() };
        let rows = row_changes(&record, &self.context, &self.opened.store).expect("rows are readable");
        let bytes = record.encode();
        self.context.include(dot);
        self.opened.store.append(Entry::Record(bytes), rows)
    }

    fn put(&mut self, key: u64, value: &[u8]) -> Position {
        let key = register(key);
        self.write(|draft| registers::put(draft, &key, "application/octet-stream", value))
    }

    /// Hands on what was appended; `false` when nothing was.
    fn submit(&mut self) -> bool {
        let group = self.opened.store.take_group();
        group.map(|group| self.opened.commits.submit(group)).is_some()
    }

    /// Makes everything durable and visible.
    fn commit(&mut self) {
        let last = self.opened.store.last();
        if !self.submit() {
            return;
        }
        while self.reports.recv().expect("the commit thread reports") < last {}
        self.opened.store.publish(last);
    }
}

/// Durable writes through the whole path, as a replica thread drives it.
fn commit() {
    for round in 1..=3 {
        for outstanding in [1, 16, 64, 256] {
            pipelined(outstanding, round);
        }
        for clients in [64, 256] {
            closed_loop(clients, round);
        }
    }
}

/// No client threads: the ceiling of the store with so many writes in flight.
fn pipelined(outstanding: u64, round: u64) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut writer = Writer::open(StoreConfig::new(dir.path()), 1);
    let (mut keys, value) = (Numbers(round), [7; VALUE_BYTES]);
    let (mut synced, mut last) = (0, 0);
    let mut latencies = Vec::new();
    let mut begun = std::collections::VecDeque::new();
    let (begin, cpu) = (Instant::now(), cpu_ms("self"));
    while begin.elapsed() < Duration::from_secs(5) {
        while last - synced < outstanding {
            last = writer.put(keys.next() % KEYS, &value).0;
            begun.push_back(Instant::now());
        }
        writer.submit();
        let mut position = writer.reports.recv().expect("reported");
        while let Ok(later) = writer.reports.try_recv() {
            position = later;
        }
        writer.opened.store.publish(position);
        latencies.extend(begun.drain(..(position.0 - synced) as usize).map(|begun| begun.elapsed()));
        synced = position.0;
    }
    report(&format!("{outstanding} in flight"), &writer, begin.elapsed(), cpu_ms("self") - cpu, latencies);
}

enum Event {
    Put(u64, usize),
    Synced(Position),
}

/// Client threads that each wait for their answer.
fn closed_loop(clients: usize, round: u64) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (events, queue) = sync_channel::<Event>(4_096);
    let synced = events.clone();
    let opened = NodeStore::open(
        StoreConfig::new(dir.path()),
        move |position| {
            let _ = synced.send(Event::Synced(position));
        },
        |failure| panic!("{failure}"),
    );
    let opened = opened.expect("the store opens");
    let (_, reports) = sync_channel(1);
    let mut writer = Writer { opened, actor: ActorId::new(1), context: VersionVector::new(), reports };
    let (begin, cpu) = (Instant::now(), cpu_ms("self"));
    let (answers, threads): (Vec<_>, Vec<_>) = (0..clients)
        .map(|client| {
            let (answer, answered) = sync_channel(1);
            let events = events.clone();
            (answer, std::thread::spawn(move || one_client(client, round, begin, &events, &answered)))
        })
        .unzip();
    drop(events);
    serve(&mut writer, &queue, &answers, begin);
    let took = begin.elapsed();
    drop((answers, queue));
    let latencies = threads.into_iter().flat_map(|thread| thread.join().expect("a client ends")).collect();
    report(&format!("{clients} client threads"), &writer, took, cpu_ms("self") - cpu, latencies);
}

fn one_client(
    client: usize,
    round: u64,
    begin: Instant,
    events: &SyncSender<Event>,
    answered: &Receiver<()>,
) -> Vec<Duration> {
    let mut keys = Numbers(round * 1_000 + client as u64 + 1);
    let mut latencies = Vec::new();
    while begin.elapsed() < Duration::from_secs(5) {
        let asked = Instant::now();
        if events.send(Event::Put(keys.next() % KEYS, client)).is_err() || answered.recv().is_err() {
            break;
        }
        latencies.push(asked.elapsed());
    }
    latencies
}

/// What a replica thread does, without the protocol.
fn serve(writer: &mut Writer, queue: &Receiver<Event>, answers: &[SyncSender<()>], begin: Instant) {
    let value = [7; VALUE_BYTES];
    let mut unsynced = std::collections::VecDeque::new();
    while begin.elapsed() < Duration::from_secs(5) || !unsynced.is_empty() {
        let Ok(first) = queue.recv() else { return };
        for event in std::iter::once(first).chain(queue.try_iter().take(1_024)) {
            match event {
                Event::Put(key, client) => unsynced.push_back((writer.put(key, &value), client)),
                Event::Synced(position) => {
                    writer.opened.store.publish(position);
                    while unsynced.front().is_some_and(|(at, _)| *at <= position) {
                        if let Some((_, client)) = unsynced.pop_front() {
                            let _ = answers[client].try_send(());
                        }
                    }
                }
            }
        }
        writer.submit();
    }
}

fn report(what: &str, writer: &Writer, took: Duration, cpu_ms: u64, mut latencies: Vec<Duration>) {
    latencies.sort_unstable();
    let at = |share: f64| latencies[(((latencies.len() - 1) as f64) * share) as usize].as_secs_f64() * 1e3;
    let (commits, store) = (writer.opened.commits.stats(), writer.opened.store.stats());
    println!(
        "{what}: {:.0} writes/s, p50 {:.2} p99 {:.2} p99.9 {:.2} ms; {:.1} entries a sync of {:.0} us, {} checkpoints, {:.1} us CPU a write",
        latencies.len() as f64 / took.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(0.999),
        commits.entries() as f64 / commits.syncs().max(1) as f64,
        commits.sync_us() as f64 / commits.syncs().max(1) as f64,
        store.checkpoints(),
        cpu_ms as f64 * 1e3 / latencies.len() as f64,
    );
}

/// Two ways of making synced rows readable, without a journal: straight into the engine, not synced; and into an ordered
/// map of which every publish takes a copy, written to the engine now and then.
fn publish() {
    for keys in [KEYS, 10_000] {
        for (rows_each, publishes) in [(1, 200_000), (45, 20_000), (500, 2_000)] {
            let rows = (rows_each * publishes) as f64;
            for (what, run) in [("engine", into_engine as fn(u64, u64, u64)), ("map", into_map)] {
                let (begin, cpu, own) = (Instant::now(), cpu_ms("self"), cpu_ms("thread-self"));
                run(rows_each, publishes, keys);
                let each = |ms: u64| ms as f64 * 1e3 / rows;
                println!(
                    "{keys} keys, {rows_each} rows a publish, {what}: {:.2} us a row, {:.2} us CPU of the publishing thread, {:.2} of all",
                    begin.elapsed().as_secs_f64() * 1e6 / rows,
                    each(cpu_ms("thread-self") - own),
                    each(cpu_ms("self") - cpu),
                );
            }
        }
    }
}

fn row(seq: u64) -> Arc<Row> {
    let mut row = Row::empty();
    let value =
        Payload::Value { at: Hlc::at_ms(seq), content_type: "text/plain".into(), bytes: [7; VALUE_BYTES].into() };
    row.put(Dot::new(ActorId::new(1), seq), value);
    Arc::new(row)
}

fn encoded(row: &Row) -> Vec<u8> {
    let mut out = atoll_crdt::codec::Writer::appending(vec![0; 4]);
    row.encode(&mut out);
    let mut bytes = out.into_bytes();
    let checksum = crc32fast::hash(&bytes[4..]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn engine(dir: &Path) -> (fjall::Database, fjall::Keyspace) {
    let database = fjall::Database::builder(dir).cache_size(128 << 20).open().expect("the engine opens");
    let rows = database.keyspace("rows", fjall::KeyspaceCreateOptions::default).expect("a keyspace");
    (database, rows)
}

fn into_engine(rows_each: u64, publishes: u64, all: u64) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (database, rows) = engine(dir.path());
    let published = arc_swap::ArcSwap::from_pointee(database.snapshot());
    let mut keys = Numbers(1);
    for _ in 0..publishes {
        let mut batch = database.batch();
        for n in 0..rows_each {
            batch.insert(&rows, register(keys.next() % all).as_bytes(), encoded(&row(n + 1)));
        }
        batch.commit().expect("written");
        published.store(Arc::new(database.snapshot()));
    }
    database.persist(fjall::PersistMode::SyncData).expect("synced");
}

fn into_map(rows_each: u64, publishes: u64, all: u64) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (database, rows) = engine(dir.path());
    let (freeze, frozen) = sync_channel::<imbl::OrdMap<RowKey, Arc<Row>>>(0);
    let flusher = std::thread::spawn(move || {
        for layer in frozen {
            let mut batch = database.batch().durability(Some(fjall::PersistMode::SyncData));
            for (key, row) in &layer {
                batch.insert(&rows, key.as_bytes(), encoded(row));
            }
            batch.commit().expect("written");
        }
    });
    let mut map = imbl::OrdMap::new();
    let published = arc_swap::ArcSwap::from_pointee(map.clone());
    let mut keys = Numbers(1);
    for _ in 0..publishes {
        for n in 0..rows_each {
            map.insert(register(keys.next() % all), row(n + 1));
        }
        // About 32 MiB.
        if map.len() > 70_000 {
            freeze.send(std::mem::take(&mut map)).expect("the flusher lives");
        }
        published.store(Arc::new(map.clone()));
    }
    freeze.send(map).expect("the flusher lives");
    drop(freeze);
    flusher.join().expect("the flusher ends");
}

/// Opening with a million records: all to be replayed, all in a checkpoint, and with rows built anew.
fn open() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = StoreConfig { sync: SyncMode::Interval(Duration::from_secs(1)), ..StoreConfig::new(dir.path()) };
    let mut writer = Writer::open(config.clone(), 1);
    for n in 0..KEYS {
        writer.put(n, &[7; VALUE_BYTES]);
        if n % 500 == 499 {
            writer.commit();
        }
    }
    writer.commit();
    println!("written: {} checkpoints", writer.opened.store.stats().checkpoints());
    drop(writer);
    opened("after a crash under load", &config);
    let mut writer = Writer::open(config.clone(), 2);
    writer.opened.store.checkpoint();
    drop(writer);
    opened("after a checkpoint, by the stored sketch", &config);
    std::fs::rename(dir.path().join("sketch"), dir.path().join("aside")).expect("moved");
    opened("after a checkpoint, every row read", &config);
    std::fs::rename(dir.path().join("aside"), dir.path().join("sketch")).expect("moved");
    for segment in std::fs::read_dir(dir.path().join("journal")).expect("listed") {
        let path = segment.expect("listed").path();
        if path.extension().is_some_and(|extension| extension == "idx") {
            std::fs::remove_file(path).expect("removed");
        }
    }
    opened("after a checkpoint, without stored indexes", &config);
    std::fs::remove_dir_all(dir.path().join("rows")).expect("removed");
    opened("with rows built anew from the journal", &config);
}

fn opened(what: &str, config: &StoreConfig) {
    let begin = Instant::now();
    let writer = Writer::open(config.clone(), 9);
    println!("{what}: {:.0} ms to {:?}", begin.elapsed().as_secs_f64() * 1e3, writer.opened.store.last());
}

/// Resident memory with a million members of one set, after writing them and, in a process of its own, after opening again.
fn memory() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    println!("empty process: {} MiB", resident_mib());
    let mut writer = Writer::open(StoreConfig::new(dir.path()), 1);
    println!("empty store: {} MiB", resident_mib());
    let begin = Instant::now();
    for n in 0..KEYS {
        let member = members().member(&format!("{n:016}")).expect("a valid member");
        writer.write(|draft| sets::add(draft, &member));
        if n % 500 == 499 {
            writer.commit();
        }
    }
    println!("{KEYS} members in {:.1} s: {} MiB", begin.elapsed().as_secs_f64(), resident_mib());
    writer.opened.store.checkpoint();
    println!("after a checkpoint: {} MiB; {:?}", resident_mib(), writer.opened.store.stats());
    drop(writer);
    let program = std::env::current_exe().expect("this program");
    let status = std::process::Command::new(program).arg("memory-opened").arg(dir.path()).status();
    assert!(status.expect("it runs").success());
}

fn members() -> CollectionKey {
    CollectionKey::new("shop", DataType::Set, "members").expect("a valid key")
}

fn memory_opened() {
    let dir = std::env::args().nth(2).expect("a directory");
    let writer = Writer::open(StoreConfig::new(dir), 2);
    println!("opened again: {} MiB", resident_mib());
    let begin = Instant::now();
    let mut count = 0_u64;
    let visit = writer.opened.store.visit(b"", b"", &mut |_, _| {
        count += 1;
        true
    });
    visit.expect("readable");
    println!("scanned {count} in {:.2} s: {} MiB", begin.elapsed().as_secs_f64(), resident_mib());
    let (mut keys, begin) = (Numbers(3), Instant::now());
    for _ in 0..KEYS {
        let member = members().member(&format!("{:016}", keys.next() % KEYS)).expect("a valid member");
        writer.opened.store.row(&member).expect("readable").expect("it is there");
    }
    let each = begin.elapsed().as_secs_f64() * 1e6 / KEYS as f64;
    println!("{KEYS} members read at random, {each:.1} us each: {} MiB", resident_mib());
}

/// Reading rows from each layer.
fn read() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = StoreConfig { sync: SyncMode::Interval(Duration::from_secs(1)), ..StoreConfig::new(dir.path()) };
    let mut writer = Writer::open(config, 1);
    for n in 0..KEYS {
        writer.put(n, &[7; VALUE_BYTES]);
        if n % 500 == 499 {
            writer.commit();
        }
    }
    writer.opened.store.checkpoint();
    let views = Arc::clone(&writer.opened.views);
    let read = |what: &str, keys: u64| {
        let (view, mut numbers, begin) = (views.current(), Numbers(5), Instant::now());
        for _ in 0..KEYS {
            view.row(&register(numbers.next() % keys)).expect("readable").expect("it is there");
        }
        println!("{what}: {:.2} us each", begin.elapsed().as_secs_f64() * 1e6 / KEYS as f64);
    };
    read("uniform over 1M rows, first round", KEYS);
    read("uniform over 1M rows", KEYS);
    read("10k hot rows", 10_000);
    for n in 0..10_000 {
        writer.put(n, &[8; VALUE_BYTES]);
    }
    writer.commit();
    read("10k rows of the memtable", 10_000);
    let begin = Instant::now();
    let mut count = 0_u64;
    let visit = views.current().visit(b"", b"", &mut |_, _| {
        count += 1;
        true
    });
    visit.expect("readable");
    println!("scan of {count}: {:.2} s", begin.elapsed().as_secs_f64());
}

/// Whether the row engine's files stay bounded when the same rows are written again and again.
fn churn() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = StoreConfig { sync: SyncMode::Interval(Duration::from_millis(20)), ..StoreConfig::new(dir.path()) };
    let mut writer = Writer::open(config, 1);
    for round in 1..=200 {
        for n in 0..10_000 {
            writer.put(n, &[7; VALUE_BYTES]);
            if n % 500 == 499 {
                writer.commit();
            }
        }
        writer.opened.store.checkpoint();
        if round % 20 == 0 {
            let mib = |name: &str| disk_bytes(&dir.path().join(name)) >> 20;
            println!(
                "{round} checkpoints of 10,000 rows: rows {} MiB, journal {} MiB, {} MiB resident",
                mib("rows"),
                mib("journal"),
                resident_mib()
            );
        }
    }
}

/// What a reconciliation asks of the store: a pinned state of a million rows, and rows by id.
fn pin() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = StoreConfig { sync: SyncMode::Interval(Duration::from_secs(1)), ..StoreConfig::new(dir.path()) };
    let mut writer = Writer::open(config.clone(), 1);
    for n in 0..KEYS {
        writer.put(n, &[7; VALUE_BYTES]);
        if n % 500 == 499 {
            writer.commit();
        }
    }
    writer.opened.store.checkpoint();
    drop(writer);
    // Opened again, so that the sketch is sized for the rows.
    let mut writer = Writer::open(config.clone(), 2);
    let timed = |what: &str, writer: &mut Writer| {
        let begin = Instant::now();
        let pin = writer.opened.store.pin();
        let pinned = begin.elapsed();
        let begin = Instant::now();
        writer.put(3, &[9; VALUE_BYTES]);
        println!("{what}: {:.0} us, and {:.0} us for the next write", micros(pinned), micros(begin.elapsed()));
        pin
    };
    let mut pin = timed("a pin, nothing unsynced", &mut writer);
    println!("the sketch takes {} MiB", pin.sketch().memory_bytes() >> 20);
    visited("from the engine", &*pin, &config);
    for n in 0..2_000 {
        writer.put(n * 7, &[8; VALUE_BYTES]);
    }
    pin = timed("a pin, 2,000 rows unsynced", &mut writer);
    drop(pin);
    writer.commit();
    for n in 0..60_000 {
        writer.put(n * 11, &[8; VALUE_BYTES]);
        if n % 500 == 499 {
            writer.commit();
        }
    }
    pin = timed("a pin, some 60,000 rows in memory", &mut writer);
    let begin = Instant::now();
    pin.visit_ids(&[], &mut |_, _| ()).expect("readable");
    println!("indexing them: {:.0} us", micros(begin.elapsed()));
    visited("with rows in memory", &*pin, &config);
}

fn visited(what: &str, pin: &dyn Pinned, config: &StoreConfig) {
    for wanted in [1, 100, 10_000, 100_000, KEYS] {
        let mut numbers = Numbers(9);
        let mut ids: Vec<RowId> = (0..wanted)
            .map(|n| config.digest_key.id(&register(if wanted == KEYS { n } else { numbers.next() % KEYS })))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let (mut found, begin) = (0, Instant::now());
        pin.visit_ids(&ids, &mut |_, _| found += 1).expect("readable");
        println!("{what}: {found} of {} ids, {:.2} us each", ids.len(), micros(begin.elapsed()) / ids.len() as f64);
    }
}

fn micros(took: Duration) -> f64 {
    took.as_secs_f64() * 1e6
}

fn disk_bytes(path: &Path) -> u64 {
    let Ok(items) = std::fs::read_dir(path) else {
        return std::fs::metadata(path).map_or(0, |found| std::os::unix::fs::MetadataExt::blocks(&found) * 512);
    };
    items.flatten().map(|item| disk_bytes(&item.path())).sum()
}

/// CPU time, user and system, in milliseconds, of this process (`self`) or thread (`thread-self`).
fn cpu_ms(of: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{of}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * 10
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() / 1_024
}

/// A million rows of a peer, taken over by a layer.
fn adopt() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut writer = Writer::open(StoreConfig::new(dir.path()), 1);
    writer.put(KEYS, &[7; VALUE_BYTES]);
    writer.commit();
    let begin = Instant::now();
    let pin = writer.opened.store.pin();
    let (peer, mut theirs, mut longest) = (ActorId::new(9), writer.context.clone(), Duration::ZERO);
    theirs.include(Dot::new(peer, KEYS));
    let sides = Sides { ours: writer.context.clone(), theirs: theirs.clone() };
    writer.opened.store.begin_aside(pin, Some(sides));
    for first in (0..KEYS).step_by(256) {
        let rows = (first..(first + 256).min(KEYS)).map(|n| {
            let dot = Dot::new(peer, n + 1);
            let bytes = [7; VALUE_BYTES].as_slice().into();
            let mut row = Row::empty();
            row.put(dot, Payload::Value { at: Hlc::at_ms(1), content_type: "text/plain".into(), bytes });
            (register(n), Arc::new(row))
        });
        let rows = rows.collect();
        let put = Instant::now();
        writer.opened.store.put_aside(rows);
        longest = longest.max(put.elapsed());
        while writer.opened.store.aside_use().waiting_bytes > 8 << 20 {
            std::thread::yield_now();
        }
    }
    println!("staged: {:.1} s; the longest call {:.0} us", begin.elapsed().as_secs_f64(), micros(longest));
    let begin = Instant::now();
    let context = writer.context.clone();
    writer.opened.store.merge_aside(Sides { ours: context, theirs: theirs.clone() });
    let merged = loop {
        if let Some(merged) = writer.opened.store.merged_aside() {
            break merged;
        }
        std::thread::yield_now();
    };
    println!("a pass over {} rows: {:.1} s", merged.rows, begin.elapsed().as_secs_f64());
    let (cursor, rows, layer) = (VersionVector::new(), Vec::new(), Some(merged.layer));
    let entry = Entry::Adopt(Arc::new(Adoption { context: theirs, cursor, rows, layer }));
    let begin = Instant::now();
    writer.opened.store.append(entry, Vec::new());
    println!("the closing entry: {:.1} ms", micros(begin.elapsed()) / 1_000.0);
    let begin = Instant::now();
    writer.commit();
    let mut longest = Duration::ZERO;
    while writer.opened.store.is_moving_aside() {
        let put = Instant::now();
        writer.put(KEYS + 1, &[7; VALUE_BYTES]);
        writer.commit();
        longest = longest.max(put.elapsed());
    }
    println!(
        "moved: {:.1} s; the longest write meanwhile {:.1} ms",
        begin.elapsed().as_secs_f64(),
        micros(longest) / 1_000.0
    );
}

/// Rows that a step of a clear looks at, as a replica has it by default.
const CLEAR_ROWS: usize = 512;

/// Deleting a set of so many members, in steps and all at once: what other writes wait.
fn clear() {
    for rows in [1_000, 10_000, 100_000, KEYS] {
        clear_of(rows, CLEAR_ROWS);
        clear_of(rows, usize::MAX);
    }
}

fn clear_of(rows: u64, clear_rows: usize) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let config = StoreConfig { sync: SyncMode::Interval(Duration::from_secs(1)), ..StoreConfig::new(dir.path()) };
    let mut writer = Writer::open(config.clone(), 1);
    let set = CollectionKey::new("shop", DataType::Set, "large").expect("a valid key");
    for n in 0..rows {
        let member = set.member(&format!("member-{n:012}")).expect("a valid member");
        writer.write(|draft| sets::add(draft, &member));
        if n % 500 == 499 {
            writer.commit();
        }
    }
    writer.commit();
    writer.opened.store.checkpoint();
    drop(writer);
    // Opened again, so that rows are read from the engine, and the sketch is sized for them.
    let mut writer = Writer::open(config, 2);
    let begin = Instant::now();
    let (record, changes, clears) = drafted(&writer, &set, clear_rows);
    writer.opened.store.append_clearing(Entry::Record(record.encode()), changes, clears);
    writer.context.include(record.dot);
    let held = begin.elapsed();
    writer.commit();
    let (answered, mut longest_step, mut longest_write) = (begin.elapsed(), Duration::ZERO, Duration::ZERO);
    let begin = Instant::now();
    while writer.opened.store.clearing() > 0 {
        let step = Instant::now();
        writer.put(1, &[7; VALUE_BYTES]);
        writer.commit();
        let written = step.elapsed();
        let step = Instant::now();
        writer.opened.store.clear_step(clear_rows).expect("rows are readable");
        longest_step = longest_step.max(step.elapsed());
        longest_write = longest_write.max(written);
    }
    let removed = begin.elapsed();
    println!(
        "{rows} rows, {}: the record {:.1} ms, answered after {:.1} ms; longest step {:.1} ms, longest write meanwhile {:.1} ms; {:.2} s, {:.0} rows/s",
        if clear_rows == usize::MAX { "at once" } else { "in steps" },
        micros(held) / 1_000.0,
        micros(answered) / 1_000.0,
        micros(longest_step) / 1_000.0,
        micros(longest_write) / 1_000.0,
        removed.as_secs_f64(),
        rows as f64 / removed.max(held).as_secs_f64(),
    );
    assert_eq!(writer.opened.store.live_rows(&set), Ok(0));
}

/// The record that deletes the set, and what it makes of rows.
fn drafted(writer: &Writer, set: &CollectionKey, clear_rows: usize) -> (Record, RowChanges, Vec<Cleared>) {
    let store = &writer.opened.store;
    let dot = Dot::new(writer.actor, writer.context.get(writer.actor) + 1);
    let mut draft = Draft::new(store, dot, Hlc::at_ms(1), &writer.context, None);
    sets::delete(&mut draft, set).expect("rows are readable");
    let record = Record { dot, at: Hlc::at_ms(1), deps: VersionVector::new(), ops: draft.into_ops() };
    let (mut changes, _) = replayed_changes(&record, &writer.context, store, clear_rows).expect("rows are readable");
    // The writer of a clear has seen everything.
    changes.clears.iter_mut().for_each(|clear| clear.live = Some(0));
    (record, changes.rows, changes.clears)
}
