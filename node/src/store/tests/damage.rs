//! Rows whose stored bytes changed: never read as absent, never passed over, written anew by a repair.

use super::*;
use crate::store::directory::Directory;
use crate::store::engine::Engine;

/// A store that was ended in order, with the members of a set in its engine, of which one is damaged on the disk.
pub(super) fn damaged(dir: &Path) -> (StoreConfig, Rows, RowKey) {
    let config = small(dir);
    let mut fixture = Fixture::open(config.clone(), 1).expect("opens");
    fixture.start();
    for n in 0..50 {
        fixture.add(&set("s"), &format!("m{n:02}"));
    }
    fixture.commit();
    fixture.store().checkpoint();
    let expected = rows(&fixture.opened.store);
    drop(fixture);
    let key = set("s").member("m20").expect("a valid member");
    damage(&config, &key);
    (config, expected, key)
}

fn damage(config: &StoreConfig, key: &RowKey) {
    let directory = Arc::new(Directory::open(&config.dir).expect("opens"));
    let (engine, _) = Engine::open(&directory, 1 << 20, &config.digest_key).expect("opens");
    engine.damage(key).expect("written");
}

/// What a repair from a peer appends.
fn repair(fixture: &mut Fixture, key: &RowKey, row: &Arc<Row>) -> RowChanges {
    let context = fixture.context.clone();
    let rows = vec![(key.clone(), Arc::clone(row))];
    fixture.adopt(Adoption { context, cursor: VersionVector::new(), rows, layer: None })
}

/// Whether the sketch is that of these rows.
fn has_sketch_of(fixture: &mut Fixture, expected: &Rows) -> bool {
    let key = DigestKey::derive(b"test");
    fixture.store().pin().sketch().root() == sketch(&key, expected).root()
}

#[test]
fn a_damaged_row_is_an_error_to_every_read_and_the_others_are_read() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, expected, key) = damaged(dir.path());
    let mut fixture = Fixture::open(config, 2).expect("opens");
    assert!(fixture.store().holes().is_empty(), "the stored sketch spares reading the rows");
    let view = fixture.opened.views.current();
    let pin = fixture.store().pin();
    for source in [&fixture.opened.store as &dyn RowSource, &*view, &*pin] {
        assert_eq!(source.row(&key), Err(ReadError::Damaged(key.clone())));
        let mut seen = 0;
        let visited = source.visit(b"", b"", &mut |_, _| {
            seen += 1;
            true
        });
        assert_eq!((visited, seen), (Err(ReadError::Damaged(key.clone())), 20), "what is before it was shown");
        for (other, row) in expected.iter().filter(|(other, _)| **other != key) {
            assert_eq!(source.row(other), Ok(Some(Arc::clone(row))));
        }
        assert_eq!(source.live_rows(&set("s")), Ok(50), "it is not absent");
    }
    let id = config_key().id(&key);
    assert_eq!(pin.visit_ids(&[id], &mut |_, _| {}), Err(ReadError::Damaged(key.clone())));
    assert_eq!(*fixture.store().holes(), BTreeMap::from([(key, id)]));
    assert!(has_sketch_of(&mut fixture, &expected), "it goes on counting in the sketch");
}

fn config_key() -> DigestKey {
    DigestKey::derive(b"test")
}

#[test]
fn a_repair_writes_the_row_anew_and_the_sketch_is_that_of_the_rows() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, mut expected, key) = damaged(dir.path());
    let mut fixture = Fixture::open(config.clone(), 2).expect("opens");
    let whole = Arc::clone(&expected[&key]);
    assert!(fixture.opened.store.row(&key).is_err());
    let changes = repair(&mut fixture, &key, &whole);
    assert!(changes.iter().all(RowChange::is_repair) && changes.len() == 1);
    assert!(fixture.store().holes().is_empty());
    assert_eq!(rows(&fixture.opened.store), expected);
    assert!(has_sketch_of(&mut fixture, &expected));
    fixture.commit();
    fixture.store().checkpoint();
    assert_eq!(fixture.opened.views.current().rows(), 50);
    drop(fixture);

    // A peer may know that it is gone.
    damage(&config, &key);
    let mut fixture = Fixture::open(config.clone(), 3).expect("opens");
    assert!(fixture.opened.store.row(&key).is_err());
    repair(&mut fixture, &key, &Arc::new(Row::empty()));
    expected.remove(&key);
    assert_eq!((rows(&fixture.opened.store), fixture.opened.store.live_rows(&set("s"))), (expected.clone(), Ok(49)));
    fixture.commit();
    drop(fixture);
    let mut fixture = Fixture::open(config, 4).expect("opens");
    assert_eq!(rows(&fixture.opened.store), expected, "the repair is replayed after a crash");
    assert!(fixture.store().holes().is_empty() && has_sketch_of(&mut fixture, &expected));
}

