//! The OpenAPI 3.1 document of what exists, made from the table of operations.

use super::operations::{Content, Kind, OPERATIONS, Operation};
use atoll_client::api::{DataType, ErrorCode, headers};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The document.
pub(super) fn document() -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in OPERATIONS {
        let method = operation.method.as_str().to_ascii_lowercase();
        paths.entry(operation.path).or_default().insert(method, describe(operation));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Atoll",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A multi-region CRDT data service. Every region takes writes; regions converge.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{}, {"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Needed on every listener that is not loopback.",
                },
            },
            "headers": response_headers(),
            "schemas": schemas(),
        },
    })
}

fn describe(operation: &Operation) -> Value {
    let mut out = json!({
        "operationId": operation.id,
        "summary": operation.doc,
        "parameters": parameters(operation),
        "responses": responses(operation),
    });
    if let Some(body) = operation.body {
        out["requestBody"] = json!({"required": true, "content": content(body)});
    }
    out
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let mut out = Vec::new();
    for (name, doc) in [
        ("namespace", "1 to 63 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit."),
        ("key", "1 to 1,024 bytes of UTF-8, percent-encoded as one segment."),
        ("member", "At most 1,024 bytes of UTF-8, percent-encoded as one segment."),
    ] {
        if operation.path.contains(&format!("{{{name}}}")) {
            out.push(json!({
                "name": name, "in": "path", "required": true, "description": doc, "schema": {"type": "string"},
            }));
        }
    }
    for parameter in operation.parameters() {
        let schema: Value = serde_json::from_str(parameter.schema).expect("a schema of the table is JSON");
        out.push(json!({
            "name": parameter.name, "in": "query", "description": parameter.doc, "schema": schema,
        }));
    }
    let mut header = |name: &str, doc: &str| {
        out.push(json!({"name": name, "in": "header", "description": doc, "schema": {"type": "string"}}));
    };
    if operation.kind != Kind::System {
        header("Atoll-Token", "What the session has seen: the Atoll-Token of its last answer, from any region.");
    }
    if matches!(operation.kind, Kind::Write(_)) {
        header("Atoll-Context", "The Atoll-Context of a read: exactly what it showed is replaced.");
    }
    out
}

fn content(content: Content) -> Value {
    match content {
        Content::Bytes => json!({"*/*": {}}),
        Content::Text => json!({"text/plain": {"schema": {"type": "string"}}}),
        Content::Json(schema) => {
            json!({headers::JSON: {"schema": {"$ref": format!("#/components/schemas/{schema}")}}})
        }
    }
}

fn responses(operation: &Operation) -> Map<String, Value> {
    let mut out = Map::new();
    for success in operation.success {
        let mut response = json!({"description": success.doc});
        if let Some(body) = success.content {
            response["content"] = content(body);
        }
        let names: &[&str] = match operation.kind {
            Kind::Read if operation.id == "register_get" => {
                &["Atoll-Token", "Atoll-Context", "Atoll-Region", "Atoll-Staleness-Ms", "Atoll-Siblings"]
            }
            Kind::Read => &["Atoll-Token", "Atoll-Context", "Atoll-Region", "Atoll-Staleness-Ms"],
            Kind::Write(_) if success.status == 202 => &["Atoll-Token", "Atoll-Acked"],
            Kind::Write(_) => &["Atoll-Token"],
            Kind::System if success.status == 503 => &["Retry-After"],
            Kind::System => &[],
        };
        response["headers"] = header_refs(names);
        out.insert(success.status.to_string(), response);
    }
    let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
    for code in operation.all_refusals() {
        by_status.entry(code.status()).or_default().push(code);
    }
    for (status, codes) in by_status {
        let names: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
        let refusal = json!({
            "description": format!("Refused, nothing has changed: {}.", names.join(", ")),
            "headers": header_refs(if status == 503 { &["Retry-After", "Atoll-Lag"] } else { &[] }),
            "content": {headers::PROBLEM_JSON: {"schema": {
                "allOf": [
                    {"$ref": "#/components/schemas/Problem"},
                    {"type": "object", "properties": {"code": {"enum": names}}},
                ],
            }}},
        });
        // Readiness has a body of its own for a status that refusals use too.
        match out.get_mut(&status.to_string()) {
            Some(known) => known["content"][headers::PROBLEM_JSON] = refusal["content"][headers::PROBLEM_JSON].clone(),
            None => {
                out.insert(status.to_string(), refusal);
            }
        }
    }
    out
}

fn header_refs(names: &[&str]) -> Value {
    let refs = names.iter().map(|name| ((*name).to_owned(), json!({"$ref": format!("#/components/headers/{name}")})));
    Value::Object(refs.collect())
}

