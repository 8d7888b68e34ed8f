//! The built-in cloud regions, and the published delays between them.
//!
//! **Where the figures come from.** Region codes and places are those of Amazon Web Services. A provider does
//! not publish where its buildings stand, so the coordinates are those of the metropolitan area the region
//! is named after, to a tenth of a degree. The delays are medians (p50) of the public inter-region table of
//! cloudping.co, in a snapshot of 2025: TCP round trips between functions running in the two regions, from
//! the region that stands first here to the later one, rounded to whole milliseconds. The two directions of
//! a pair differ there by a few per cent at most, with rare exceptions (Ireland and Hong Kong: 225 and 260 ms).
//!
//! They are **indicative**: routes change from week to week, and a TCP round trip includes some scheduling at
//! both ends, so a bare ping is a little shorter. They are good for emulating an ocean, not for a contract.

use crate::{Coordinates, RegionName};

/// A region of a cloud provider: its code, where it is, and its position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CloudRegion {
    code: &'static str,
    place: &'static str,
    coordinates: Coordinates,
}

impl CloudRegion {
    const fn new(code: &'static str, place: &'static str, lat: f64, lon: f64) -> Self {
        Self { code, place, coordinates: Coordinates::of_table(lat, lon) }
    }

    /// The name to call it by, such as `eu-west-1`.
    #[must_use]
    pub fn name(&self) -> RegionName {
        RegionName::new(self.code).expect("the built-in table holds valid names")
    }

    /// The provider's code for it, such as `eu-west-1`; the same text as [`CloudRegion::name`].
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// Where it is, for people: `Ireland`.
    #[must_use]
    pub fn place(&self) -> &'static str {
        self.place
    }

    /// The position of the metropolitan area, to a tenth of a degree.
    #[must_use]
    pub fn coordinates(&self) -> Coordinates {
        self.coordinates
    }
}

/// How many regions the table holds.
pub(crate) const REGIONS: usize = 19;

/// The first three are those of `atoll demo`; those after them are ordered so that each next one widens the
/// map before it fills in neighbours.
static BUILT_IN: [CloudRegion; REGIONS] = [
    CloudRegion::new("us-east-1", "N. Virginia", 38.9, -77.4),
    CloudRegion::new("eu-west-1", "Ireland", 53.3, -6.2),
    CloudRegion::new("ap-southeast-1", "Singapore", 1.3, 103.8),
    CloudRegion::new("us-west-2", "Oregon", 45.8, -119.7),
    CloudRegion::new("eu-central-1", "Frankfurt", 50.1, 8.7),
    CloudRegion::new("ap-northeast-1", "Tokyo", 35.7, 139.7),
    CloudRegion::new("sa-east-1", "São Paulo", -23.5, -46.6),
    CloudRegion::new("ap-southeast-2", "Sydney", -33.9, 151.2),
    CloudRegion::new("ap-south-1", "Mumbai", 19.1, 72.9),
    CloudRegion::new("ca-central-1", "Montreal", 45.5, -73.6),
    CloudRegion::new("af-south-1", "Cape Town", -33.9, 18.4),
    CloudRegion::new("me-south-1", "Bahrain", 26.1, 50.6),
    CloudRegion::new("us-east-2", "Ohio", 40.0, -83.0),
    CloudRegion::new("eu-west-2", "London", 51.5, -0.1),
    CloudRegion::new("ap-northeast-2", "Seoul", 37.6, 127.0),
    CloudRegion::new("us-west-1", "N. California", 37.4, -122.0),
    CloudRegion::new("eu-north-1", "Stockholm", 59.3, 18.1),
    CloudRegion::new("eu-west-3", "Paris", 48.9, 2.4),
    CloudRegion::new("ap-east-1", "Hong Kong", 22.3, 114.2),
];