#[test]
fn a_hole_is_found_again_at_every_start_until_it_is_repaired() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, expected, key) = damaged(dir.path());
    let mut fixture = Fixture::open(config.clone(), 2).expect("opens");
    assert!(fixture.opened.store.row(&key).is_err());
    assert_eq!(fixture.store().holes().len(), 1);
    fixture.store().checkpoint();
    drop(fixture);
    let mut fixture = Fixture::open(config.clone(), 3).expect("opens after an end in order");
    assert_eq!(fixture.store().holes().len(), 1, "although nobody has read it");
    assert!(has_sketch_of(&mut fixture, &expected));
    fixture.add(&set("other"), "m");
    fixture.commit();
    drop(fixture);
    let mut fixture = Fixture::open(config, 4).expect("opens after a crash");
    assert_eq!(fixture.store().holes().len(), 1);
    assert_eq!(fixture.opened.store.row(&key), Err(ReadError::Damaged(key)));
}

#[test]
fn a_replay_that_passes_a_damaged_row_leaves_it_unknown_even_if_the_bytes_come_back() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, _, key) = damaged(dir.path());
    // Whole again, until a member that the engine has is removed, which the journal alone tells.
    damage(&config, &key);
    let mut fixture = Fixture::open(config.clone(), 2).expect("opens");
    fixture.write(|draft| sets::remove(draft, &key));
    fixture.commit();
    drop(fixture);
    damage(&config, &key);
    let mut fixture = Fixture::open(config.clone(), 3).expect("opens");
    assert_eq!(fixture.opened.store.row(&key), Err(ReadError::Damaged(key.clone())));
    // The bytes of before come back.
    fixture.store().damage(&key);
    fixture.add(&set("s"), "later");
    fixture.commit();
    fixture.store().checkpoint();
    assert_eq!(fixture.opened.store.row(&key), Err(ReadError::Damaged(key.clone())));
    drop(fixture);
    let mut fixture = Fixture::open(config, 4).expect("opens");
    assert_eq!(fixture.opened.store.row(&key), Err(ReadError::Damaged(key.clone())), "the checkpoint says so too");
    assert_eq!(fixture.store().holes().len(), 1);
    repair(&mut fixture, &key, &Arc::new(Row::empty()));
    let expected = rows(&fixture.opened.store);
    assert!(!expected.contains_key(&key) && expected.len() == 50);
    assert!(has_sketch_of(&mut fixture, &expected));
}

/// Waits until the scrubber has read `rows` rows.
fn scrubbed(fixture: &Fixture, rows: u64) -> u64 {
    let deadline = std::time::Instant::now() + PATIENCE;
    let stats = fixture.opened.store.stats();
    while stats.scrub_rows() < rows {
        assert!(std::time::Instant::now() < deadline, "{} rows are read", stats.scrub_rows());
        std::thread::yield_now();
    }
    stats.scrub_failures()
}

#[test]
fn the_scrubber_finds_what_nobody_reads_and_a_row_that_is_at_hand_is_written_again() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, expected, key) = damaged(dir.path());
    let mut fixture = Fixture::open(StoreConfig { scrub_every: None, ..config.clone() }, 2).expect("opens");
    let hot = set("s").member("m30").expect("a valid member");
    assert_eq!(fixture.opened.store.row(&hot), Ok(Some(Arc::clone(&expected[&hot]))), "now it is in the cache");
    fixture.store().damage(&hot);
    fixture.add(&set("other"), "m");
    fixture.commit();
    fixture.store().checkpoint();
    fixture.store().scrub();
    assert!(scrubbed(&fixture, 51) >= 2);
    assert_eq!(fixture.store().holes().keys().collect::<Vec<_>>(), [&key]);
    fixture.store().checkpoint();
    drop(fixture);
    let mut fixture = Fixture::open(config, 3).expect("opens");
    assert_eq!(fixture.store().holes().keys().collect::<Vec<_>>(), [&key], "the other was written again");
    assert_eq!(fixture.opened.store.row(&hot), Ok(Some(Arc::clone(&expected[&hot]))));
}

