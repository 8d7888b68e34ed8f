//! Whether the regions show the same.

use std::collections::BTreeSet;

use atoll_geo::RegionName;

use super::{Dump, EXPLANATIONS_MAX, Observed};

/// Bytes of a value that an explanation shows.
const SHOWN_MAX: usize = 120;

/// How the dumps differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// How many keys any region shows.
    pub keys: usize,
    /// How many are not the same everywhere.
    pub differing: usize,
    /// The first of these, each in one line.
    pub explanations: Vec<String>,
}

/// Compares every key of every dump with that of the first.
#[must_use]
pub fn compare(regions: &[RegionName], dumps: &[Dump]) -> Comparison {
    let keys: BTreeSet<_> = dumps.iter().flat_map(|dump| dump.keys()).collect();
    let mut comparison = Comparison { keys: keys.len(), ..Comparison::default() };
    let Some((first, others)) = dumps.split_first() else { return comparison };
    for key in keys {
        let expected = first.get(key);
        let other = others.iter().zip(regions.iter().skip(1)).find(|(dump, _)| dump.get(key) != expected);
        let Some((dump, region)) = other else { continue };
        comparison.differing += 1;
        if comparison.explanations.len() < EXPLANATIONS_MAX {
            let (data_type, name) = key;
            let (here, there) = shown(expected, dump.get(key));
            comparison.explanations.push(format!(
                "{data_type}/{name} differs: {} shows {here}, {region} shows {there}",
                regions.first().map_or("?", RegionName::as_str),
            ));
        }
    }
    comparison
}

/// Both sides in words, cut to what differs where that is known.
fn shown(here: Option<&Observed>, there: Option<&Observed>) -> (String, String) {
    if let (Some(Observed::Set(here)), Some(Observed::Set(there))) = (here, there) {
        let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| {
            cut(format!("{} members, of which it alone {:?}", a.len(), a.difference(b).take(5).collect::<Vec<_>>()))
        };
        return (only(here, there), only(there, here));
    }
    let one =
        |observed: Option<&Observed>| observed.map_or("nothing".to_owned(), |observed| cut(format!("{observed:?}")));
    (one(here), one(there))
}

fn cut(mut text: String) -> String {
    if text.len() > SHOWN_MAX {
        text.truncate(text.floor_char_boundary(SHOWN_MAX));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use atoll_client::api::DataType;

    use super::*;

    fn regions() -> Vec<RegionName> {
        ["us-east-1", "eu-west-1", "ap-southeast-1"].map(|name| RegionName::new(name).unwrap()).into()
    }

    fn dump(value: i64) -> Dump {
        Dump::from([
            ((DataType::Counters, "k1".to_owned()), Observed::Counter(value)),
            ((DataType::Flags, "k1".to_owned()), Observed::Flag(true)),
        ])
    }

    #[test]
    fn equal_dumps_are_equal_and_a_diverged_region_is_named() {
        assert_eq!(compare(&regions(), &[dump(1), dump(1), dump(1)]).differing, 0);
        let diverged = compare(&regions(), &[dump(1), dump(1), dump(2)]);
        assert_eq!((diverged.keys, diverged.differing), (2, 1));
        assert_eq!(
            diverged.explanations,
            ["counters/k1 differs: us-east-1 shows Counter(1), ap-southeast-1 shows Counter(2)"]
        );
    }

    #[test]
    fn key_that_one_region_lacks_is_a_difference_whichever_it_is() {
        let mut without = dump(1);
        without.remove(&(DataType::Flags, "k1".to_owned()));
        for dumps in [[dump(1), without.clone()], [without, dump(1)]] {
            let comparison = compare(&regions(), &dumps);
            assert_eq!((comparison.keys, comparison.differing), (2, 1));
            assert!(comparison.explanations[0].contains("nothing"));
        }
    }

    #[test]
    fn difference_of_two_sets_is_told_by_what_each_has_alone() {
        let of = |members: &[&str]| {
            let members = members.iter().map(|&member| member.to_owned()).collect();
            Dump::from([((DataType::Sets, "k".to_owned()), Observed::Set(members))])
        };
        let comparison = compare(&regions(), &[of(&["a", "b"]), of(&["b", "c", "d"])]);
        let why = &comparison.explanations[0];
        assert!(why.contains(r#"2 members, of which it alone ["a"]"#), "{why}");
        assert!(why.contains(r#"3 members, of which it alone ["c", "d"]"#), "{why}");
    }
}
