//! How long a message takes between two regions, as published.

use crate::RegionName;
use crate::table::{place_in_table, published_rtt_ms};

/// The round trip within one region, in milliseconds: between two of its availability zones. A round figure,
/// not one of the published table, whose own entries for it mostly measure how a function is started.
pub const SAME_REGION_RTT_MS: f64 = 1.0;

/// The median round trip between two built-in regions in milliseconds, or `None` if either is not built in.
///
/// Symmetric. Of a built-in region with itself: [`SAME_REGION_RTT_MS`]. The source of the figures is named
/// with the table of [`built_in_regions`](crate::built_in_regions): the public table of cloudping.co, rounded
/// medians, indicative.
#[must_use]
pub fn rtt_ms(a: &RegionName, b: &RegionName) -> Option<f64> {
    // G3
    let (a, b) = (place_in_table(a)?, place_in_table(b)?);
    if a == b {
        return Some(SAME_REGION_RTT_MS);
    }
    published_rtt_ms(a, b).map(f64::from)
}

/// Half of [`rtt_ms`]: the delay of one direction, if both directions were equally long.
#[must_use]
pub fn one_way_ms(a: &RegionName, b: &RegionName) -> Option<f64> {
    rtt_ms(a, b).map(|ms| ms / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CloudRegion, built_in_regions};

    /// How far light travels in fibre in a millisecond: two thirds of its speed in a vacuum.
    const FIBRE_KM_PER_MS: f64 = 200.0;

    #[test]
    fn every_pair_has_a_delay_and_it_is_symmetric() {
        for a in built_in_regions() {
            for b in built_in_regions() {
                let there = rtt_ms(&a.name(), &b.name()).expect("a published delay");
                let back = rtt_ms(&b.name(), &a.name()).expect("a published delay");
                assert!(there.to_bits() == back.to_bits(), "{} and {}", a.code(), b.code());
                assert!(there > 0.0);
                assert!(one_way_ms(&a.name(), &b.name()) == Some(there / 2.0));
            }
        }
    }

    #[test]
    fn no_delay_beats_light_in_fibre() {
        for a in built_in_regions() {
            for b in built_in_regions() {
                let km = a.coordinates().distance_km(&b.coordinates());
                let bound_ms = 2.0 * km / FIBRE_KM_PER_MS;
                let ms = rtt_ms(&a.name(), &b.name()).unwrap();
                assert!(ms >= bound_ms, "{} to {}: {ms} ms, light needs {bound_ms:.1}", a.code(), b.code());
            }
        }
    }

    /// A provider's network takes the shorter way, so the direct figure of a pair is never much above the
    /// sum over a third region; a mistyped one would be.
    #[test]
    fn no_delay_is_much_longer_than_going_through_a_third_region() {
        let ms = |a: &CloudRegion, b: &CloudRegion| rtt_ms(&a.name(), &b.name()).unwrap();
        for a in built_in_regions() {
            for b in built_in_regions() {
                for via in built_in_regions() {
                    if via != a && via != b {
                        let around = ms(a, via) + ms(via, b);
                        assert!(
                            ms(a, b) <= around * 1.1,
                            "{} to {}: {} ms, through {} {around}",
                            a.code(),
                            b.code(),
                            ms(a, b),
                            via.code()
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn known_oceans_have_their_published_width() {
        let ms = |a, b| rtt_ms(&RegionName::new(a).unwrap(), &RegionName::new(b).unwrap());
        assert_eq!(ms("us-east-1", "eu-west-1"), Some(70.0));
        assert_eq!(ms("ap-southeast-1", "us-east-1"), Some(220.0));
        assert_eq!(ms("eu-west-1", "ap-southeast-1"), Some(179.0));
        assert_eq!(ms("ap-east-1", "eu-west-3"), Some(199.0));
    }

    #[test]
    fn a_region_of_ones_own_has_no_published_delay() {
        let own = RegionName::new("basement-1").unwrap();
        let known = RegionName::new("us-east-1").unwrap();
        assert_eq!(rtt_ms(&own, &known), None);
        assert_eq!(rtt_ms(&known, &own), None);
        assert_eq!(rtt_ms(&own, &own), None);
        assert_eq!(rtt_ms(&known, &known), Some(SAME_REGION_RTT_MS));
    }
}
