//! The OpenAPI document and the server agree.

use crate::api::operations::{Kind, OPERATIONS};
use crate::api::testing::{Answer, FORMER, Node, Setup};
use crate::app::Tokens;
use crate::auth::Gate;
use crate::config::Limits;
use atoll_client::api::ErrorCode;
use atoll_crdt::{ActorId, Dot, VersionVector};
use atoll_replication::Readiness;
use axum::body::Body;
use http::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Set to write the published copy anew.
const WRITE: &str = "ATOLL_WRITE_DOCS";

/// The statuses that the document names, by method and path.
fn documented(document: &Value) -> BTreeMap<(String, String), BTreeSet<u16>> {
    let mut found = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let statuses = operation["responses"].as_object().unwrap().keys().map(|status| status.parse().unwrap());
            found.insert((method.to_ascii_uppercase(), path.clone()), statuses.collect());
        }
    }
    found
}

fn concrete(path: &str) -> String {
    path.replace("{namespace}", "shop").replace("{key}", "k").replace("{member}", "m")
}

#[tokio::test]
async fn document_is_served_and_its_published_copy_is_the_same() {
    let node = Node::start().await;
    let served = node.get("/openapi.json").await.ok(200);
    assert_eq!((served.header("content-type"), &served.json()["openapi"]), ("application/json", &json!("3.1.0")));
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|dir| dir.join("docs/openapi.json"));
    let file = file.into_iter().find(|file| file.parent().is_some_and(std::path::Path::is_dir)).unwrap();
    let text = format!("{}\n", serde_json::to_string_pretty(&served.json()).unwrap());
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let published = std::fs::read_to_string(&file).unwrap();
    assert!(published == text, "{} is not what is served; {WRITE}=1 writes it anew", file.display());
}

#[tokio::test]
async fn every_operation_of_the_document_is_routed_and_every_route_is_in_the_document() {
    let node = Node::start().await;
    let documented = documented(&node.get("/openapi.json").await.json());
    assert_eq!(documented.len(), OPERATIONS.len());
    let methods = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE"];
    for path in documented.keys().map(|(_, path)| path).collect::<BTreeSet<_>>() {
        for method in methods {
            let asked = Method::from_bytes(method.as_bytes()).unwrap();
            let answer = node.send(asked, &concrete(path), &[], "").await;
            // Reading the head of what can be read is no operation of its own.
            let known = if method == "HEAD" { "GET" } else { method };
            let is_documented = documented.contains_key(&(known.to_owned(), path.clone()));
            assert_eq!(answer.status != 405, is_documented, "{method} {path}: {answer:?}");
        }
    }
}

/// What was answered so far, by operation.
#[derive(Default)]
struct Seen(BTreeMap<&'static str, BTreeSet<(u16, Option<&'static str>)>>);

impl Seen {
    async fn ask(
        &mut self,
        node: &Node,
        id: &'static str,
        headers: &[(&str, &str)],
        query: &str,
        body: impl Into<Body>,
    ) -> Answer {
        let operation = OPERATIONS.iter().find(|operation| operation.id == id).unwrap();
        let target = format!("{}{query}", concrete(operation.path));
        let answer = node.send(operation.method.clone(), &target, headers, body).await;
        self.note(id, &answer);
        answer
    }

    fn note(&mut self, id: &'static str, answer: &Answer) {
        let is_problem = answer.headers.get("content-type").is_some_and(|kind| kind == "application/problem+json");
        let code = is_problem.then(|| answer.code());
        self.0.entry(id).or_default().insert((answer.status, code));
    }
}

/// A body with which an operation succeeds.
fn good_body(id: &str) -> &'static str {
    match id {
        "register_put" => "v",
        "counter_add" => r#"{"add":1}"#,
        "set_change" => r#"{"add":["m"]}"#,
        "map_patch" => r#"{"set":{"/a":1}}"#,
        "flag_put" => r#"{"enabled":true}"#,
        "batch" => r#"{"ops":[{"type":"flags","key":"x","enabled":true}]}"#,
        _ => "",
    }
}