#[test]
fn the_scrubber_reads_at_its_pace_and_finds_rows_that_are_whole_and_old() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, expected, key) = damaged(dir.path());
    damage(&config, &key);
    let config = StoreConfig { scrub_every: Some(Duration::from_millis(20)), ..config };
    let mut fixture = Fixture::open(config.clone(), 2).expect("opens");
    assert_eq!(scrubbed(&fixture, 200), 0, "round after round");
    // The engine forgets the last write of one row, and not of the index.
    let old = set("s").member("m10").expect("a valid member");
    fixture.store().put_back(&old, &expected[&key]);
    let failures = fixture.opened.store.stats().scrub_rows() + 200;
    assert!(scrubbed(&fixture, failures) > 0);
    // What readers see is a snapshot of before; the next checkpoint moves on.
    fixture.add(&set("other"), "m");
    fixture.commit();
    fixture.store().checkpoint();
    let failures = fixture.opened.store.stats().scrub_rows() + 200;
    assert!(scrubbed(&fixture, failures) > 0);
    assert_eq!(fixture.store().holes().keys().collect::<Vec<_>>(), [&old]);
    assert_eq!(fixture.opened.store.row(&old), Err(ReadError::Damaged(old.clone())));
    drop(fixture);
    // A start after a crash reads every row, and finds it by the sum.
    std::fs::remove_file(dir.path().join("sketch")).expect("it was stored above");
    let config = StoreConfig { scrub_every: None, ..config };
    let mut fixture = Fixture::open(config, 3).expect("opens");
    assert_eq!(fixture.store().holes().keys().collect::<Vec<_>>(), [&old]);
}

/// The tables of the engine's files.
pub(super) fn tables(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(dir).expect("listed") {
        let path = item.expect("listed").path();
        if path.is_dir() {
            found.extend(tables(&path));
        } else if path.parent().is_some_and(|parent| parent.ends_with("tables")) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn a_bit_that_flips_in_a_table_of_the_engine_loses_no_row_silently() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, expected) = in_tables(&dir.path().join("whole"));
    let files = tables(&config.dir.join("rows"));
    assert!(files.len() >= 3, "{files:?}");
    let (mut with_holes, mut whole, mut refused) = (0, 0, 0);
    for (n, file) in files.iter().enumerate() {
        for part in [1, 5, 9] {
            let hurt = StoreConfig { dir: dir.path().join(format!("hurt-{n}-{part}")), ..config.clone() };
            copy(&config.dir, &hurt.dir);
            let _ = std::fs::remove_file(hurt.dir.join("sketch"));
            let file = hurt.dir.join(file.strip_prefix(&config.dir).expect("inside"));
            flip(&file, part);
            let mut fixture = match Fixture::open(hurt.clone(), 2) {
                Ok(fixture) => fixture,
                Err(OpenError::Rows { .. } | OpenError::RowsDamaged { .. }) => {
                    refused += 1;
                    continue;
                }
                Err(other) => panic!("{other}"),
            };
            let mut lost = Vec::new();
            for (key, row) in &expected {
                match fixture.opened.store.row(key) {
                    Ok(found) => assert_eq!(found.as_ref(), Some(row), "{key:?}"),
                    Err(ReadError::Damaged(_)) => lost.push(key.clone()),
                    Err(other) => panic!("{other}"),
                }
            }
            assert!(fixture.store().holes().keys().eq(&lost));
            assert_eq!(fixture.opened.store.live_rows(&set("s")), Ok(1_500));
            assert!(has_sketch_of(&mut fixture, &expected));
            *(if lost.is_empty() { &mut whole } else { &mut with_holes }) += 1;
            let context = fixture.context.clone();
            let repaired = lost.iter().map(|key| (key.clone(), Arc::clone(&expected[key]))).collect();
            fixture.adopt(Adoption { context, cursor: VersionVector::new(), rows: repaired, layer: None });
            fixture.commit();
            fixture.store().checkpoint();
            assert_eq!(rows(&fixture.opened.store), expected);
            fixture.store().flush();
            drop(fixture);
            let mut fixture = Fixture::open(hurt, 3).expect("opens");
            assert!(fixture.store().holes().is_empty());
            assert_eq!(rows(&fixture.opened.store), expected);
        }
    }
    assert!(with_holes > 0 && whole > 0, "{with_holes} with holes, {whole} whole, {refused} refused");
}

/// A store with a thousand rows in tables of its engine, and what it holds.
pub(super) fn in_tables(dir: &Path) -> (StoreConfig, Rows) {
    let config = StoreConfig { memtable_bytes: 1 << 20, segment_bytes: 1 << 20, ..small(dir) };
    let mut fixture = Fixture::open(config.clone(), 1).expect("opens");
    fixture.start();
    for n in 0..1_500 {
        fixture.add(&set("s"), &format!("m{n:04}"));
    }
    fixture.commit();
    fixture.store().checkpoint();
    let expected = rows(&fixture.opened.store);
    fixture.store().flush();
    (config, expected)
}

