//! A look at a directory: what it says of each kind of damage, and that a start says the same; and that nothing changes.

use super::damage::{damaged, flip, in_tables, tables};
use super::*;
use crate::store::{DoctorError, Examination, Finding, Patient, Verdict, examine};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

fn patient(config: &StoreConfig) -> Patient {
    let name_of = |key: &RowKey| format!("{key:?}");
    Patient { store: config.clone(), knows_secret: true, scratch: None, name_of }
}

/// Every name under a directory, with its bytes, its times and its mode.
fn all_of(dir: &Path) -> BTreeMap<std::path::PathBuf, (Vec<u8>, i64, i64, u32)> {
    let mut found = BTreeMap::new();
    for item in std::fs::read_dir(dir).expect("listed") {
        let path = item.expect("listed").path();
        let metadata = std::fs::metadata(&path).expect("there");
        let told = (metadata.mtime(), metadata.mtime_nsec(), metadata.mode());
        if metadata.is_dir() {
            found.extend(all_of(&path));
            found.insert(path, (Vec::new(), told.0, told.1, told.2));
        } else {
            found.insert(path.clone(), (std::fs::read(&path).expect("read"), told.0, told.1, told.2));
        }
    }
    found
}

/// Looks, and finds the directory and what is beside it as they were.
fn look(patient: &Patient) -> Examination {
    let beside = |dir: &Path| std::fs::read_dir(dir.parent().expect("it has one")).expect("listed").count();
    let (before, names) = (all_of(&patient.store.dir), beside(&patient.store.dir));
    let found = examine(patient, &mut |_| {}).expect("it can be looked at");
    assert!(all_of(&patient.store.dir) == before, "something changed");
    assert_eq!(beside(&patient.store.dir), names, "the likeness is gone");
    found
}

fn worst(found: &Examination) -> &Finding {
    found.findings.iter().max_by_key(|finding| finding.means).expect("something was found")
}

/// A store of some segments in a directory that has a parent of its own, ended in order.
fn written(parent: &Path) -> (StoreConfig, Rows) {
    let config = small(&parent.join("data"));
    let mut fixture = Fixture::open(config.clone(), 1).expect("opens");
    fixture.start();
    for n in 0..200 {
        fixture.add(&set("s"), &format!("m{:02}", n % 50));
        fixture.commit();
    }
    fixture.store().checkpoint();
    let expected = rows(&fixture.opened.store);
    (config, expected)
}

fn segments(config: &StoreConfig, extension: &str) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(config.dir.join("journal")).expect("listed").map(|item| item.expect("listed").path());
    let mut found: Vec<_> = files.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    found.sort();
    found
}

#[test]
fn a_whole_directory_is_healthy_and_is_not_changed_by_the_look() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, expected) = written(dir.path());
    let mut steps = Vec::new();
    let found = examine(&patient(&config), &mut |step| steps.push(step)).expect("it can be looked at");
    assert_eq!((found.verdict, &found.findings[..]), (Verdict::Healthy, &[][..]));
    assert!(steps.len() > 5, "{steps:?}");
    let rows = found.rows.as_ref().expect("opened");
    assert_eq!((rows.rows, rows.rows_of_checkpoint, rows.rows_after_start), (50, 50, Some(50)));
    assert!(rows.with_digests && rows.damaged.is_empty() && rows.holes.is_empty());
    assert_eq!((found.journal.first, found.journal.last, found.journal.records), (1, 201, 200));
    assert!(found.journal.segments > 2 && found.journal.indexes == found.journal.segments - 1, "{:?}", found.journal);
    assert!(found.sketch.starts_with("fits"), "{}", found.sketch);
    let clocks = found.clocks.as_ref().expect("known");
    assert_eq!((clocks.starts, clocks.own_records, clocks.records_seen, clocks.in_order), (1, 200, 200, true));
    assert!(found.bytes.journal > 0 && found.bytes.rows > 0 && found.bytes.sketch > 0);
    assert_eq!(look(&patient(&config)), found, "the same once more, and nothing changed");
    // Without the cluster's secret.
    let alone = look(&Patient { knows_secret: false, ..patient(&config) });
    let rows = alone.rows.as_ref().expect("opened");
    assert_eq!(
        (alone.verdict, rows.rows, rows.with_digests, rows.rows_after_start),
        (Verdict::Healthy, 50, false, None)
    );
    let fixture = Fixture::open(config, 2).expect("opens");
    assert_eq!(super::rows(&fixture.opened.store), expected);
}

