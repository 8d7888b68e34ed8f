//! The JSON bodies of the data types: what a write says, what a read answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::names::DataType;

/// `GET …?siblings=all`: every value a register holds, the winner first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterSiblings {
    /// The winner, then the others.
    pub siblings: Vec<Sibling>,
}

/// One of a register's concurrent values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sibling {
    /// The value's bytes.
    #[serde(rename = "value_base64", with = "base64_text")]
    pub value: Vec<u8>,
    /// The media type it was put with.
    pub content_type: String,
    /// The region that took the write.
    pub region: String,
    /// When, by that region's clock: RFC 3339, UTC, milliseconds.
    pub at: String,
}

/// `POST` to a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CounterAdd {
    /// What to add; negative to subtract.
    pub add: i64,
}

/// A counter's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterValue {
    /// The sum, clamped to the range of an `i64`.
    pub value: i64,
}

/// `POST` to a set, and the change of a map's member set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetChange {
    /// Members to add.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
    /// Members to remove.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// How many members a set has after a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetSize {
    /// The number of members.
    pub size: u64,
}

/// A page of a set's members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetPage {
    /// Members in ascending order of their bytes.
    pub members: Vec<String>,
    /// The number of members of the whole set.
    pub size: u64,
    /// Where the next page begins (`?after=`), or null on the last.
    pub next: Option<String>,
}

/// `PATCH` of a map: changes by path, each path a JSON Pointer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapPatch {
    /// Values to set. An object sets each of its members.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, Value>,
    /// Counters to add to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub add: BTreeMap<String, i64>,
    /// Member sets to change.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub members: BTreeMap<String, SetChange>,
    /// Paths to remove, with everything under them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// `PUT` of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlagChange {
    /// Whether the flag shall be on.
    pub enabled: bool,
}

/// A flag as it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlagState {
    /// Whether the flag is on.
    pub enabled: bool,
}

/// A page of a namespace's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysPage {
    /// The keys, each with its type.
    pub keys: Vec<KeyEntry>,
    /// Where the next page begins (`?after=`), or null on the last.
    pub next: Option<String>,
}

/// One key of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEntry {
    /// The data type.
    #[serde(rename = "type")]
    pub data_type: DataType,
    /// The key.
    pub key: String,
}

/// Bytes as standard base64 with padding.
mod base64_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<u8>, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(input)?;
        STANDARD.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::error::ErrorCode;
    use super::super::parse_json;
    use super::*;

    #[test]
    fn bodies_are_spelt_as_in_the_contract() {
        let siblings = json!({"siblings": [
            {"value_base64": "AP8=", "content_type": "a/b", "region": "eu-west-1", "at": "2026-01-02T03:04:05.678Z"},
        ]});
        let parsed: RegisterSiblings = serde_json::from_value(siblings.clone()).unwrap();
        assert_eq!(parsed.siblings[0].value, [0, 0xff]);
        assert_eq!(serde_json::to_value(parsed).unwrap(), siblings);

        let patch = json!({
            "set": {"/a/b": {"c": 1}}, "add": {"/n": 1},
            "members": {"/tags": {"add": ["x"], "remove": ["y"]}}, "remove": ["/a"],
        });
        let parsed: MapPatch = serde_json::from_value(patch.clone()).unwrap();
        assert_eq!(serde_json::to_value(parsed).unwrap(), patch);

        let page = json!({"keys": [{"type": "counters", "key": "visits"}], "next": null});
        let parsed: KeysPage = serde_json::from_value(page.clone()).unwrap();
        assert_eq!(serde_json::to_value(parsed).unwrap(), page);
    }

    #[test]
    fn requests_refuse_unknown_members_and_answers_tolerate_them() {
        let refused = parse_json::<MapPatch>(br#"{"sett": {"/a": 1}}"#).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Malformed);
        assert!(refused.detail.contains("sett"), "{}", refused.detail);
        assert!(parse_json::<SetChange>(br#"{"add": [], "ttl": 1}"#).is_err());
        assert!(parse_json::<CounterAdd>(br#"{"add": 1, "add_once": true}"#).is_err());
        assert!(parse_json::<FlagChange>(br#"{"enabled": true, "for": "1h"}"#).is_err());
        assert!(serde_json::from_str::<CounterValue>(r#"{"value": 1, "more": 2}"#).is_ok());
        assert!(serde_json::from_str::<FlagState>(r#"{"enabled": true, "since": 2}"#).is_ok());
    }

    #[test]
    fn counter_takes_only_what_fits_an_i64() {
        assert_eq!(parse_json::<CounterAdd>(br#"{"add": -9223372036854775808}"#).unwrap().add, i64::MIN);
        for bad in ["9223372036854775808", "1.5", "1e3", "\"1\"", "null"] {
            assert!(parse_json::<CounterAdd>(format!("{{\"add\": {bad}}}").as_bytes()).is_err());
        }
    }

    #[test]
    fn deeply_nested_body_is_refused_not_followed() {
        let body = format!("{{\"set\": {{\"/a\": {}}}}}", "[".repeat(100_000));
        assert_eq!(parse_json::<MapPatch>(body.as_bytes()).unwrap_err().code, ErrorCode::Malformed);
    }
}
