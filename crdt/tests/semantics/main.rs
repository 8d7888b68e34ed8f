//! Every concurrent pair of `docs/semantics.md` as a story of two or three regions; the table and the stories agree.

#[path = "../replicas/mod.rs"]
mod replicas;
#[path = "../rows/mod.rs"]
mod rows;

mod counters_and_flags;
mod maps;
mod registers_and_sets;

use std::collections::BTreeSet;

const TABLE: &str = include_str!("../../../docs/semantics.md");

const STORIES: [&str; 3] =
    [include_str!("registers_and_sets.rs"), include_str!("counters_and_flags.rs"), include_str!("maps.rs")];

/// The last cell of every row of every table whose last column is called "test".
fn told() -> Vec<(&'static str, &'static str)> {
    let rows = TABLE.lines().filter(|line| line.starts_with('|'));
    let cells = rows.filter_map(|line| {
        let mut cells = line.trim_matches('|').rsplit('|').map(str::trim);
        Some((cells.next()?, line))
    });
    cells
        .filter(|(last, _)| *last != "test" && !last.starts_with("---"))
        .map(|(last, line)| (last.trim_matches('`'), line))
        .collect()
}

fn stories() -> BTreeSet<&'static str> {
    let lines = STORIES.iter().flat_map(|text| text.lines().zip(text.lines().skip(1)));
    lines
        .filter(|(before, _)| *before == "#[test]")
        .filter_map(|(_, line)| line.strip_prefix("fn ")?.split('(').next())
        .collect()
}

#[test]
fn every_row_of_the_table_names_its_story_and_every_story_is_in_the_table() {
    let stories = stories();
    assert!(stories.len() > 30, "the stories are found: {stories:?}");
    let mut named = BTreeSet::new();
    for (test, line) in told() {
        assert!(stories.contains(test), "docs/semantics.md names a test that does not exist: {line}");
        assert!(named.insert(test), "docs/semantics.md names a test twice: {line}");
    }
    let untold: Vec<_> = stories.difference(&named).collect();
    assert!(untold.is_empty(), "stories that docs/semantics.md does not tell: {untold:?}");
}