fn response_headers() -> Value {
    let text = |doc: &str| json!({"description": doc, "schema": {"type": "string"}});
    let number = |doc: &str| json!({"description": doc, "schema": {"type": "integer", "minimum": 0}});
    json!({
        "Atoll-Token": text("What the session has seen; send it back to any region."),
        "Atoll-Context": text("What the read showed; a write that brings it replaces exactly that."),
        "Atoll-Region": text("The region that answered."),
        "Atoll-Staleness-Ms": number("How old the oldest missing acknowledged write of another region can be."),
        "Atoll-Siblings": number("How many concurrent values there are."),
        "Atoll-Acked": text("held/asked: how many regions hold the write durably, and how many were asked for."),
        "Atoll-Lag": text("region=ms,…: with session_behind, how far this node is behind each other region."),
        "Retry-After": number("Seconds to wait before asking again."),
    })
}

fn schemas() -> Value {
    let types: Vec<&str> =
        DataType::ALL.iter().filter(|known| **known != DataType::Docs).map(|known| known.as_str()).collect();
    let codes: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    let texts = json!({"type": "array", "items": {"type": "string"}});
    let i64 = json!({"type": "integer", "format": "int64"});
    let next = json!({"type": ["string", "null"], "description": "Where the next page begins; null on the last."});
    json!({
        "DataType": {"type": "string", "enum": types},
        "CounterAdd": object(json!({"add": i64}), &["add"]),
        "CounterValue": object(json!({"value": i64}), &["value"]),
        "SetChange": object(json!({"add": texts, "remove": texts}), &[]),
        "SetSize": object(json!({"size": {"type": "integer"}}), &["size"]),
        "SetPage": object(
            json!({"members": texts, "size": {"type": "integer"}, "next": next}), &["members", "size", "next"],
        ),
        "MapPatch": object(json!({
            "remove": texts,
            "set": {"type": "object", "additionalProperties": true},
            "add": {"type": "object", "additionalProperties": i64},
            "members": {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/SetChange"}},
        }), &[]),
        "MapValue": {"description": "An object for the whole map; any JSON value at a place."},
        "FlagState": object(json!({"enabled": {"type": "boolean"}}), &["enabled"]),
        "RegisterPut": object(json!({"value": {"type": "string"}, "content_type": {"type": "string"}}), &["value"]),
        "RegisterSiblings": object(json!({"siblings": {"type": "array", "items": object(json!({
            "value_base64": {"type": "string", "contentEncoding": "base64"},
            "content_type": {"type": "string"},
            "region": {"type": "string"},
            "at": {"type": "string", "format": "date-time"},
        }), &["value_base64", "content_type", "region", "at"])}}), &["siblings"]),
        "Batch": object(
            json!({"ops": {"type": "array", "items": {"$ref": "#/components/schemas/BatchOp"}}}), &["ops"],
        ),
        "BatchOp": {
            "type": "object",
            "required": ["type", "key"],
            "properties": {"type": {"$ref": "#/components/schemas/DataType"}, "key": {"type": "string"}},
            "oneOf": [
                {"required": ["put"], "properties": {"put": {"$ref": "#/components/schemas/RegisterPut"}}},
                {"properties": {"type": {"const": "counters"}, "add": i64}, "required": ["add"]},
                {"properties": {"type": {"const": "sets"}, "add": texts, "remove": texts}},
                {"properties": {"type": {"const": "maps"}, "remove": texts, "set": {"type": "object"},
                    "add": {"type": "object"}, "members": {"type": "object"}}},
                {"required": ["enabled"], "properties": {"enabled": {"type": "boolean"}}},
                {"required": ["delete"], "properties": {"delete": {"const": true}}},
            ],
        },
        "BatchResults": object(json!({"results": {"type": "array", "items": {
            "type": "object",
            "properties": {"value": i64, "size": {"type": "integer"}},
        }}}), &["results"]),
        "KeysPage": object(json!({
            "keys": {"type": "array", "items": object(
                json!({"type": {"$ref": "#/components/schemas/DataType"}, "key": {"type": "string"}}), &["type", "key"],
            )},
            "next": next,
        }), &["keys", "next"]),
        "Readiness": object(json!({"ready": {"type": "boolean"}, "reasons": texts}), &["ready"]),
        "OpenApi": {"type": "object"},
        "Problem": object(json!({
            "type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"},
            "code": {"type": "string", "enum": codes}, "detail": {"type": "string"}, "request_id": {"type": "string"},
        }), &["type", "title", "status", "code", "detail", "request_id"]),
    })
}

#[expect(clippy::needless_pass_by_value, reason = "it goes into the value that is made; a macro hides that")]
fn object(properties: Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required})
}