/// Successes, absences, and everything that depends on the request alone.
async fn ask_about_requests(seen: &mut Seen, node: &Node) {
    let token = |actor, seq| Tokens::of_cluster("shop").token(&VersionVector::from_iter([Dot::new(actor, seq)]));
    let (lost, behind) = (token(FORMER, 7), token(ActorId::new(9), 7));
    for absent in ["register_get", "counter_get", "set_get", "set_has", "map_get", "flag_get"] {
        seen.ask(node, absent, &[], "", "").await;
    }
    for operation in OPERATIONS {
        let (id, body) = (operation.id, good_body(operation.id));
        if operation.kind == Kind::System {
            seen.ask(node, id, &[], "?unknown=1", "").await;
            seen.ask(node, id, &[("idempotency-key", "1")], "", "").await;
            continue;
        }
        seen.ask(node, id, &[], "?unknown=1", body).await;
        seen.ask(node, id, &[("idempotency-key", "1")], "", body).await;
        seen.ask(node, id, &[("atoll-token", "garbage")], "", body).await;
        seen.ask(node, id, &[("atoll-token", &lost)], "?wait=1ms", body).await;
        seen.ask(node, id, &[("atoll-token", &behind)], "?wait=1ms", body).await;
        for (from, to) in [("shop", "SHOP"), ("/k", "/%ff")] {
            let target = concrete(operation.path).replacen(from, to, 1);
            seen.note(id, &node.send(operation.method.clone(), &target, &[], body).await);
        }
        if operation.body.is_some() {
            seen.ask(node, id, &[], "", vec![b' '; (4 << 20) + 1]).await;
            seen.ask(node, id, &[("content-type", "image/x")], "", body).await;
        }
        if matches!(operation.kind, Kind::Write(_)) {
            seen.ask(node, id, &[("origin", "https://elsewhere.example")], "", body).await;
            seen.ask(node, id, &[], "?w=3&wtimeout=1ms", body).await;
        }
    }
    // In the order of the table what is written is deleted again, which the reads would not find.
    for operation in OPERATIONS {
        if matches!(operation.kind, Kind::Write(_)) && operation.method != Method::DELETE {
            seen.ask(node, operation.id, &[], "", good_body(operation.id)).await;
        }
    }
    for operation in OPERATIONS {
        if !matches!(operation.kind, Kind::Write(_)) {
            seen.ask(node, operation.id, &[], "", "").await;
        }
    }
    seen.ask(node, "keys", &[], "?type=nothing", "").await;
    seen.ask(node, "set_change", &[], "", format!(r#"{{"add":["{}"]}}"#, "m".repeat(1_025))).await;
    seen.note("set_has", &node.get("/v1/shop/sets/k/%ff").await);
    seen.ask(node, "map_get", &[], "?path=a", "").await;
    seen.ask(node, "map_patch", &[], "", r#"{"set":{"a":1}}"#).await;
    let most = i64::MAX;
    seen.ask(node, "counter_add", &[], "", format!(r#"{{"add":{most}}}"#)).await;
    seen.ask(node, "map_patch", &[], "", format!(r#"{{"add":{{"/n":{most}}}}}"#)).await;
    seen.ask(node, "map_patch", &[], "", r#"{"add":{"/n":1}}"#).await;
    for op in [
        json!({"type": "counters", "key": "k", "add": most}),
        json!({"type": "nothing", "key": "k", "add": 1}),
        json!({"type": "sets", "key": "", "add": []}),
        json!({"type": "maps", "key": "k", "set": {"a": 1}}),
    ] {
        seen.ask(node, "batch", &[], "", json!({"ops": [op]}).to_string()).await;
    }
    for operation in OPERATIONS.iter().filter(|operation| operation.method == Method::DELETE) {
        seen.ask(node, operation.id, &[], "", "").await;
    }
}

/// What depends on the state of the node.
async fn ask_about_states(seen: &mut Seen, node: &Node) {
    let all = async |seen: &mut Seen| {
        for operation in OPERATIONS.iter().filter(|operation| operation.kind != Kind::System) {
            seen.ask(node, operation.id, &[], "", good_body(operation.id)).await;
        }
    };
    node.tell(|snapshot| snapshot.readiness = Readiness::Joining { percent: 1 });
    all(seen).await;
    seen.ask(node, "readyz", &[], "", "").await;
    node.tell(|snapshot| snapshot.readiness = Readiness::Serving);
    node.tell(|snapshot| snapshot.read_only = Some("full".into()));
    all(seen).await;
    node.tell(|snapshot| snapshot.read_only = None);
    node.wall_shift_ms.store(-60_000, std::sync::atomic::Ordering::Relaxed);
    all(seen).await;
    node.wall_shift_ms.store(0, std::sync::atomic::Ordering::Relaxed);
    // The counter of the map stays at its limit and a large map makes an answer too large.
    for n in 0..6 {
        let patch = json!({"set": {format!("/{n}"): "x".repeat(1 << 19), format!("/{n}b"): "x".repeat(1 << 19)}});
        node.patch("/v1/shop/maps/k", &patch.to_string()).await.ok(204);
    }
    seen.ask(node, "map_get", &[], "", "").await;
    let nothing = node.get("/v1/shop/registers/none").await.header("atoll-context").to_owned();
    for _ in 0..5 {
        let saw = [("atoll-context", nothing.as_str())];
        node.send(Method::PUT, "/v1/shop/registers/k", &saw, vec![0; 1 << 20]).await.ok(204);
    }
    seen.ask(node, "register_get", &[], "?siblings=all", "").await;
    node.status.drain();
    all(seen).await;
}

#[tokio::test]
async fn server_answers_every_documented_status_and_code_and_no_other() {
    // Two regions that never answer: levels are not reached, and what is lost can be told only without them.
    let node =
        Node::with(Setup { regions: vec!["eu-west-1", "us-east-1", "ap-southeast-1"], ..Setup::default() }).await;
    let mut seen = Seen::default();
    ask_about_requests(&mut seen, &node).await;
    ask_about_states(&mut seen, &node).await;
    let lonely = Node::start().await;
    let lost = Tokens::of_cluster("shop").token(&VersionVector::from_iter([Dot::new(FORMER, 7)]));
    let outside = crate::api::router(&lonely.shared, Gate::at(Ipv4Addr::UNSPECIFIED.into(), None), "http");
    let limits = Limits { requests_in_flight: 0, ..Limits::default() };
    let app = std::sync::Arc::clone(lonely.shared.app());
    let full = crate::api::Shared::new(app, std::sync::Arc::clone(lonely.shared.metrics()), limits);
    let full = crate::api::router(&full, Gate::at(Ipv4Addr::LOCALHOST.into(), None), "http");
    for operation in OPERATIONS {
        let (id, method, target) = (operation.id, operation.method.clone(), concrete(operation.path));
        let body = good_body(id);
        if operation.kind != Kind::System {
            seen.ask(&lonely, id, &[("atoll-token", &lost)], "?wait=1ms", body).await;
        }
        for router in [&outside, &full] {
            seen.note(id, &crate::api::testing::send(router, method.clone(), &target, &[], body).await);
        }
    }
    let document = lonely.get("/openapi.json").await.json();
    let documented = documented(&document);
    for operation in OPERATIONS {
        let mut expected: BTreeSet<(u16, Option<&str>)> =
            operation.success.iter().map(|success| (success.status, None)).collect();
        expected.extend(operation.all_refusals().into_iter().map(|code| (code.status(), Some(code.as_str()))));
        let statuses = &documented[&(operation.method.to_string(), operation.path.to_owned())];
        let of_table: BTreeSet<u16> = expected.iter().map(|(status, _)| *status).collect();
        assert_eq!(*statuses, of_table, "{}", operation.id);
        // A fault of the program or the disk cannot be asked for.
        expected.remove(&(500, Some(ErrorCode::Internal.as_str())));
        assert_eq!(seen.0[operation.id], expected, "{}", operation.id);
    }
}
