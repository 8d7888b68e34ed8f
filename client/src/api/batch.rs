//! `POST /v1/{ns}/_batch`: several writes that happen together or not at all.
//!
//! The wire form of an op is flat and its members depend on its type. Here each op is one case of
//! [`BatchChange`], so that an op of one type with the members of another cannot be built, and
//! reading one ([`BatchRequest::from_json`]) says which code to answer with.

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::error::{ErrorCode, Rejection};
use super::names::{DataType, Key};
use super::parse_json;
use super::resources::{MapPatch, SetChange};

/// A batch: ops in order, applied as one record.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BatchRequest {
    /// The ops. Later ones see earlier ones.
    pub ops: Vec<BatchOp>,
}

/// One op of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchOp {
    /// The key it writes.
    pub key: Key,
    /// What it does there.
    pub change: BatchChange,
}

/// What an op of a batch does, by data type.
#[derive(Debug, Clone, PartialEq)]
pub enum BatchChange {
    /// Puts a register's value.
    Register(RegisterPut),
    /// Adds to a counter.
    Counter(i64),
    /// Adds and removes members of a set.
    Set(SetChange),
    /// Patches a map.
    Map(MapPatch),
    /// Sets a flag.
    Flag(bool),
    /// Deletes the key of this type.
    Delete(DataType),
}

/// A register's value within a batch: text, since the batch is JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterPut {
    /// The value, stored as the bytes of its UTF-8.
    pub value: String,
    /// Its media type; `text/plain; charset=utf-8` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
}

impl BatchOp {
    /// The data type that the op writes.
    #[must_use]
    pub fn data_type(&self) -> DataType {
        match self.change {
            BatchChange::Register(_) => DataType::Registers,
            BatchChange::Counter(_) => DataType::Counters,
            BatchChange::Set(_) => DataType::Sets,
            BatchChange::Map(_) => DataType::Maps,
            BatchChange::Flag(_) => DataType::Flags,
            BatchChange::Delete(data_type) => data_type,
        }
    }
}

impl Serialize for BatchOp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &self.data_type())?;
        map.serialize_entry("key", self.key.as_str())?;
        match &self.change {
            BatchChange::Register(put) => map.serialize_entry("put", put)?,
            BatchChange::Counter(add) => map.serialize_entry("add", add)?,
            BatchChange::Set(change) => {
                map.serialize_entry("add", &change.add)?;
                map.serialize_entry("remove", &change.remove)?;
            }
            BatchChange::Map(patch) => {
                map.serialize_entry("set", &patch.set)?;
                map.serialize_entry("add", &patch.add)?;
                map.serialize_entry("members", &patch.members)?;
                map.serialize_entry("remove", &patch.remove)?;
            }
            BatchChange::Flag(enabled) => map.serialize_entry("enabled", enabled)?,
            BatchChange::Delete(_) => map.serialize_entry("delete", &true)?,
        }
        map.end()
    }
}

/// The outer shape of a batch, before its ops are known to be any good.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    ops: Vec<Map<String, Value>>,
}

impl BatchRequest {
    /// Reads the body of a batch.
    ///
    /// # Errors
    /// Names the op by its position, counted from 0: `malformed` for a wrong shape, `bad_type` and
    /// `bad_key` for names, `not_supported` for documents.
    pub fn from_json(body: &[u8]) -> Result<Self, Rejection> {
        let unchecked: Unchecked = parse_json(body)?;
        let ops = unchecked.ops.into_iter().enumerate().map(|(at, op)| {
            BatchOp::from_members(op)
                .map_err(|rejection| Rejection { detail: format!("op {at}: {}", rejection.detail), ..rejection })
        });
        Ok(Self { ops: ops.collect::<Result<_, _>>()? })
    }
}

impl BatchOp {
    fn from_members(mut members: Map<String, Value>) -> Result<Self, Rejection> {
        let data_type: DataType = take_text(&mut members, "type")?.parse()?;
        let key = Key::new(&take_text(&mut members, "key")?)?;
        let change = match members.remove("delete") {
            Some(Value::Bool(true)) if members.is_empty() => BatchChange::Delete(data_type),
            Some(_) => {
                return Err(malformed("delete is true and stands alone, or is not there"));
            }
            None => BatchChange::from_members(data_type, members)?,
        };
        // Documents are reserved as a whole: their delete is no exception.
        if data_type == DataType::Docs {
            return Err(docs_not_supported());
        }
        Ok(Self { key, change })
    }
}

impl BatchChange {
    fn from_members(data_type: DataType, members: Map<String, Value>) -> Result<Self, Rejection> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Put {
            put: RegisterPut,
        }
        let members = Value::Object(members);
        Ok(match data_type {
            DataType::Registers => Self::Register(read::<Put>(members)?.put),
            DataType::Counters => Self::Counter(read::<super::CounterAdd>(members)?.add),
            DataType::Sets => Self::Set(read(members)?),
            DataType::Maps => Self::Map(read(members)?),
            DataType::Flags => Self::Flag(read::<super::FlagChange>(members)?.enabled),
            DataType::Docs => return Err(docs_not_supported()),
        })
    }
}

