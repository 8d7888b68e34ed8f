//! Every way in which a request can be refused, each with its own code.

use crate::api::testing::{Node, Setup};
use crate::auth::{Gate, Tokens};
use crate::config::Limits;
use axum::body::Body;
use bytes::Bytes;
use http::Method;
use serde_json::json;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn names_that_break_a_rule_are_told_apart() {
    let node = Node::start().await;
    let long = "k".repeat(1_025);
    for (target, code) in [
        ("/v1/Shop/registers/k".to_owned(), "bad_namespace"),
        ("/v1/_system/registers/k".into(), "bad_namespace"),
        (format!("/v1/{}/registers/k", "n".repeat(64)), "bad_namespace"),
        ("/v1/Shop/_keys".into(), "bad_namespace"),
        ("/v1/shop/register/k".into(), "bad_type"),
        ("/v1/shop/_keys?type=register".into(), "bad_type"),
        ("/v1/shop/registers/".into(), "bad_key"),
        ("/v1/shop/registers/%zz".into(), "bad_key"),
        ("/v1/shop/registers/%ff".into(), "bad_key"),
        (format!("/v1/shop/registers/{long}"), "bad_key"),
        (format!("/v1/shop/sets/s/{long}"), "bad_path"),
        ("/v1/shop/sets/s/%ff".into(), "bad_path"),
        ("/v1/shop/maps/m?path=a".into(), "bad_path"),
        ("/v1/shop/maps/m?path=/~2".into(), "bad_path"),
        (format!("/v1/shop/maps/m?path={}", "/a".repeat(101)), "bad_path"),
        ("/v1/shop/nothing".into(), "bad_type"),
    ] {
        assert_eq!(node.get(&target).await.ok(400).code(), code, "{target}");
    }
    for change in [json!({"add": [long]}), json!({"remove": [long]})] {
        assert_eq!(node.post("/v1/shop/sets/s", &change.to_string()).await.ok(400).code(), "bad_path");
    }
    for patch in [
        json!({"set": {"a": 1}}),
        json!({"set": {"": 1}}),
        json!({"set": {format!("/{long}"): 1}}),
        json!({"set": {"/a": {long.clone(): 1}}}),
        json!({"add": {"": 1}}),
        json!({"members": {"": {"add": ["x"]}}}),
        json!({"members": {"/a": {"add": [long]}}}),
        json!({"remove": ["a/b"]}),
    ] {
        assert_eq!(node.patch("/v1/shop/maps/m", &patch.to_string()).await.ok(400).code(), "bad_path", "{patch}");
    }
    assert_eq!(node.get("/v1/shop/_keys").await.json()["keys"], json!([]), "a refused request changed nothing");
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there_say_so() {
    let node = Node::start().await;
    for target in
        ["/", "/v1", "/v1/shop", "/v1/shop/registers", "/v1/shop/registers/k/x", "/v1/shop/_nothing", "/readyz/"]
    {
        assert_eq!(node.get(target).await.ok(404).code(), "not_found", "{target}");
    }
    for (method, target, allow) in [
        (Method::POST, "/v1/shop/registers/k", "GET,HEAD,PUT,DELETE"),
        (Method::PUT, "/v1/shop/counters/k", "GET,HEAD,POST,DELETE"),
        (Method::PUT, "/v1/shop/sets/k", "GET,HEAD,POST,DELETE"),
        (Method::DELETE, "/v1/shop/sets/k/m", "GET,HEAD"),
        (Method::PUT, "/v1/shop/sets/k/", "GET,HEAD"),
        (Method::POST, "/v1/shop/maps/k", "GET,HEAD,PATCH,DELETE"),
        (Method::PATCH, "/v1/shop/flags/k", "GET,HEAD,PUT,DELETE"),
        (Method::GET, "/v1/shop/_batch", "POST"),
        (Method::POST, "/v1/shop/_keys", "GET,HEAD"),
        (Method::POST, "/readyz", "GET,HEAD"),
        (Method::OPTIONS, "/healthz", "GET,HEAD"),
        (Method::from_bytes(b"BREW").unwrap(), "/healthz", "GET,HEAD"),
    ] {
        let answer = node.send(method.clone(), target, &[], "").await.ok(405);
        assert_eq!((answer.code(), answer.header("allow")), ("method_not_allowed", allow), "{method} {target}");
    }
}

#[tokio::test]
async fn what_the_contract_reserves_is_not_supported_and_never_ignored() {
    let node = Node::start().await;
    for (method, target, headers) in [
        (Method::GET, "/v1/shop/docs/k", &[][..]),
        (Method::PUT, "/v1/shop/docs/k", &[]),
        (Method::POST, "/v1/shop/docs/k/splice", &[]),
        (Method::GET, "/v1/shop/_watch", &[]),
        (Method::POST, "/v1/shop/_read", &[]),
        (Method::GET, "/v1/shop/_keys?type=docs", &[]),
        (Method::GET, "/v1/shop/counters/k?consistency=bounded&max_stale=1s", &[]),
        (Method::GET, "/v1/shop/counters/k?consistency=bounded", &[]),
        (Method::GET, "/v1/shop/counters/k?max_stale=1s", &[]),
        (Method::PUT, "/v1/shop/registers/k", &[("idempotency-key", "1")]),
        (Method::POST, "/v1/shop/_batch", &[("idempotency-key", "1")]),
    ] {
        let answer = node.send(method.clone(), target, headers, "").await.ok(501);
        assert_eq!(answer.code(), "not_supported", "{method} {target}");
    }
    let docs = r#"{"ops":[{"type":"docs","key":"k","put":{}}]}"#;
    assert_eq!(node.post("/v1/shop/_batch", docs).await.ok(501).code(), "not_supported");
}

#[tokio::test]
async fn parameters_that_are_wrong_or_unknown_are_refused_before_anything_is_done() {
    let node = Node::start().await;
    for target in [
        "/v1/shop/registers/k?siblings=some",
        "/v1/shop/registers/k?w=local",
        "/v1/shop/registers/k?wait=31s",
        "/v1/shop/registers/k?wait=soon",
        "/v1/shop/registers/k?wait=1s&wait=1s",
        "/v1/shop/registers/k?consistency=strong",
        "/v1/shop/registers/k?limit=1",
        "/v1/shop/sets/k?limit=0",
        "/v1/shop/sets/k?limit=10001",
        "/v1/shop/sets/k?after=%21",
        "/v1/shop/sets/k?after=_w",
        "/v1/shop/maps/k?paht=/a",
        "/v1/shop/_keys?prefix=%f",
        "/readyz?max_lag=5",
        "/healthz?verbose",
        "/openapi.json?pretty=1",
    ] {
        assert_eq!(node.get(target).await.ok(400).code(), "bad_parameter", "{target}");
    }
    for parameters in ["w=2", "w=0", "w=most", "w=65536", "wtimeout=1", "wtimeout=11m", "consistency=session", "sync=1"]
    {
        let target = format!("/v1/shop/counters/c?{parameters}");
        assert_eq!(node.post(&target, r#"{"add":1}"#).await.ok(400).code(), "bad_parameter", "{target}");
    }
    for content_type in ["\u{e9}".to_owned(), "a".repeat(256)] {
        let headers = [("content-type", content_type.as_str())];
        let answer = node.send(Method::PUT, "/v1/shop/registers/k", &headers, "v").await.ok(400);
        assert_eq!(answer.code(), "bad_parameter");
    }
    assert_eq!(node.get("/v1/shop/_keys").await.json()["keys"], json!([]));
}

#[tokio::test]
async fn bodies_and_headers_that_do_not_read_are_malformed() {
    let node = Node::start().await;
    for body in [
        "",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"add":"1"}"#,
        r#"{"add":1.0}"#,
        r#"{"add":1e3}"#,
        r#"{"add":9223372036854775808}"#,
        r#"{"add":1,"add":2}"#,
        r#"{"add":1,"more":2}"#,
        r#"{"add":1}x"#,
    ] {
        assert_eq!(node.post("/v1/shop/counters/c", body).await.ok(400).code(), "malformed", "{body}");
    }
    for body in [r#"{"add":["a"],"ad":[]}"#, r#"{"add":[1]}"#, r#"{"add":"a"}"#, r#"["a"]"#, "{\"add\":[\"\u{0}\"]}"] {
        assert_eq!(node.post("/v1/shop/sets/s", body).await.ok(400).code(), "malformed", "{body}");
    }
    for body in [
        r#"{"set":{"/a":1e999}}"#,
        r#"{"sett":{}}"#,
        r#"{"add":{"/a":1.5}}"#,
        &format!(r#"{{"set":{{"/a":{}"#, "[".repeat(10_000)),
    ] {
        assert_eq!(node.patch("/v1/shop/maps/m", body).await.ok(400).code(), "malformed");
    }
    for body in [r#"{"enabled":1}"#, r#"{"enabled":null}"#, r#"{}"#] {
        assert_eq!(node.put("/v1/shop/flags/f", body).await.ok(400).code(), "malformed", "{body}");
    }
    let register = json!({"ops": [{"type": "registers", "key": "k", "put": {"value": "v", "content_type": "a\nb"}}]});
    assert_eq!(node.post("/v1/shop/_batch", &register.to_string()).await.ok(400).code(), "malformed");
    let not_utf8 = node.send(Method::POST, "/v1/shop/sets/s", &[], b"{\"add\":[\"\xff\"]}".to_vec()).await;
    assert_eq!(not_utf8.ok(400).code(), "malformed");
    let context = node.get("/v1/shop/counters/c").await.header("atoll-context").to_owned();
    let token = node.get("/v1/shop/counters/c").await.header("atoll-token").to_owned();
    let foreign = crate::app::Tokens::of_cluster("bank").token(&atoll_crdt::VersionVector::new());
    for (name, value) in [
        ("atoll-token", "garbage"),
        ("atoll-token", ""),
        ("atoll-token", context.as_str()),
        ("atoll-token", foreign.as_str()),
        ("atoll-context", "garbage"),
        ("atoll-context", token.as_str()),
    ] {
        let answer = node.send(Method::POST, "/v1/shop/counters/c", &[(name, value)], r#"{"add":1}"#).await.ok(400);
        assert_eq!(answer.code(), "malformed", "{name}: {value}");
    }
    let read = node.send(Method::GET, "/v1/shop/counters/c", &[("atoll-token", "garbage")], "").await.ok(400);
    assert_eq!(read.code(), "malformed");
    assert_eq!(node.get("/v1/shop/_keys").await.json()["keys"], json!([]));
}

#[tokio::test]
async fn op_of_a_batch_that_is_refused_is_named_by_its_place() {
    let node = Node::start().await;
    for (op, code) in [
        (json!({"type": "nothing", "key": "k", "add": 1}), "bad_type"),
        (json!({"type": "sets", "key": "", "add": []}), "bad_key"),
        (json!({"type": "sets", "key": "k", "add": ["m".repeat(1_025)]}), "bad_path"),
        (json!({"type": "maps", "key": "k", "set": {"a": 1}}), "bad_path"),
        (json!({"type": "flags", "key": "k"}), "malformed"),
        (json!({"type": "registers", "key": "k", "put": {"value": "v".repeat((1 << 20) + 1)}}), "too_large"),
    ] {
        let batch = json!({"ops": [{"type": "flags", "key": "f", "enabled": true}, op]});
        let answer = node.post("/v1/shop/_batch", &batch.to_string()).await;
        assert_eq!(answer.code(), code);
        assert!(answer.json()["detail"].as_str().unwrap().starts_with("op 1: "), "{answer:?}");
    }
    node.get("/v1/shop/flags/f").await.ok(404);
}

#[tokio::test]
async fn json_is_taken_as_json_or_unsaid_and_as_nothing_else() {
    let node = Node::start().await;
    for content_type in ["application/json", "Application/JSON; charset=utf-8", "application/x-www-form-urlencoded"] {
        let headers = [("content-type", content_type)];
        node.send(Method::POST, "/v1/shop/counters/c", &headers, r#"{"add":1}"#).await.ok(200);
    }
    for headers in [&[("content-type", "text/plain")][..], &[("content-type", "application/xml")]] {
        for (method, target) in [
            (Method::POST, "/v1/shop/counters/c"),
            (Method::POST, "/v1/shop/sets/s"),
            (Method::PATCH, "/v1/shop/maps/m"),
            (Method::PUT, "/v1/shop/flags/f"),
            (Method::POST, "/v1/shop/_batch"),
        ] {
            let answer = node.send(method, target, headers, "{}").await.ok(415);
            assert_eq!(answer.code(), "unsupported_media_type");
        }
    }
    assert_eq!(node.get("/v1/shop/counters/c").await.json(), json!({"value": 3}));
}

#[tokio::test]
async fn web_page_may_not_write_where_no_token_is_asked_for() {
    let node = Node::start().await;
    let page = [("origin", "https://elsewhere.example")];
    for (method, target, body) in [
        (Method::POST, "/v1/shop/counters/c", r#"{"add":1}"#),
        (Method::PUT, "/v1/shop/registers/k", "v"),
        (Method::DELETE, "/v1/shop/registers/k", ""),
        (Method::POST, "/v1/shop/_batch", r#"{"ops":[]}"#),
    ] {
        assert_eq!(node.send(method, target, &page, body).await.ok(403).code(), "forbidden", "{target}");
    }
    assert_eq!(node.send(Method::GET, "/v1/shop/_keys", &page, "").await.ok(200).json()["keys"], json!([]));
    // Where a token is asked for, a page that shows one was given it; a form cannot show one, and is not JSON either.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    std::fs::write(&file, "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b").unwrap();
    let gate = Gate::at(Ipv4Addr::UNSPECIFIED.into(), Some(&Tokens::load(&file).unwrap()));
    let router = crate::api::router(&node.shared, gate, "http");
    let shown = [("origin", "https://ours.example"), ("authorization", "Bearer secret")];
    let form = [&shown[..], &[("content-type", "application/x-www-form-urlencoded")]].concat();
    for (headers, status) in [(&shown[..], 200), (&form, 415)] {
        let at = "/v1/shop/counters/c";
        crate::api::testing::send(&router, Method::POST, at, headers, r#"{"add":1}"#).await.ok(status);
    }
}

#[tokio::test]
async fn probes_are_answered_however_much_there_is_to_do() {
    let limits = Limits { requests_in_flight: 1, ..Limits::default() };
    let node = Node::with(Setup { limits, ..Setup::default() }).await;
    let none = Limits { requests_in_flight: 0, ..limits };
    let shared = crate::api::Shared::new(Arc::clone(node.shared.app()), Arc::clone(node.shared.metrics()), none);
    let router = crate::api::router(&shared, Gate::at(Ipv4Addr::LOCALHOST.into(), None), "http");
    let ask = |target: &'static str| crate::api::testing::send(&router, Method::GET, target, &[], "");
    ask("/v1/shop/_keys").await.ok(503);
    ask("/healthz").await.ok(200);
    ask("/readyz").await.ok(200);
}

#[tokio::test]
async fn what_is_larger_than_its_bound_is_refused() {
    let node = Node::start().await;
    let mib = 1 << 20;
    node.send(Method::PUT, "/v1/shop/registers/k", &[], vec![0; mib]).await.ok(204);
    let answer = node.send(Method::PUT, "/v1/shop/registers/k", &[], vec![0; mib + 1]).await.ok(413);
    assert_eq!(answer.code(), "too_large");
    // Nothing says how long it is: it is cut off where it is too long.
    let endless = Body::from_stream(futures_util::stream::repeat_with(|| {
        Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 65_536]))
    }));
    assert_eq!(node.send(Method::POST, "/v1/shop/counters/c", &[], endless).await.ok(413).code(), "too_large");
    let spaces = format!("{}{}", " ".repeat(4 * mib), r#"{"add":1}"#);
    assert_eq!(node.post("/v1/shop/counters/c", &spaces).await.ok(413).code(), "too_large");
    let leaf = json!({"set": {"/a": "x".repeat(mib)}});
    assert_eq!(node.patch("/v1/shop/maps/m", &leaf.to_string()).await.ok(413).code(), "too_large");
    let members: Vec<String> = (0..70_000).map(|n| n.to_string()).collect();
    assert_eq!(node.post("/v1/shop/sets/s", &json!({"add": members}).to_string()).await.ok(413).code(), "too_large");
    node.get("/v1/shop/sets/s").await.ok(404);
    let nested: serde_json::Map<_, _> = members.into_iter().map(|member| (member, json!(0))).collect();
    let many = json!({"set": {"/a": nested}}).to_string();
    assert_eq!(node.patch("/v1/shop/maps/m", &many).await.ok(413).code(), "too_large");
}

#[tokio::test]
async fn map_larger_than_an_answer_is_read_in_parts() {
    let node = Node::start().await;
    for n in 0..6 {
        let patch = json!({"set": {format!("/{n}"): "x".repeat((1 << 20) - 2)}});
        node.patch("/v1/shop/maps/m", &patch.to_string()).await.ok(204);
    }
    let whole = node.get("/v1/shop/maps/m").await.ok(413);
    assert_eq!(whole.code(), "too_large");
    assert!(whole.json()["detail"].as_str().unwrap().contains("?path="));
    assert_eq!(node.get("/v1/shop/maps/m?path=/3").await.ok(200).body.len(), 1 << 20);
}

#[tokio::test]
async fn siblings_larger_than_an_answer_are_refused_and_the_winner_still_reads() {
    let node = Node::start().await;
    let nothing = node.get("/v1/shop/registers/k").await.header("atoll-context").to_owned();
    for _ in 0..5 {
        let saw_nothing = [("atoll-context", nothing.as_str())];
        node.send(Method::PUT, "/v1/shop/registers/k", &saw_nothing, vec![0; 1 << 20]).await.ok(204);
    }
    assert_eq!(node.get("/v1/shop/registers/k?siblings=all").await.ok(413).code(), "too_large");
    assert_eq!(node.get("/v1/shop/registers/k").await.ok(200).header("atoll-siblings"), "5");
}

#[tokio::test]
async fn body_that_does_not_arrive_is_given_up_and_one_that_breaks_off_is_refused() {
    let limits = Limits { body_timeout: Duration::from_millis(50), ..Limits::default() };
    let node = Node::with(Setup { limits, ..Setup::default() }).await;
    let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    let late = node.send(Method::PUT, "/v1/shop/registers/k", &[], never).await.ok(400);
    assert_eq!(late.code(), "malformed");
    let error = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let broken = Body::from_stream(futures_util::stream::iter([Ok(Bytes::from_static(b"v")), Err(error)]));
    let broken = node.send(Method::PUT, "/v1/shop/registers/k", &[], broken).await.ok(400);
    assert_eq!(broken.code(), "malformed");
    node.get("/v1/shop/registers/k").await.ok(404);
}

#[tokio::test]
async fn requests_and_their_bytes_are_bounded_in_number() {
    let limits = Limits { requests_in_flight: 1, ..Limits::default() };
    let node = Arc::new(Node::with(Setup { limits, ..Setup::default() }).await);
    let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    let stuck = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.send(Method::PUT, "/v1/shop/registers/k", &[], never).await }
    });
    let metrics = node.shared.metrics();
    while !metrics.encode().unwrap().contains("atoll_requests_in_flight 1") {
        tokio::task::yield_now().await;
    }
    assert_eq!(node.get("/v1/shop/registers/k").await.ok(503).code(), "overloaded");
    stuck.abort();
    let _ = stuck.await;
    node.get("/v1/shop/registers/k").await.ok(404);

    let limits = Limits { request_bytes_in_flight: 1 << 20, ..Limits::default() };
    let node = Node::with(Setup { limits, ..Setup::default() }).await;
    node.send(Method::PUT, "/v1/shop/registers/k", &[], vec![0; 1 << 20]).await.ok(204);
    // JSON takes up several times its size while it is worked on.
    for (kib, status) in [(100, 200), (200, 503)] {
        let padded = format!(r#"{}{{"add":1}}"#, " ".repeat(kib << 10));
        node.post("/v1/shop/counters/c", &padded).await.ok(status);
    }
    let unknown_length = Body::from_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::new())]));
    let refused = node.send(Method::POST, "/v1/shop/counters/c", &[], unknown_length).await.ok(503);
    assert_eq!(refused.code(), "overloaded");
}

