//! Namespaces, keys and data types: the three parts of a resource's name.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::error::{ErrorCode, Rejection};
use super::limits::{KEY_BYTES_MAX, NAMESPACE_BYTES_MAX};

/// What stays as it is in a path segment: RFC 3986's unreserved characters, and `:` and `@`, which
/// a segment may hold and keys are fond of.
const SEGMENT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':').remove(b'@');

/// What stays as it is in a query value: the unreserved characters and `/`, for paths.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Appends `text` to `out` as one path segment.
pub(crate) fn push_segment(out: &mut String, text: &str) {
    // A lone dot or two is a "dot segment", which URL libraries fold away, even percent-encoded;
    // encoding it is the best a client can do.
    match text {
        "." => out.push_str("%2E"),
        ".." => out.push_str("%2E%2E"),
        _ => out.extend(utf8_percent_encode(text, SEGMENT)),
    }
}

/// Appends `text` to `out` as the value of a query parameter.
pub(crate) fn push_query_value(out: &mut String, text: &str) {
    out.extend(utf8_percent_encode(text, QUERY));
}

/// A namespace: `[a-z0-9][a-z0-9._-]{0,62}`. The system's own begin with `_`, which this rules out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Box<str>);

impl Namespace {
    /// The namespace called `text`.
    ///
    /// # Errors
    /// `bad_namespace` when the rule is broken.
    pub fn new(text: &str) -> Result<Self, Rejection> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let well_formed = bytes.first().is_some_and(|&first| allowed(first))
            && bytes.len() <= NAMESPACE_BYTES_MAX
            && bytes.iter().all(|&byte| allowed(byte) || matches!(byte, b'.' | b'_' | b'-'));
        if well_formed {
            Ok(Self(text.into()))
        } else {
            Err(Rejection::new(
                ErrorCode::BadNamespace,
                "a namespace is 1 to 63 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit",
            ))
        }
    }

    /// The namespace as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Namespace {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        Self::new(text)
    }
}

/// A key: 1 to 1,024 bytes of UTF-8, any characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Box<str>);

impl Key {
    /// The key that reads `text`.
    ///
    /// # Errors
    /// `bad_key` when it is empty or too long.
    pub fn new(text: &str) -> Result<Self, Rejection> {
        if text.is_empty() {
            return Err(Rejection::new(ErrorCode::BadKey, "the key is empty"));
        }
        if text.len() > KEY_BYTES_MAX {
            return Err(Rejection::new(
                ErrorCode::BadKey,
                format!("the key is {} bytes long; {KEY_BYTES_MAX} is the most", text.len()),
            ));
        }
        Ok(Self(text.into()))
    }

    /// The key that a percent-encoded path segment spells.
    ///
    /// # Errors
    /// `bad_key` when a `%` is not followed by two hexadecimal digits, when the decoded bytes are
    /// not UTF-8, or when the key breaks a rule.
    pub fn from_path_segment(segment: &str) -> Result<Self, Rejection> {
        decode_segment(segment)
            .ok_or_else(|| Rejection::new(ErrorCode::BadKey, "the key is not percent-encoded UTF-8"))
            .and_then(|text| Self::new(&text))
    }

    /// The key percent-encoded, to stand as one path segment.
    #[must_use]
    pub fn to_path_segment(&self) -> String {
        let mut segment = String::with_capacity(self.0.len());
        push_segment(&mut segment, &self.0);
        segment
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Key {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        Self::new(text)
    }
}

/// Undoes percent-encoding, strictly: a stray `%` is refused rather than kept, because two
/// spellings that one proxy folds and another does not would name two keys.
fn decode_segment(segment: &str) -> Option<String> {
    let bytes = segment.as_bytes();
    let strays = bytes
        .iter()
        .enumerate()
        .filter(|&(_, &byte)| byte == b'%')
        .any(|(at, _)| !bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)));
    if strays {
        return None;
    }
    percent_decode_str(segment).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// The data types. The type is part of a resource's identity: one name may exist once in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataType {
    /// One value of any bytes; concurrent writes stay readable as siblings.
    Registers,
    /// A signed sum.
    Counters,
    /// A set of strings; add wins over a concurrent remove.
    Sets,
    /// Nested maps of values, counters and member sets.
    Maps,
    /// A switch.
    Flags,
    /// JSON documents. Reserved: answered with `not_supported`.
    Docs,
}

