//! Query parameters: a closed list for every operation.

use super::Failure;
use atoll_client::api::{ErrorCode, parse_duration};
use percent_encoding::percent_decode;
use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

/// The decoded parameters of a request, each at most once.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(&'static str, String)>);

impl Query {
    /// Reads the part of a target after the question mark; only `known` names may be in it. A1
    pub(super) fn parse(raw: &str, known: impl Iterator<Item = &'static str> + Clone) -> Result<Self, Failure> {
        let mut parameters = Vec::new();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if name == "max_stale" {
                let detail = "max_stale is reserved and not supported yet";
                return Err(Failure::new(ErrorCode::NotSupported, detail));
            }
            let Some(name) = known.clone().find(|known| **known == *name) else {
                let known: Vec<_> = known.collect();
                let detail = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(bad(format!("unknown parameter; known here: {detail}")));
            };
            if parameters.iter().any(|(before, _)| *before == name) {
                return Err(bad(format!("{name} is given twice")));
            }
            parameters.push((name, value.into_owned()));
        }
        Ok(Self(parameters))
    }

    /// A parameter's text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// A parameter with a grammar of its own, or its default.
    pub(super) fn parsed<T>(&self, name: &str) -> Result<Option<T>, Failure>
    where
        T: FromStr,
        Failure: From<T::Err>,
    {
        Ok(self.text(name).map(str::parse).transpose()?)
    }

    /// A duration of at most `max`.
    pub(super) fn duration(&self, name: &str, max: Duration) -> Result<Option<Duration>, Failure> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let duration = parse_duration(text)?;
        if duration > max {
            return Err(bad(format!("{name} is at most {}", atoll_client::api::format_duration(max))));
        }
        Ok(Some(duration))
    }

    /// A whole number from 1 to `max`.
    pub(super) fn count(&self, name: &str, max: u32) -> Result<Option<u32>, Failure> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        match number.filter(|number| (1..=max).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(bad(format!("{name} is a number from 1 to {max}"))),
        }
    }
}

pub(super) fn bad(detail: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::BadParameter, detail)
}

/// Undoes percent-encoding strictly; a plus is a space, as in every form.
fn decode(text: &str) -> Result<Cow<'_, str>, Failure> {
    if !is_well_escaped(text) {
        return Err(bad("a % in the query is not followed by two hexadecimal digits"));
    }
    if !text.contains('+') {
        return percent_decode(text.as_bytes()).decode_utf8().map_err(|_| bad("the query is not UTF-8"));
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode(spaced.as_bytes()).decode_utf8().map_err(|_| bad("the query is not UTF-8"))?;
    Ok(Cow::Owned(decoded.into_owned()))
}

/// Whether every `%` is followed by two hexadecimal digits.
pub(super) fn is_well_escaped(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'%')
        .all(|(at, _)| bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &str) -> Result<Query, Failure> {
        Query::parse(raw, ["prefix", "limit", "wait"].into_iter())
    }

    fn code(result: Result<impl Sized, Failure>) -> ErrorCode {
        result.map(|_| ()).unwrap_err().code
    }

    #[test]
    fn parameters_are_decoded_strictly_and_each_is_known_and_single() {
        let query = parse("prefix=a%2Fb+c%2B%00&&limit=").unwrap();
        assert_eq!((query.text("prefix"), query.text("limit"), query.text("wait")), (Some("a/b c+\0"), Some(""), None));
        assert_eq!(parse("prefi%78=y").unwrap().text("prefix"), Some("y"));
        for bad in
            ["other=1", "prefix=1&prefix=2", "prefix=%", "prefix=%4", "prefix=%zz", "prefix=%ff", "Prefix=1", "%zz=1"]
        {
            assert_eq!(code(parse(bad)), ErrorCode::BadParameter, "{bad}");
        }
        assert_eq!(code(parse("max_stale=1s")), ErrorCode::NotSupported);
    }

    #[test]
    fn numbers_and_durations_have_bounds() {
        assert_eq!(parse("limit=10").unwrap().count("limit", 10).unwrap(), Some(10));
        for bad in ["limit=0", "limit=11", "limit=-1", "limit=+1", "limit=", "limit=x", "limit=99999999999"] {
            assert_eq!(code(parse(bad).unwrap().count("limit", 10)), ErrorCode::BadParameter, "{bad}");
        }
        let max = Duration::from_secs(30);
        assert_eq!(parse("wait=30s").unwrap().duration("wait", max).unwrap(), Some(max));
        for bad in ["wait=31s", "wait=1", "wait="] {
            assert_eq!(code(parse(bad).unwrap().duration("wait", max)), ErrorCode::BadParameter, "{bad}");
        }
    }
}
