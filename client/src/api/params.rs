//! Query parameters with a grammar of their own: durations, write levels, consistency.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::Duration;

use super::error::{ErrorCode, Rejection};

/// Reads a duration such as `200ms`, `1s`, `5m` or `1h`: a whole number and its unit.
///
/// # Errors
/// `bad_parameter` when the unit is missing or unknown, or the number is not whole or too large.
pub fn parse_duration(text: &str) -> Result<Duration, Rejection> {
    let refuse = || {
        Rejection::new(
            ErrorCode::BadParameter,
            "a duration is a whole number and one of ms, s, m, h: 200ms, 1s, 5m, 1h",
        )
    };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(refuse()),
    };
    let number: u64 = number.parse().map_err(|_| refuse())?;
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(refuse)
}

/// Writes a duration as [`parse_duration`] reads it, in the largest unit that is exact; what is
/// finer than a millisecond is cut off.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    match ms {
        0 => "0ms".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

/// `?w=`: how many of the cluster's regions hold a write durably before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WriteLevel {
    /// This node. The default.
    #[default]
    Local,
    /// This many regions, this one included.
    Regions(NonZeroU16),
    /// More than half of the cluster's regions.
    Majority,
    /// Every region of the cluster.
    All,
}

impl fmt::Display for WriteLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Regions(count) => count.fmt(f),
            Self::Majority => f.write_str("majority"),
            Self::All => f.write_str("all"),
        }
    }
}

impl FromStr for WriteLevel {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        match text {
            "local" => Some(Self::Local),
            "majority" => Some(Self::Majority),
            "all" => Some(Self::All),
            // An integer parser takes a sign; a number of regions has none.
            _ if text.starts_with('+') => None,
            _ => text.parse().ok().map(Self::Regions),
        }
        .ok_or_else(|| {
            Rejection::new(ErrorCode::BadParameter, "w is local, majority, all, or a number of regions from 1")
        })
    }
}

/// `?consistency=`: what a read must have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Consistency {
    /// Everything the session's token has seen. The default.
    #[default]
    Session,
    /// Whatever this node holds; the token is not waited for.
    Eventual,
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Session => "session",
            Self::Eventual => "eventual",
        })
    }
}

impl FromStr for Consistency {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        match text {
            "session" => Ok(Self::Session),
            "eventual" => Ok(Self::Eventual),
            "bounded" => {
                Err(Rejection::new(ErrorCode::NotSupported, "consistency=bounded is reserved and not supported yet"))
            }
            _ => Err(Rejection::new(ErrorCode::BadParameter, "consistency is session or eventual")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_a_whole_number_and_a_unit() {
        assert_eq!(parse_duration("200ms").unwrap(), Duration::from_millis(200));
        assert_eq!(parse_duration("1s").unwrap(), Duration::from_secs(1));
        assert_eq!(parse_duration("5m").unwrap(), Duration::from_secs(300));
        assert_eq!(parse_duration("1h").unwrap(), Duration::from_secs(3600));
        assert_eq!(parse_duration("0s").unwrap(), Duration::ZERO);
        for bad in [
            "",
            "1",
            "s",
            "1.5s",
            "-1s",
            "+1s",
            " 1s",
            "1 s",
            "1S",
            "1d",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            assert_eq!(parse_duration(bad).unwrap_err().code, ErrorCode::BadParameter, "{bad}");
        }
    }

    #[test]
    fn write_levels_round_trip() {
        for text in ["local", "majority", "all", "1", "3", "65535"] {
            assert_eq!(text.parse::<WriteLevel>().unwrap().to_string(), text);
        }
        for bad in ["", "0", "-1", "+1", "65536", "most", "Local"] {
            assert_eq!(bad.parse::<WriteLevel>().unwrap_err().code, ErrorCode::BadParameter);
        }
    }

    #[test]
    fn reserved_consistency_is_not_supported_rather_than_wrong() {
        assert_eq!("eventual".parse(), Ok(Consistency::Eventual));
        assert_eq!("bounded".parse::<Consistency>().unwrap_err().code, ErrorCode::NotSupported);
        assert_eq!("strong".parse::<Consistency>().unwrap_err().code, ErrorCode::BadParameter);
    }

    proptest! {
        #[test]
        fn formatted_duration_reads_back(ms in 0_u64..10_000_000_000) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&format_duration(duration)).unwrap(), duration);
        }
    }
}