#[test]
fn a_directory_in_use_is_refused_and_so_is_none() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, _) = written(dir.path());
    let fixture = Fixture::open(config.clone(), 2).expect("opens");
    let refused = examine(&patient(&config), &mut |_| {});
    assert!(matches!(&refused, Err(DoctorError::InUse { .. })), "{refused:?}");
    drop(fixture);
    assert_eq!(look(&patient(&config)).verdict, Verdict::Healthy);
    let gone = StoreConfig { dir: dir.path().join("nowhere"), ..config };
    assert!(matches!(examine(&patient(&gone), &mut |_| {}), Err(DoctorError::NoDirectory { .. })));
    assert!(!gone.dir.exists());
}

#[test]
fn an_unfinished_write_is_a_note_and_what_a_crash_left_is_replayed() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, _) = written(dir.path());
    let mut fixture = Fixture::open(config.clone(), 2).expect("opens");
    fixture.start();
    fixture.add(&set("other"), "late");
    fixture.commit();
    drop(fixture);
    let last = segments(&config, "seg").pop().expect("a segment");
    let file = std::fs::File::options().read(true).write(true).open(&last).expect("opened");
    let bytes = std::fs::read(&last).expect("read");
    let end = (bytes.iter().rposition(|byte| *byte != 0).expect("written") + 1).next_multiple_of(8) as u64;
    file.write_all_at(&[7; 40], end + 16).expect("written");
    let found = look(&patient(&config));
    assert_eq!(found.verdict, Verdict::Healthy);
    assert!(found.journal.unfinished_bytes >= 40, "{:?}", found.journal);
    let note = worst(&found);
    assert!(
        note.what.contains("never finished")
            && note.file.as_ref().is_some_and(|file| file.ends_with(last.file_name().expect("named")))
    );
    let rows = found.rows.as_ref().expect("opened");
    assert_eq!((rows.rows, rows.rows_after_start), (50, Some(51)), "the journal has one more");
    assert!(found.sketch.starts_with("none"), "{}", found.sketch);
    assert!(Fixture::open(config, 3).is_ok());
}

#[test]
fn damage_in_the_journal_is_named_with_its_byte_and_a_start_refuses_at_the_same_place() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, _) = written(dir.path());
    let mut fixture = Fixture::open(config.clone(), 2).expect("opens");
    fixture.start();
    for n in 0..5 {
        fixture.add(&set("late"), &format!("m{n}"));
        fixture.commit();
    }
    drop(fixture);
    let last = segments(&config, "seg").pop().expect("a segment");
    let bytes = std::fs::read(&last).expect("read");
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("written");
    let file = std::fs::File::options().write(true).open(&last).expect("opened");
    file.write_all_at(&[!bytes[used - 300]], (used - 300) as u64).expect("written");
    let found = look(&patient(&config));
    assert_eq!(found.verdict, Verdict::RefusesToStart);
    let Err(OpenError::Damaged { offset, .. }) = Fixture::open(config, 3) else { panic!("it refuses") };
    let damage: Vec<_> = found.findings.iter().filter(|finding| finding.byte == Some(offset)).collect();
    assert!(damage.len() == 2, "by the segment and by the start: {:?}", found.findings);
    assert!(damage.iter().any(|finding| finding.what.contains("whole entries go on with")), "{damage:?}");
    assert!(
        damage.iter().all(|finding| finding.lost.is_some() && finding.file.as_ref().is_some_and(|file| *file == last))
    );
}

#[test]
fn damage_that_a_start_passes_over_is_found_all_the_same() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, _) = written(dir.path());
    let first = &segments(&config, "seg")[0];
    let file = std::fs::File::options().write(true).open(first).expect("opened");
    file.write_all_at(&[0xff; 16], 700).expect("written");
    let found = look(&patient(&config));
    assert_eq!(found.verdict, Verdict::NeedsAttention, "{:?}", found.findings);
    assert!(worst(&found).todo.contains("ends when a peer asks"), "{:?}", worst(&found));
    assert!(Fixture::open(config.clone(), 2).is_ok(), "as it says");
    // Without its index the start reads it.
    std::fs::remove_file(first.with_extension("idx")).expect("removed");
    assert_eq!(look(&patient(&config)).verdict, Verdict::RefusesToStart);
    assert!(matches!(Fixture::open(config, 3), Err(OpenError::Damaged { .. })));
}

#[test]
fn a_stored_index_is_a_cache_unless_it_is_believed_and_wrong() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (config, _) = written(dir.path());
    let indexes = segments(&config, "idx");
    flip(&indexes[0], 5);
    let found = look(&patient(&config));
    assert_eq!((found.verdict, found.journal.indexes), (Verdict::Healthy, found.journal.segments - 2));
    assert!(worst(&found).what.contains("stored index is damaged"), "{:?}", found.findings);
    std::fs::remove_file(indexes[1].with_extension("seg")).expect("removed");
    let found = look(&patient(&config));
    assert_eq!(found.verdict, Verdict::RefusesToStart);
    assert!(found.findings.iter().any(|finding| finding.what.contains("without its segment")), "{:?}", found.findings);
    assert!(matches!(Fixture::open(config, 2), Err(OpenError::Damaged { .. })));
}