/// Median round trips in milliseconds: row `i` holds region `i` to regions `i + 1`, `i + 2`, and so on.
static RTT_MS: [&[u16]; REGIONS] = [
    // us-east-1
    &[70, 220, 64, 93, 150, 115, 200, 193, 17, 228, 162, 15, 78, 180, 64, 113, 84, 199],
    // eu-west-1
    &[179, 119, 27, 202, 178, 256, 126, 69, 160, 98, 80, 14, 233, 130, 41, 20, 225],
    // ap-southeast-1
    &[161, 161, 71, 328, 95, 64, 215, 317, 98, 204, 170, 74, 171, 181, 167, 37],
    // us-west-2
    &[143, 98, 175, 141, 222, 61, 275, 215, 51, 129, 124, 22, 155, 135, 145],
    // eu-central-1
    &[227, 204, 251, 129, 93, 156, 86, 103, 18, 231, 153, 23, 12, 193],
    // ap-northeast-1
    &[258, 107, 134, 147, 358, 175, 136, 213, 36, 109, 247, 219, 52],
    // sa-east-1
    &[312, 302, 126, 339, 273, 125, 187, 290, 175, 223, 196, 308],
    // ap-southeast-2
    &[155, 198, 409, 189, 188, 266, 146, 139, 272, 280, 128],
    // ap-south-1
    &[191, 274, 38, 200, 117, 134, 232, 148, 109, 97],
    // ca-central-1
    &[225, 163, 27, 80, 177, 80, 106, 86, 196],
    // af-south-1
    &[247, 236, 150, 386, 286, 174, 145, 348],
    // me-south-1
    &[172, 89, 169, 222, 106, 87, 132],
    // us-east-2
    &[89, 167, 53, 124, 95, 188],
    // eu-west-2
    &[243, 148, 32, 11, 202],
    // ap-northeast-2
    &[134, 250, 250, 39],
    // us-west-1
    &[173, 144, 155],
    // eu-north-1
    &[32, 213],
    // eu-west-3
    &[199],
    // ap-east-1
    &[],
];

/// The built-in regions, in the order in which `atoll demo --regions N` takes them.
#[must_use]
pub fn built_in_regions() -> &'static [CloudRegion] {
    &BUILT_IN
}

/// The built-in region of that name, if there is one.
#[must_use]
pub fn built_in_region(name: &RegionName) -> Option<&'static CloudRegion> {
    place_in_table(name).map(|place| &BUILT_IN[place])
}

/// Which row of the table `name` is.
pub(crate) fn place_in_table(name: &RegionName) -> Option<usize> {
    BUILT_IN.iter().position(|region| region.code == name.as_str())
}

/// The published round trip between two different rows of the table.
pub(crate) fn published_rtt_ms(a: usize, b: usize) -> Option<u16> {
    let (row, later) = if a < b { (a, b) } else { (b, a) };
    RTT_MS.get(row)?.get(later.checked_sub(row + 1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    #[test]
    fn the_demo_begins_with_three_continents() {
        let first: alloc::vec::Vec<_> = built_in_regions().iter().take(3).map(CloudRegion::code).collect();
        assert_eq!(first, ["us-east-1", "eu-west-1", "ap-southeast-1"]);
        assert!(built_in_regions().len() >= 16);
    }

    #[test]
    fn every_entry_is_valid_and_named_once() {
        let mut names = BTreeSet::new();
        for region in built_in_regions() {
            let at = region.coordinates();
            assert_eq!(Coordinates::new(at.lat(), at.lon()), Ok(at));
            assert!(names.insert(region.name()), "{} stands twice", region.code());
            assert_eq!(built_in_region(&region.name()), Some(region));
            assert!(!region.place().is_empty());
        }
        assert_eq!(built_in_region(&RegionName::new("nowhere-1").unwrap()), None);
    }

    #[test]
    fn every_row_of_delays_reaches_to_the_end_of_the_table() {
        for (row, delays) in RTT_MS.iter().enumerate() {
            assert_eq!(delays.len(), REGIONS - row - 1, "row of {}", BUILT_IN[row].code());
        }
    }
}
