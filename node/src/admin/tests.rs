//! What operators ask, over a node of the tests' own.

use super::*;
use crate::api::testing::{Answer, Node, send};
use atoll_replication::RegionName;
use http::Method;
use serde_json::{Value, json};
use std::net::Ipv4Addr;

fn operators(node: &Node, gate: Gate) -> Router {
    let identity = Identity { cluster: "shop".into(), node: NodeName::new("n1").unwrap() };
    router(&node.shared, gate, identity, Arc::clone(&node.backups))
}

async fn ask(node: &Node, method: Method, target: &str, body: &str) -> Answer {
    let router = operators(node, Gate::at(Ipv4Addr::LOCALHOST.into(), None));
    send(&router, method, target, &[], body.to_owned()).await
}

async fn get(node: &Node, target: &str) -> Value {
    ask(node, Method::GET, target, "").await.ok(200).json()
}

fn with_peer(node: &Node) {
    node.tell(|snapshot| {
        snapshot.clock_skew_ms = Some(-3);
        snapshot.peers = vec![LinkStatus {
            node: NodeName::new("n2").unwrap(),
            region: RegionName::new("us-east-1").unwrap(),
            state: LinkState::CatchingUp,
            rtt: Some(Duration::from_micros(71_500)),
            lag: None,
            lag_records: 3,
        }];
    });
}

