//! What stays bounded, however much is written.

use super::{Fixture, set, small};
use crate::store::StoreConfig;
use atoll_replication::Store;

#[test]
fn memory_of_rows_and_records_stays_bounded_while_a_million_bytes_go_through() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config =
        StoreConfig { memtable_bytes: 32 << 10, tail_bytes: 8 << 10, segment_bytes: 64 << 10, ..small(dir.path()) };
    let mut fixture = Fixture::open(config.clone(), 1).expect("opens");
    let stats = fixture.opened.store.stats();
    for n in 0..400 {
        for m in 0..20 {
            fixture.add(&set("s"), &format!("{n:020}-{m}"));
        }
        fixture.commit();
        // Two memtables and one frozen, and what one publish adds to them.
        assert!(stats.memtable_bytes() < 5 * config.memtable_bytes as u64, "{stats:?}");
        assert!(stats.tail_bytes() < 2 * config.tail_bytes as u64, "{stats:?}");
        assert!(stats.row_cache_bytes() <= config.cache_bytes as u64 / 2, "{stats:?}");
    }
    assert!(stats.checkpoints() > 10, "{stats:?}");
    let (actor, mut next) = (fixture.actor, 1);
    while next <= 8_000 {
        let batch = fixture.store().log(actor, next, 4 << 10).expect("readable");
        assert!(batch.iter().map(|record| record.as_bytes().len()).sum::<usize>() <= 4 << 10);
        assert!(batch.iter().zip(next..).all(|(record, seq)| record.dot().seq == seq));
        next += batch.len() as u64;
    }
}