#[test]
fn damaged_rows_are_named_with_and_without_the_secret() {
    let parent = tempfile::tempdir().expect("temporary directory");
    let (config, _, key) = damaged(&parent.path().join("data"));
    let name = format!("{key:?}");
    for knows_secret in [true, false] {
        let found = look(&Patient { knows_secret, ..patient(&config) });
        assert_eq!(found.verdict, Verdict::RepairsItself);
        let rows = found.rows.as_ref().expect("opened");
        assert_eq!(rows.damaged, [name.as_str()]);
        assert_eq!(rows.holes.len(), usize::from(knows_secret));
        assert!(worst(&found).lost.as_ref().is_some_and(|lost| lost.contains("these 1 rows")), "{:?}", worst(&found));
    }
    let mut fixture = Fixture::open(config.clone(), 2).expect("opens");
    assert!(fixture.opened.store.row(&key).is_err());
    assert_eq!(fixture.store().holes().keys().collect::<Vec<_>>(), [&key], "as it says");
}

#[test]
fn a_whole_row_that_is_older_than_it_should_be_is_found_by_its_digest_alone() {
    let parent = tempfile::tempdir().expect("temporary directory");
    let (config, expected) = written(parent.path());
    let (key, other) =
        (set("s").member("m10").expect("a valid member"), set("s").member("m11").expect("a valid member"));
    let fixture = Fixture::open(config.clone(), 2).expect("opens");
    fixture.opened.store.put_back(&key, &expected[&other]);
    drop(fixture);
    assert_eq!(look(&Patient { knows_secret: false, ..patient(&config) }).verdict, Verdict::Healthy);
    let found = look(&patient(&config));
    assert_eq!(found.verdict, Verdict::RepairsItself);
    assert_eq!(found.rows.expect("opened").holes, [format!("{key:?}")]);
}

#[test]
fn a_bit_in_any_table_of_the_engine_is_told_as_a_start_takes_it() {
    let parent = tempfile::tempdir().expect("temporary directory");
    let (config, _) = in_tables(&parent.path().join("whole"));
    let files = tables(&config.dir.join("rows"));
    let mut verdicts = BTreeMap::new();
    for (n, file) in files.iter().enumerate() {
        for part in [1, 5, 9] {
            let hurt = StoreConfig { dir: parent.path().join(format!("hurt-{n}-{part}")), ..config.clone() };
            copy(&config.dir, &hurt.dir);
            flip(&hurt.dir.join(file.strip_prefix(&config.dir).expect("inside")), part);
            let found = look(&patient(&hurt));
            let _ = std::fs::remove_file(hurt.dir.join("sketch"));
            match Fixture::open(hurt, 2) {
                Ok(mut fixture) => {
                    assert!(found.verdict < Verdict::RefusesToStart, "{found:?}");
                    let holes = fixture.store().holes().len();
                    let told = found.rows.as_ref().expect("opened");
                    assert_eq!(told.holes.len(), holes, "{found:?}");
                    assert!(holes == 0 || found.verdict == Verdict::RepairsItself, "{found:?}");
                }
                Err(error) => {
                    assert_eq!(found.verdict, Verdict::RefusesToStart, "{error}: {found:?}");
                    assert!(worst(&found).lost.as_ref().is_some_and(|lost| lost.starts_with("nothing")), "{found:?}");
                }
            }
            *verdicts.entry(found.verdict).or_insert(0) += 1;
        }
    }
    assert!(verdicts.get(&Verdict::RepairsItself).is_some_and(|count| *count > 0), "{verdicts:?}");
}