/// Flips a bit of a file, this many tenths into it.
pub(super) fn flip(file: &Path, tenths: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::options().read(true).write(true).open(file).expect("opened");
    let at = file.metadata().expect("there").len() * tenths / 10;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 4], at).expect("written");
}

#[test]
fn a_scan_that_runs_into_a_damaged_block_ends_the_process_and_the_next_start_makes_the_files_anew() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, expected) = in_tables(dir.path());
    let (told, failure) = sync_channel(1);
    let opened = NodeStore::open(config.clone(), |_| {}, move |failure| _ = told.send(failure.to_string()));
    let mut opened = opened.expect("opens by the stored sketch");
    let largest = tables(&config.dir.join("rows"));
    let largest = largest.iter().max_by_key(|file| std::fs::metadata(file).expect("there").len()).expect("a table");
    flip(largest, 5);
    let visited = opened.store.visit(b"", b"", &mut |_, _| true);
    let in_the_index = visited.is_ok();
    if !in_the_index {
        assert!(matches!(visited, Err(ReadError::Failed(_))), "{visited:?}");
        opened.store.holes();
        let failure = failure.recv_timeout(PATIENCE).expect("the process is told to end");
        assert!(failure.contains("rows cannot be read"), "{failure}");
    }
    drop(opened);
    let mut fixture = Fixture::open(config.clone(), 3).expect("opens");
    let holes = fixture.store().holes();
    assert!(in_the_index || !holes.is_empty());
    for (key, row) in expected.iter().filter(|(key, _)| !holes.contains_key(*key)) {
        assert_eq!(fixture.opened.store.row(key), Ok(Some(Arc::clone(row))));
    }
    assert!(!config.dir.join("rows.new").exists() && !config.dir.join("rows.damaged").exists());
}

#[test]
fn a_crash_while_files_are_made_anew_is_undone() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, expected) = in_tables(dir.path());
    let (rows_dir, new, old) = (config.dir.join("rows"), config.dir.join("rows.new"), config.dir.join("rows.damaged"));
    // Before the first rename, between the two, and before the old ones were removed.
    copy(&rows_dir, &new);
    assert_eq!(rows(&Fixture::open(config.clone(), 2).expect("opens").opened.store), expected);
    copy(&rows_dir, &new);
    std::fs::rename(&rows_dir, &old).expect("renamed");
    assert_eq!(rows(&Fixture::open(config.clone(), 3).expect("opens").opened.store), expected);
    copy(&rows_dir, &old);
    assert_eq!(rows(&Fixture::open(config, 4).expect("opens").opened.store), expected);
    assert!(!new.exists() && !old.exists());
}

#[test]
fn a_bit_that_flips_in_the_engines_own_log_shows_no_row_that_is_not_so() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = small(&dir.path().join("whole"));
    let mut fixture = Fixture::open(config.clone(), 1).expect("opens");
    fixture.start();
    for n in 0..200 {
        fixture.add(&set("s"), &format!("m{:02}", n % 50));
        fixture.commit();
    }
    fixture.store().checkpoint();
    let expected = rows(&fixture.opened.store);
    drop(fixture);
    let log = std::fs::read_dir(config.dir.join("rows")).expect("listed").map(|item| item.expect("listed").path());
    let log = log.into_iter().find(|path| path.extension().is_some_and(|end| end == "jnl")).expect("a log");
    let bytes = std::fs::read(&log).expect("read");
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("written") + 1;
    let (mut whole, mut refused) = (0, 0);
    for part in 0..12 {
        let hurt = StoreConfig { dir: dir.path().join(format!("hurt-{part}")), ..config.clone() };
        copy(&config.dir, &hurt.dir);
        let mut bytes = bytes.clone();
        bytes[used * part / 12 + 7] ^= 4;
        std::fs::write(hurt.dir.join(log.strip_prefix(&config.dir).expect("inside")), bytes).expect("written");
        match Fixture::open(hurt, 2) {
            Ok(mut fixture) => {
                whole += 1;
                let holes = fixture.store().holes();
                for (key, row) in &expected {
                    let read = fixture.opened.store.row(key);
                    let known = if holes.contains_key(key) {
                        Err(ReadError::Damaged(key.clone()))
                    } else {
                        Ok(Some(Arc::clone(row)))
                    };
                    assert_eq!(read, known);
                }
            }
            Err(OpenError::Rows { .. } | OpenError::RowsDamaged { .. } | OpenError::Damaged { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(whole + refused, 12);
}