fn read<T: serde::de::DeserializeOwned>(members: Value) -> Result<T, Rejection> {
    serde_json::from_value(members).map_err(|error| malformed(&error.to_string()))
}

fn take_text(members: &mut Map<String, Value>, name: &str) -> Result<String, Rejection> {
    match members.remove(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(malformed(&format!("{name} is not a string"))),
        None => Err(malformed(&format!("{name} is missing"))),
    }
}

fn malformed(detail: &str) -> Rejection {
    Rejection::new(ErrorCode::Malformed, detail)
}

fn docs_not_supported() -> Rejection {
    Rejection::new(ErrorCode::NotSupported, "docs are reserved and not supported yet")
}

/// The answer to a batch: one result per op, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchResults {
    /// The results.
    pub results: Vec<BatchResult>,
}

/// The result of one op: `{"value"}` for counters, `{"size"}` for sets, `{}` for the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchResult {
    /// A counter's value after the op.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<i64>,
    /// A set's size after the op.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

impl BatchResult {
    /// The result of an op that has nothing to tell.
    pub const DONE: Self = Self { value: None, size: None };

    /// The result of a counter op.
    #[must_use]
    pub const fn value(value: i64) -> Self {
        Self { value: Some(value), size: None }
    }

    /// The result of a set op.
    #[must_use]
    pub const fn size(size: u64) -> Self {
        Self { value: None, size: Some(size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the contract, with its elisions filled in.
    const EXAMPLE: &str = r#"{"ops":[
        {"type":"counters","key":"stock","add":-1},
        {"type":"registers","key":"k","put":{"value":"v","content_type":"text/plain"}},
        {"type":"sets","key":"s","add":["m"]},
        {"type":"maps","key":"m","set":{"/a":1}},
        {"type":"flags","key":"f","enabled":true},
        {"type":"maps","key":"old","delete":true}]}"#;

    #[test]
    fn example_of_the_contract_reads_and_round_trips() {
        let batch = BatchRequest::from_json(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(batch.ops.len(), 6);
        assert_eq!(batch.ops[0].change, BatchChange::Counter(-1));
        assert_eq!(batch.ops[5].change, BatchChange::Delete(DataType::Maps));
        let written = serde_json::to_vec(&batch).unwrap();
        assert_eq!(BatchRequest::from_json(&written).unwrap(), batch);
    }

    #[test]
    fn bad_op_is_named_by_its_place_and_carries_its_own_code() {
        let cases = [
            (r#"{"type":"counter","key":"k","add":1}"#, ErrorCode::BadType),
            (r#"{"type":"counters","key":"","add":1}"#, ErrorCode::BadKey),
            (r#"{"type":"counters","key":"k"}"#, ErrorCode::Malformed),
            (r#"{"type":"counters","key":"k","add":["m"]}"#, ErrorCode::Malformed),
            (r#"{"type":"counters","key":"k","add":1,"if":2}"#, ErrorCode::Malformed),
            (r#"{"type":"sets","key":"k","add":1}"#, ErrorCode::Malformed),
            (r#"{"type":"flags","key":"k","enabled":true,"delete":true}"#, ErrorCode::Malformed),
            (r#"{"type":"flags","key":"k","delete":false}"#, ErrorCode::Malformed),
            (r#"{"key":"k","add":1}"#, ErrorCode::Malformed),
            (r#"{"type":"docs","key":"k","put":{}}"#, ErrorCode::NotSupported),
            (r#"{"type":"docs","key":"k","delete":true}"#, ErrorCode::NotSupported),
        ];
        for (op, code) in cases {
            let body = format!(r#"{{"ops":[{{"type":"flags","key":"f","enabled":true}},{op}]}}"#);
            let rejection = BatchRequest::from_json(body.as_bytes()).unwrap_err();
            assert_eq!(rejection.code, code, "{op}");
            assert!(rejection.detail.starts_with("op 1: "), "{}", rejection.detail);
        }
        for body in ["", "[]", "{}", r#"{"ops":{}}"#, r#"{"ops":[],"atomic":false}"#, r#"{"ops":[1]}"#] {
            assert_eq!(BatchRequest::from_json(body.as_bytes()).unwrap_err().code, ErrorCode::Malformed);
        }
    }

    #[test]
    fn results_say_only_what_their_op_has_to_tell() {
        let results = BatchResults { results: vec![BatchResult::value(41), BatchResult::DONE, BatchResult::size(0)] };
        let json = serde_json::to_string(&results).unwrap();
        assert_eq!(json, r#"{"results":[{"value":41},{},{"size":0}]}"#);
        assert_eq!(serde_json::from_str::<BatchResults>(&json).unwrap(), results);
    }
}