impl DataType {
    /// Every data type, in the order of the contract.
    pub const ALL: &[DataType] = &[Self::Registers, Self::Counters, Self::Sets, Self::Maps, Self::Flags, Self::Docs];

    /// The type as a path spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registers => "registers",
            Self::Counters => "counters",
            Self::Sets => "sets",
            Self::Maps => "maps",
            Self::Flags => "flags",
            Self::Docs => "docs",
        }
    }

    /// The path of a resource of this type: `/v1/{namespace}/{type}/{key}`.
    #[must_use]
    pub fn path(self, namespace: &Namespace, key: &Key) -> String {
        let mut path = String::with_capacity(24 + namespace.0.len() + key.0.len());
        path.push_str("/v1/");
        path.push_str(namespace.as_str());
        path.push('/');
        path.push_str(self.as_str());
        path.push('/');
        push_segment(&mut path, key.as_str());
        path
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for DataType {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        Self::ALL.iter().copied().find(|data_type| data_type.as_str() == text).ok_or_else(|| {
            Rejection::new(ErrorCode::BadType, "the types are registers, counters, sets, maps, flags and docs")
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn namespaces_follow_their_rule() {
        for good in ["a", "0", "shop", "a.b_c-d", &"x".repeat(63)] {
            assert_eq!(Namespace::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "_system", ".a", "-a", "Shop", "a/b", "ä", "a b", &"x".repeat(64)] {
            assert_eq!(Namespace::new(bad).unwrap_err().code, ErrorCode::BadNamespace, "{bad}");
        }
    }

    #[test]
    fn keys_are_bounded_in_bytes_not_in_characters() {
        assert!(Key::new(&"k".repeat(1024)).is_ok());
        assert_eq!(Key::new(&"k".repeat(1025)).unwrap_err().code, ErrorCode::BadKey);
        assert!(Key::new(&"é".repeat(512)).is_ok());
        assert!(Key::new(&"é".repeat(513)).is_err());
        assert!(Key::new("").is_err());
    }

    #[test]
    fn path_segment_escapes_what_would_change_the_path() {
        let key = Key::new("cart:42/a b?c#d%e@f").unwrap();
        assert_eq!(key.to_path_segment(), "cart:42%2Fa%20b%3Fc%23d%25e@f");
        assert_eq!(Key::new("..").unwrap().to_path_segment(), "%2E%2E");
        let shop = Namespace::new("shop").unwrap();
        assert_eq!(DataType::Sets.path(&shop, &Key::new("a/b").unwrap()), "/v1/shop/sets/a%2Fb");
    }

    #[test]
    fn segment_that_is_not_percent_encoded_utf8_is_a_bad_key() {
        for bad in ["%", "%4", "a%zz", "%ff", "%c3%28", ""] {
            assert_eq!(Key::from_path_segment(bad).unwrap_err().code, ErrorCode::BadKey, "{bad}");
        }
    }

    #[test]
    fn data_types_round_trip() {
        for &data_type in DataType::ALL {
            assert_eq!(data_type.as_str().parse::<DataType>(), Ok(data_type));
            let json = serde_json::to_string(&data_type).unwrap();
            assert_eq!(json, format!("\"{data_type}\""));
        }
        assert_eq!("counter".parse::<DataType>().unwrap_err().code, ErrorCode::BadType);
    }

    proptest! {
        #[test]
        fn any_key_survives_its_path_segment(text in "\\PC{1,40}|[\\x00-\\x7f]{1,40}") {
            let key = Key::new(&text).unwrap();
            let segment = key.to_path_segment();
            prop_assert!(segment.is_ascii() && !segment.contains(['/', '?', '#', ' ']));
            prop_assert_eq!(Key::from_path_segment(&segment).unwrap(), key);
        }

        #[test]
        fn no_segment_panics(segment in "\\PC{0,40}") {
            let _ = Key::from_path_segment(&segment);
        }
    }
}
