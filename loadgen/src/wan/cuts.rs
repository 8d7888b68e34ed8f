//! Which regions cannot reach which: the cuts in force.
//!
//! What always holds: a cut is undone by the heal of the same name and by nothing else (but [`Cuts::clear`]).
//! A direction is down while a cut of it, or of either of its regions, is in force; so healing a region leaves
//! a link that was cut for itself as it was.

use std::collections::BTreeSet;

use atoll_geo::RegionName;

/// The cuts in force: of single directions, and of whole regions.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    directions: BTreeSet<(RegionName, RegionName)>,
    regions: BTreeSet<RegionName>,
}

/// A thing that can be cut and healed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Everything that travels from the first region to the second, and nothing the other way.
    Direction(RegionName, RegionName),
    /// Everything that travels from or to the region.
    Region(RegionName),
}

impl Cuts {
    pub(super) fn insert(&mut self, place: Place) {
        match place {
            Place::Direction(from, to) => self.directions.insert((from, to)),
            Place::Region(region) => self.regions.insert(region),
        };
    }

    pub(super) fn remove(&mut self, place: Place) {
        match place {
            Place::Direction(from, to) => self.directions.remove(&(from, to)),
            Place::Region(region) => self.regions.remove(&region),
        };
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_down(&self, ends: &(RegionName, RegionName)) -> bool {
        self.directions.contains(ends) || self.regions.contains(&ends.0) || self.regions.contains(&ends.1)
    }
}

impl Place {
    /// Whether the direction between `ends` is part of this place.
    pub(super) fn concerns(&self, ends: &(RegionName, RegionName)) -> bool {
        match self {
            Self::Direction(from, to) => (from, to) == (&ends.0, &ends.1),
            Self::Region(region) => *region == ends.0 || *region == ends.1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RegionName {
        RegionName::new(text).unwrap()
    }

    fn ends(from: &str, to: &str) -> (RegionName, RegionName) {
        (name(from), name(to))
    }

    #[test]
    fn a_direction_is_cut_without_its_way_back() {
        let mut cuts = Cuts::default();
        cuts.insert(Place::Direction(name("a"), name("b")));
        assert!(cuts.is_down(&ends("a", "b")));
        assert!(!cuts.is_down(&ends("b", "a")));
        assert!(!cuts.is_down(&ends("a", "c")));
    }

    #[test]
    fn a_region_is_cut_with_every_way_in_and_out() {
        let mut cuts = Cuts::default();
        cuts.insert(Place::Region(name("b")));
        assert!(cuts.is_down(&ends("a", "b")));
        assert!(cuts.is_down(&ends("b", "c")));
        assert!(!cuts.is_down(&ends("a", "c")));
    }

    #[test]
    fn healing_a_region_leaves_the_cut_of_a_single_direction_in_force() {
        let mut cuts = Cuts::default();
        cuts.insert(Place::Direction(name("a"), name("b")));
        cuts.insert(Place::Region(name("a")));
        cuts.remove(Place::Region(name("a")));
        assert!(cuts.is_down(&ends("a", "b")));
        assert!(!cuts.is_down(&ends("b", "a")));
        cuts.remove(Place::Direction(name("a"), name("b")));
        assert!(!cuts.is_down(&ends("a", "b")));
    }
}