#[test]
fn a_journal_that_ends_before_the_rows_and_an_engine_without_its_files_refuse() {
    let parent = tempfile::tempdir().expect("temporary directory");
    let (config, _) = written(parent.path());
    let without = StoreConfig { dir: parent.path().join("no-journal"), ..config.clone() };
    copy(&config.dir, &without.dir);
    std::fs::remove_file(segments(&without, "seg").pop().expect("a segment")).expect("removed");
    let found = look(&patient(&without));
    assert_eq!(found.verdict, Verdict::RefusesToStart);
    assert!(found.findings.iter().any(|finding| finding.what.contains("and the rows stand at 201")), "{found:?}");
    assert!(matches!(Fixture::open(without, 2), Err(OpenError::Damaged { .. })));
    // The engine's list of its files, of one keyspace.
    let current = config.dir.join("rows/keyspaces/1/current");
    assert!(current.exists(), "the engine's files are elsewhere now");
    std::fs::write(&current, b"nonsense").expect("written");
    let found = look(&patient(&config));
    assert_eq!((found.verdict, found.rows.is_none()), (Verdict::RefusesToStart, true));
    assert!(
        worst(&found).lost.as_ref().is_some_and(|lost| lost.contains("built from it again")),
        "{:?}",
        worst(&found)
    );
    assert!(
        worst(&found).what.contains(&config.dir.canonicalize().expect("there").display().to_string()),
        "not the likeness"
    );
    assert!(matches!(Fixture::open(config, 2), Err(OpenError::Rows { .. } | OpenError::RowsDamaged { .. })));
}

#[test]
fn another_format_is_told_with_what_to_do_and_nothing_else_is_looked_at() {
    let parent = tempfile::tempdir().expect("temporary directory");
    let (config, _) = written(parent.path());
    for (text, advice) in
        [("1\n", "start with an empty directory"), ("3\n", "newer version"), ("?\n", "restore FORMAT")]
    {
        std::fs::write(config.dir.join("FORMAT"), text).expect("written");
        let found = look(&patient(&config));
        assert_eq!((found.verdict, found.format.clone(), found.rows.is_none()), (Verdict::RefusesToStart, None, true));
        assert!(worst(&found).what.contains(advice), "{:?}", worst(&found));
        let Err(OpenError::Format { advice: told, .. }) = Fixture::open(config.clone(), 2) else {
            panic!("it refuses")
        };
        assert!(told.contains(advice), "{told}");
    }
    std::fs::remove_file(config.dir.join("FORMAT")).expect("removed");
    assert_eq!(look(&patient(&config)).verdict, Verdict::RefusesToStart);
    let empty = StoreConfig { dir: parent.path().join("empty"), ..config };
    std::fs::create_dir(&empty.dir).expect("made");
    let found = look(&patient(&empty));
    assert_eq!(found.verdict, Verdict::Healthy);
    assert!(worst(&found).what.contains("no data here"), "{found:?}");
}

#[test]
fn stamps_far_ahead_of_this_machines_clock_need_somebody() {
    let parent = tempfile::tempdir().expect("temporary directory");
    let (config, _) = written(parent.path());
    let mut fixture = Fixture::open(config.clone(), 2).expect("opens");
    fixture.start();
    let year = Duration::from_secs(365 * 24 * 3_600);
    let ahead = (std::time::SystemTime::now() + year).duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    fixture.store().append(Entry::Ceiling(Hlc::at_ms(ahead.as_millis() as u64)), Vec::new());
    fixture.commit();
    drop(fixture);
    let found = look(&patient(&config));
    assert_eq!(found.verdict, Verdict::NeedsAttention);
    assert!(worst(&found).todo.contains("set the clock right"), "{:?}", worst(&found));
}

/// Every file of the engine that is no table.
fn small_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let is_table = |path: &std::path::PathBuf| path.parent().is_some_and(|parent| parent.ends_with("tables"));
    all_of(dir).into_keys().filter(|path| path.is_file() && !is_table(path)).collect()
}

#[test]
fn an_engine_that_has_lost_a_file_is_told_as_a_start_takes_it() {
    let parent = tempfile::tempdir().expect("temporary directory");
    let (config, _) = written(&parent.path().join("whole"));
    let (mut refused, mut told) = (0, 0);
    for (n, file) in small_files(&config.dir.join("rows")).iter().enumerate() {
        let hurt = StoreConfig { dir: parent.path().join(format!("hurt-{n}")), ..config.clone() };
        copy(&config.dir, &hurt.dir);
        let lost = file.strip_prefix(&config.dir).expect("inside");
        std::fs::remove_file(hurt.dir.join(lost)).expect("removed");
        let found = look(&patient(&hurt));
        std::fs::remove_file(hurt.dir.join("sketch")).expect("removed");
        match Fixture::open(hurt, 2) {
            Ok(mut fixture) => {
                assert!(found.verdict < Verdict::RefusesToStart, "{lost:?}: {found:?}");
                let holes = fixture.store().holes().len();
                assert_eq!(found.rows.as_ref().map(|rows| rows.holes.len()), Some(holes), "{lost:?}: {found:?}");
                told += 1;
            }
            Err(error) => {
                assert_eq!(found.verdict, Verdict::RefusesToStart, "{lost:?}: {error}: {found:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && told > 0, "{refused} refused, {told} told");
}