#[tokio::test]
async fn status_tells_who_the_node_is_and_what_it_holds() {
    let node = Node::start().await;
    with_peer(&node);
    node.post("/v1/shop/counters/c", r#"{"add": 1}"#).await.ok(200);
    let status = get(&node, "/admin/status").await;
    let digest = get(&node, "/admin/digest").await;
    let actor = crate::api::testing::ACTOR.to_string();
    for (name, value) in [
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("cluster", json!("shop")),
        ("node", json!("n1")),
        ("region", json!("eu-west-1")),
        ("actor", json!(actor)),
        ("rows", json!(2)),
        ("root", digest["root"].clone()),
        ("durable", digest["vector"].clone()),
        ("vector", digest["vector"].clone()),
        ("clock_skew_ms", json!(-3.0)),
        (
            "peers",
            json!([{"node": "n2", "region": "us-east-1", "state": "catching_up", "rtt_ms": 71.5, "lag_ms": null, "lag_records": 3}]),
        ),
    ] {
        assert_eq!(status[name], value, "{name} in {status}");
    }
    assert!(status["durable"][&actor].as_u64().is_some_and(|seq| seq >= 2), "{status}");
}

#[tokio::test]
async fn equal_rows_have_equal_roots_and_any_change_changes_the_root() {
    let (one, two) = (Node::start().await, Node::start().await);
    for node in [&one, &two] {
        node.post("/v1/shop/sets/s", r#"{"add": ["a", "b"]}"#).await.ok(200);
        node.post("/v1/shop/counters/c", r#"{"add": 1}"#).await.ok(200);
    }
    let root = async |node: &Node| get(node, "/admin/digest").await["root"].as_str().unwrap().to_owned();
    let before = root(&one).await;
    assert_eq!(before.len(), 2 * CELL_BYTES);
    assert_eq!(root(&two).await, before);
    one.post("/v1/shop/sets/s", r#"{"add": ["c"]}"#).await.ok(200);
    assert_ne!(root(&one).await, before);
    one.post("/v1/shop/sets/s", r#"{"remove": ["c"]}"#).await.ok(200);
    assert_eq!(root(&one).await, before, "what is gone leaves no trace");
    // The same at another vector, which is told.
    assert_ne!(get(&one, "/admin/digest").await["vector"], get(&two, "/admin/digest").await["vector"]);
}

#[tokio::test]
async fn link_is_paused_and_resumed_by_the_peers_name() {
    let node = Node::start().await;
    with_peer(&node);
    ask(&node, Method::POST, "/admin/links/n2", r#"{"paused": true}"#).await.ok(204);
    ask(&node, Method::POST, "/admin/links/n2", r#"{"paused": false}"#).await.ok(204);
    let peer = NodeName::new("n2").unwrap();
    while node.pauses.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(*node.pauses.lock().unwrap(), [(peer.clone(), true), (peer, false)]);
    for (target, body, code) in [
        ("/admin/links/n9", r#"{"paused": true}"#, "not_found"),
        ("/admin/links/N2", r#"{"paused": true}"#, "not_found"),
        ("/admin/links/n2", r#"{"paused": 1}"#, "malformed"),
        ("/admin/links/n2", r#"{"paused": true, "for": "1h"}"#, "malformed"),
        ("/admin/links/n2?force=1", r#"{"paused": true}"#, "bad_parameter"),
    ] {
        assert_eq!(ask(&node, Method::POST, target, body).await.code(), code, "{target} {body}");
    }
    assert_eq!(node.pauses.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn drain_stops_writes() {
    let node = Node::start().await;
    node.put("/v1/shop/registers/k", "v").await.ok(204);
    let router = operators(&node, Gate::at(Ipv4Addr::LOCALHOST.into(), None));
    let page = [("origin", "https://elsewhere.example")];
    assert_eq!(send(&router, Method::POST, "/admin/drain", &page, "").await.ok(403).code(), "forbidden");
    assert!(!node.status.is_draining(), "a web page does not drain a node");
    ask(&node, Method::POST, "/admin/drain", "").await.ok(204);
    assert_eq!(node.put("/v1/shop/registers/k", "v").await.ok(503).code(), "draining");
    node.get("/v1/shop/registers/k").await.ok(200);
}

#[tokio::test]
async fn scrub_has_every_row_read_and_takes_nothing_else() {
    let node = Node::start().await;
    node.post("/v1/shop/sets/s", r#"{"add": ["a", "b"]}"#).await.ok(200);
    ask(&node, Method::POST, "/admin/scrub", "").await.ok(202);
    assert_eq!(ask(&node, Method::GET, "/admin/scrub", "").await.code(), "method_not_allowed");
    assert_eq!(ask(&node, Method::POST, "/admin/scrub?rows=1", "").await.code(), "bad_parameter");
}

#[tokio::test]
async fn records_are_exported_and_imported_as_text_and_what_is_none_is_refused() {
    let node = Node::start().await;
    node.post("/v1/shop/counters/c", r#"{"add": 1}"#).await.ok(200);
    let all = ask(&node, Method::POST, "/admin/export", r#"{"beyond": {}}"#).await.ok(200).json();
    assert_eq!(all["records"].as_array().unwrap().len(), 2, "the counter, and the flag that warmed the node up");
    let rest = json!({ "beyond": all["upto"] }).to_string();
    let rest = ask(&node, Method::POST, "/admin/export", &rest).await.ok(200).json();
    assert_eq!(rest, json!({"records": [], "upto": {}, "missing": 0}));
    let own = json!({ "records": all["records"] }).to_string();
    let imported = ask(&node, Method::POST, "/admin/import", &own).await.ok(200).json();
    assert_eq!(imported, json!({"new": 0, "known": 2, "held_back": 0}));
    for (target, body) in [
        ("/admin/export", r#"{"beyond": {"xyz": 1}}"#),
        ("/admin/import", r#"{"records": ["%%%"]}"#),
        ("/admin/import", r#"{"records": ["aGVsbG8="]}"#),
    ] {
        assert_eq!(ask(&node, Method::POST, target, body).await.ok(400).code(), "malformed", "{target} {body}");
    }
    assert_eq!(get(&node, "/admin/members").await, json!({"members": []}));
    let decision = r#"{"standing": "draining"}"#;
    assert_eq!(ask(&node, Method::POST, "/admin/members/n2", decision).await.ok(404).code(), "not_found");
}

#[tokio::test]
async fn metrics_count_what_was_asked_and_refused() {
    let node = Node::start().await;
    node.post("/v1/shop/counters/c", r#"{"add": 1}"#).await.ok(200);
    node.post("/v1/shop/counters/c", "{").await.ok(400);
    node.get("/v1/shop/nothing").await.ok(400);
    let answer = ask(&node, Method::GET, "/metrics", "").await.ok(200);
    assert_eq!(answer.header("content-type"), METRICS_TYPE);
    let text = std::str::from_utf8(&answer.body).unwrap();
    for line in [
        "atoll_writes_total{type=\"counters\",code=\"ok\"} 1",
        "atoll_writes_total{type=\"counters\",code=\"malformed\"} 1",
        "atoll_request_seconds_count{listener=\"http\",operation=\"counter_add\"} 2",
        "atoll_refusals_total{code=\"bad_type\"} 1",
        "atoll_peers_connected 0.0",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn what_is_not_here_says_so() {
    let node = Node::start().await;
    for (method, target, status, code) in [
        (Method::GET, "/admin/route?client=1.2.3.4&policy=latency", 501, "not_supported"),
        (Method::GET, "/admin/status?verbose=1", 400, "bad_parameter"),
        (Method::GET, "/admin/route", 501, "not_supported"),
        (Method::GET, "/admin/policy", 501, "not_supported"),
        (Method::PUT, "/admin/policy", 501, "not_supported"),
        (Method::GET, "/admin/drain", 405, "method_not_allowed"),
        (Method::GET, "/admin/nothing", 404, "not_found"),
        (Method::GET, "/v1/shop/_keys", 404, "not_found"),
    ] {
        let answer = ask(&node, method.clone(), target, "").await.ok(status);
        assert_eq!(answer.code(), code, "{method} {target}");
    }
}

#[tokio::test]
async fn operators_beyond_loopback_need_a_token_for_everything() {
    let node = Node::start().await;
    let router = operators(&node, Gate::at(Ipv4Addr::UNSPECIFIED.into(), None));
    for target in ["/metrics", "/admin/status", "/admin/digest", "/nothing"] {
        let answer = send(&router, Method::GET, target, &[], "").await.ok(401);
        assert_eq!(answer.code(), "unauthenticated");
    }
    assert_eq!(send(&router, Method::POST, "/admin/drain", &[], "").await.ok(401).code(), "unauthenticated");
    assert!(!node.status.is_draining());
}

#[tokio::test]
async fn a_state_is_read_page_by_page_until_it_is_done_with() {
    let node = Node::start().await;
    node.post("/v1/shop/sets/s", r#"{"add": ["a", "b"]}"#).await.ok(200);
    let begun = ask(&node, Method::POST, "/admin/backup", "").await.ok(200).json();
    let digest = get(&node, "/admin/digest").await;
    assert_eq!((&begun["root"], &begun["vector"]), (&digest["root"], &digest["vector"]));
    assert_eq!(ask(&node, Method::POST, "/admin/backup", "").await.ok(503).code(), "overloaded");
    let target = format!("/admin/backup/{}", begun["session"].as_str().unwrap());
    let page = async |body: &str| ask(&node, Method::POST, &target, body).await;
    let rows = page(r#"{"ask": "rows", "after": ""}"#).await.ok(200);
    assert_eq!(rows.body[0], 1, "the last page");
    let ids = page(r#"{"ask": "ids", "after": null}"#).await.ok(200);
    assert_eq!(ids.body.len() as u64, 1 + 16 * begun["rows"].as_u64().unwrap());
    for wrong in [
        r#"{"ask": "rows", "after": "?"}"#,
        r#"{"ask": "ids", "after": 18446744073709551615}"#,
        r#"{"ask": "rows_of", "ids": "AAAA"}"#,
        r#"{"ask": "rows_of", "ids": "AAAAAAAAAAIAAAAAAAAAAQ=="}"#,
        r#"{"ask": "everything"}"#,
    ] {
        assert_eq!(page(wrong).await.ok(400).code(), "malformed", "{wrong}");
    }
    page(r#"{"ask": "done"}"#).await.ok(204);
    assert_eq!(page(r#"{"ask": "ids", "after": null}"#).await.ok(404).code(), "not_found");
    ask(&node, Method::POST, "/admin/backup", "").await.ok(200);
}