#[tokio::test]
async fn listener_beyond_loopback_answers_those_who_show_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    std::fs::write(&file, "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\n").unwrap();
    let gate = Gate::at(Ipv4Addr::UNSPECIFIED.into(), Some(&Tokens::load(&file).unwrap()));
    let inside = Node::start().await;
    let router = crate::api::router(&inside.shared, gate, "http");
    let send = |headers: &'static [(&'static str, &'static str)], target: &'static str| {
        crate::api::testing::send(&router, Method::GET, target, headers, "")
    };
    for target in ["/v1/shop/_keys", "/v1/shop/registers/k", "/openapi.json", "/nothing", "/v1/Bad/registers/k"] {
        let refused = send(&[], target).await.ok(401);
        assert_eq!((refused.code(), refused.header("www-authenticate")), ("unauthenticated", "Bearer"), "{target}");
        assert_eq!(send(&[("authorization", "Bearer wrong")], target).await.ok(401).code(), "unauthenticated");
    }
    send(&[("authorization", "Bearer secret")], "/v1/shop/_keys").await.ok(200);
    send(&[], "/healthz").await.ok(200);
    send(&[], "/readyz").await.ok(200);
}

#[tokio::test]
async fn request_id_is_the_clients_if_it_is_harmless() {
    let node = Node::start().await;
    let id = async |brought: &str| {
        let headers = [("x-request-id", brought)];
        node.send(Method::GET, "/v1/shop/registers/k", &headers, "").await.header("x-request-id").to_owned()
    };
    assert_eq!(id("trace-1.a:b_c").await, "trace-1.a:b_c");
    for bad in ["", "a b", "\u{e9}", "<script>", &"x".repeat(65)] {
        assert_ne!(id(bad).await, bad);
    }
    assert_ne!(id("").await, id("").await);
}
