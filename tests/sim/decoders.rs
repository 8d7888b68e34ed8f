//! What fuzzing found worth keeping, through the same functions, on the stable toolchain.

use atoll_tests::decoders::ALL;
use std::collections::BTreeSet;
use std::path::Path;

/// Bytes of all that is kept: it is to stay small.
const CORPUS_BYTES_MAX: u64 = 200 << 10;

#[test]
fn every_decoder_comes_back_from_all_that_fuzzing_kept() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut bytes_in_all = 0;
    for (name, decode) in ALL {
        let corpus = std::fs::read_dir(corpora.join(name)).unwrap_or_else(|error| panic!("corpus of {name}: {error}"));
        let mut files = 0;
        for file in corpus {
            let bytes = std::fs::read(file.expect("a readable directory").path()).expect("a readable file");
            bytes_in_all += bytes.len() as u64;
            files += 1;
            decode(&bytes);
        }
        assert!(files >= 5, "{files} files for {name}");
    }
    assert!(bytes_in_all <= CORPUS_BYTES_MAX, "{bytes_in_all} bytes; minimise it again");
}

#[test]
fn every_decoder_has_a_fuzz_target_and_every_target_a_decoder() {
    let targets = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let files = std::fs::read_dir(targets).expect("the targets");
    let stem = |path: std::path::PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    let found: BTreeSet<_> = files.map(|file| stem(file.expect("a readable directory").path())).collect();
    assert_eq!(found, ALL.iter().map(|(name, _)| (*name).to_owned()).collect());
}
