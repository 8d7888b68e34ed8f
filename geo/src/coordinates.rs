//! A position on the globe and the distance between two.

/// The mean radius of the earth in kilometres (IUGG).
const EARTH_RADIUS_KM: f64 = 6_371.008_8;

/// A position on the globe, in degrees: latitude north of the equator, longitude east of Greenwich.
///
/// Both are finite; latitude is within ±90 and longitude within ±180 (G2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coordinates {
    lat: f64,
    lon: f64,
}

/// Why two numbers are not a position. The caller's fault; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum CoordinatesError {
    /// The latitude is not a number within ±90.
    #[error("a latitude is a number from -90 to 90, not {lat}")]
    Latitude {
        /// What was given.
        lat: f64,
    },
    /// The longitude is not a number within ±180.
    #[error("a longitude is a number from -180 to 180, not {lon}")]
    Longitude {
        /// What was given.
        lon: f64,
    },
}

impl Coordinates {
    /// Checks two numbers and makes them a position.
    ///
    /// # Errors
    ///
    /// [`CoordinatesError`] if one of them is not on the globe, or not a number.
    pub fn new(lat: f64, lon: f64) -> Result<Self, CoordinatesError> {
        // G2; a NaN is in no range.
        if !(-90.0..=90.0).contains(&lat) {
            return Err(CoordinatesError::Latitude { lat });
        }
        if !(-180.0..=180.0).contains(&lon) {
            return Err(CoordinatesError::Longitude { lon });
        }
        Ok(Self { lat, lon })
    }

    /// A position of the built-in table, whose test checks each.
    pub(crate) const fn of_table(lat: f64, lon: f64) -> Self {
        Self { lat, lon }
    }

    /// Degrees north of the equator, from -90 to 90.
    #[must_use]
    pub fn lat(&self) -> f64 {
        self.lat
    }

    /// Degrees east of Greenwich, from -180 to 180.
    #[must_use]
    pub fn lon(&self) -> f64 {
        self.lon
    }

    /// The great-circle distance to `other` in kilometres, on a spherical earth (within 0.6 % of the true
    /// ellipsoid's). Symmetric, zero only for the same place, at most half the circumference.
    #[must_use]
    pub fn distance_km(&self, other: &Self) -> f64 {
        // The haversine form: unlike the arc cosine it keeps its precision for places close to each other.
        let half_lat = libm::sin((other.lat - self.lat).to_radians() / 2.0);
        let half_lon = libm::sin((other.lon - self.lon).to_radians() / 2.0);
        let parallel = libm::cos(self.lat.to_radians()) * libm::cos(other.lat.to_radians());
        let haversine = half_lat * half_lat + parallel * half_lon * half_lon;
        // Rounding may carry opposite ends of the earth past 1, where the arc sine is not a number.
        2.0 * EARTH_RADIUS_KM * libm::asin(libm::sqrt(haversine.clamp(0.0, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lat: f64, lon: f64) -> Coordinates {
        Coordinates::new(lat, lon).unwrap()
    }

    fn assert_km(a: Coordinates, b: Coordinates, expected_km: f64) {
        let km = a.distance_km(&b);
        assert!((km - expected_km).abs() < 1.0, "{km} km, expected {expected_km}");
        assert!((km - b.distance_km(&a)).abs() < 1e-9, "not symmetric");
    }

    #[test]
    fn distances_agree_with_known_ones() {
        // A degree of a great circle is 111.195 km on this sphere.
        assert_km(at(0.0, 0.0), at(1.0, 0.0), 111.195);
        assert_km(at(0.0, 10.0), at(0.0, 100.0), 90.0 * 111.195);
        // Paris to London, and Sydney to São Paulo, as published by distance calculators for a sphere.
        assert_km(at(48.8566, 2.3522), at(51.5074, -0.1278), 343.6);
        assert_km(at(-33.8688, 151.2093), at(-23.5505, -46.6333), 13_357.0);
    }

    #[test]
    fn the_date_line_is_no_wall() {
        assert_km(at(0.0, 179.5), at(0.0, -179.5), 111.195);
    }

    #[test]
    fn the_other_end_of_the_earth_is_half_the_circumference_away() {
        let half_km = core::f64::consts::PI * EARTH_RADIUS_KM;
        assert_km(at(90.0, 0.0), at(-90.0, 0.0), half_km);
        for (lat, lon) in [(12.345, 67.89), (-51.7, 0.1), (0.0, -3.3)] {
            assert_km(at(lat, lon), at(-lat, lon + if lon > 0.0 { -180.0 } else { 180.0 }), half_km);
        }
    }

    #[test]
    fn what_is_not_on_the_globe_is_refused() {
        for lat in [90.1, -90.1, f64::NAN, f64::INFINITY] {
            assert!(matches!(Coordinates::new(lat, 0.0), Err(CoordinatesError::Latitude { .. })));
        }
        for lon in [180.1, -180.1, f64::NAN, f64::NEG_INFINITY] {
            assert!(matches!(Coordinates::new(0.0, lon), Err(CoordinatesError::Longitude { .. })));
        }
        assert!(Coordinates::new(-90.0, 180.0).is_ok());
    }
}
