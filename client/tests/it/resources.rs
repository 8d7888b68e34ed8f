//! What each typed method sends, and what it makes of the answers.

use std::time::Duration;

use atoll_client::api::{
    BatchChange, BatchOp, BatchRequest, BatchResult, Consistency, DataType, ErrorCode, Key, MapPatch, Namespace,
    PeerState, SetChange, WriteLevel,
};
use atoll_client::{Acked, Admin, Context, Error, KeysQuery, Options, Page, Session};
use serde_json::{Value, json};

use crate::server::{Answer, Seen, Server, at_once, client, http, soon};

fn names() -> (Namespace, Key) {
    (Namespace::new("shop").unwrap(), Key::new("a/b").unwrap())
}

/// A server that answers everything with `answer`, and a session with it.
async fn answering(answer: impl Fn() -> Answer + Send + Sync + 'static) -> (Server, Session) {
    let server = http(at_once(move |_| answer())).await;
    let session = client().endpoint(server.endpoint()).build().unwrap().session();
    (server, session)
}

fn last(server: &Server) -> Seen {
    server.seen().pop().unwrap()
}

fn last_body(server: &Server) -> Value {
    let seen = last(server);
    assert_eq!(seen.header("content-type"), Some("application/json"));
    serde_json::from_slice(&seen.body).unwrap()
}

#[tokio::test]
async fn register_is_put_read_and_deleted() {
    let (shop, key) = names();
    let (server, session) = answering(|| Answer::status(204)).await;
    let register = session.register(&shop, &key);
    soon(register.put("hello", Some("text/plain"))).await.unwrap();
    let seen = last(&server);
    assert_eq!(seen.line(), "PUT /v1/shop/registers/a%2Fb");
    assert_eq!((seen.header("content-type"), seen.body.as_ref()), (Some("text/plain"), b"hello".as_ref()));
    soon(register.delete()).await.unwrap();
    assert_eq!(last(&server).line(), "DELETE /v1/shop/registers/a%2Fb");

    let (_server, session) = answering(|| {
        Answer::ok(vec![0, 255])
            .header("content-type", "image/x")
            .header("atoll-siblings", "2")
            .header("atoll-context", "c1")
            .header("atoll-region", "eu-west-1")
            .header("atoll-staleness-ms", "40")
    })
    .await;
    let read = soon(session.register(&shop, &key).get()).await.unwrap();
    let value = read.value.unwrap();
    assert_eq!((value.body.as_ref(), value.siblings), ([0, 255].as_ref(), 2));
    assert_eq!(value.content_type.as_deref(), Some("image/x"));
    assert_eq!(read.context.unwrap().as_str(), "c1");
    assert_eq!(read.region.as_deref(), Some("eu-west-1"));
    assert_eq!(read.staleness, Some(Duration::from_millis(40)));
}

#[tokio::test]
async fn siblings_are_read_with_their_origin() {
    let (shop, key) = names();
    let (server, session) =
        answering(|| Answer::ok(r#"{"siblings":[{"value_base64":"aGk=","content_type":"t","region":"r","at":"z"}]}"#))
            .await;
    let read = soon(session.register(&shop, &key).siblings()).await.unwrap();
    assert_eq!(last(&server).line(), "GET /v1/shop/registers/a%2Fb?siblings=all");
    assert_eq!(read.value.unwrap().siblings[0].value, b"hi");
}

#[tokio::test]
async fn context_goes_with_the_write_it_is_given_to() {
    let (shop, key) = names();
    let (server, session) = answering(|| Answer::status(204)).await;
    let context = Context::new("c1").unwrap();
    let handle = session.register(&shop, &key).with_context(context);
    soon(handle.put("v", None)).await.unwrap();
    assert_eq!(last(&server).header("atoll-context"), Some("c1"));
    soon(handle.delete()).await.unwrap();
    assert_eq!(last(&server).header("atoll-context"), Some("c1"));
    soon(session.register(&shop, &key).put("v", None)).await.unwrap();
    assert_eq!(last(&server).header("atoll-context"), None);
    assert!(Context::new("two\r\nlines").is_err());
}

#[tokio::test]
async fn counter_adds_and_reads() {
    let (shop, key) = names();
    let (server, session) = answering(|| Answer::ok(r#"{"value":-5}"#)).await;
    let counter = session.counter(&shop, &key);
    assert_eq!(soon(counter.add(-7)).await.unwrap().value, -5);
    assert_eq!(last(&server).line(), "POST /v1/shop/counters/a%2Fb");
    assert_eq!(last_body(&server), json!({"add": -7}));
    assert_eq!(soon(counter.get()).await.unwrap().value, Some(-5));
}

#[tokio::test]
async fn set_changes_pages_and_asks_for_a_member() {
    let (shop, key) = names();
    let (server, session) = answering(|| Answer::ok(r#"{"members":["m"],"size":3,"next":"cur/1"}"#)).await;
    let set = session.set(&shop, &key);
    let change = SetChange { add: vec!["m".into()], remove: Vec::new() };
    assert_eq!(soon(set.change(&change)).await.unwrap().value, 3);
    assert_eq!(last_body(&server), json!({"add": ["m"]}));
    let page = Page { limit: Some(1), after: Some("cur/0&x".into()) };
    let read = soon(set.members(&page)).await.unwrap().value.unwrap();
    assert_eq!(last(&server).line(), "GET /v1/shop/sets/a%2Fb?limit=1&after=cur/0%26x");
    assert_eq!((read.size, read.next.as_deref()), (3, Some("cur/1")));
    assert!(soon(set.has("a?b")).await.unwrap().value);
    assert_eq!(last(&server).line(), "GET /v1/shop/sets/a%2Fb/a%3Fb");
}

#[tokio::test]
async fn map_patches_and_reads_at_a_path() {
    let (shop, key) = names();
    let (server, session) = answering(|| Answer::ok(r#"{"city":"Paris"}"#)).await;
    let map = session.map(&shop, &key);
    let mut patch = MapPatch::default();
    patch.set.insert("/city".into(), json!("Paris"));
    soon(map.patch(&patch)).await.unwrap();
    assert_eq!(last(&server).line(), "PATCH /v1/shop/maps/a%2Fb");
    assert_eq!(last_body(&server), json!({"set": {"/city": "Paris"}}));
    let read = soon(map.get(Some("/a b"))).await.unwrap();
    assert_eq!(last(&server).line(), "GET /v1/shop/maps/a%2Fb?path=/a%20b");
    assert_eq!(read.value, Some(json!({"city": "Paris"})));
}

#[tokio::test]
async fn flag_is_put_and_read() {
    let (shop, key) = names();
    let (server, session) = answering(|| Answer::ok(r#"{"enabled":false}"#)).await;
    let flag = session.flag(&shop, &key);
    soon(flag.put(true)).await.unwrap();
    assert_eq!(last_body(&server), json!({"enabled": true}));
    assert_eq!(soon(flag.get()).await.unwrap().value, Some(false));
}

#[tokio::test]
async fn batch_sends_its_ops_and_checks_the_number_of_results() {
    let (shop, key) = names();
    let (server, session) = answering(|| Answer::ok(r#"{"results":[{"value":1},{}]}"#)).await;
    let counter = BatchOp { key: key.clone(), change: BatchChange::Counter(1) };
    let delete = BatchOp { key, change: BatchChange::Delete(DataType::Sets) };
    let batch = BatchRequest { ops: vec![counter.clone(), delete] };
    let results = soon(session.batch(&shop, &batch)).await.unwrap().value.results;
    assert_eq!(results, [BatchResult::value(1), BatchResult::DONE]);
    assert_eq!(last(&server).line(), "POST /v1/shop/_batch");
    assert_eq!(
        last_body(&server),
        json!({"ops": [
            {"type": "counters", "key": "a/b", "add": 1},
            {"type": "sets", "key": "a/b", "delete": true},
        ]})
    );
    let too_few = soon(session.batch(&shop, &BatchRequest { ops: vec![counter] })).await;
    assert!(matches!(too_few, Err(Error::Protocol { .. })), "{too_few:?}");
}

#[tokio::test]
async fn keys_are_listed_by_type_and_prefix() {
    let (shop, _) = names();
    let (server, session) = answering(|| Answer::ok(r#"{"keys":[{"type":"sets","key":"cart:1"}],"next":null}"#)).await;
    let query = KeysQuery {
        data_type: Some(DataType::Sets),
        prefix: Some("cart:".into()),
        page: Page { limit: Some(10), after: None },
    };
    let page = soon(session.keys(&shop, &query)).await.unwrap().value;
    assert_eq!(last(&server).line(), "GET /v1/shop/_keys?type=sets&prefix=cart%3A&limit=10");
    assert_eq!(page.keys[0].key, "cart:1");
}

#[tokio::test]
async fn absence_is_none_and_a_missing_route_is_a_refusal() {
    let (shop, key) = names();
    let (_server, session) = answering(|| Answer::problem(404, "not_found").header("atoll-context", "c0")).await;
    let read = soon(session.counter(&shop, &key).get()).await.unwrap();
    assert_eq!(read.value, None);
    assert_eq!(read.context.unwrap().as_str(), "c0");
    assert!(soon(session.register(&shop, &key).get()).await.unwrap().value.is_none());
    assert!(!soon(session.set(&shop, &key).has("m")).await.unwrap().value);

    let (_server, session) = answering(|| Answer::problem(404, "bad_type")).await;
    let refused = soon(session.counter(&shop, &key).get()).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::BadType));
}

#[tokio::test]
async fn write_level_that_timed_out_is_told_with_the_answer() {
    let (shop, key) = names();
    let (_server, session) =
        answering(|| Answer::Reply(202, vec![("atoll-acked", "1/3".into())], r#"{"value":1}"#.into())).await;
    let written = soon(session.counter(&shop, &key).add(1)).await.unwrap();
    assert_eq!((written.value, written.acked), (1, Some(Acked { held: 1, wanted: 3 })));
}

#[tokio::test]
async fn options_go_where_they_mean_something() {
    let (shop, key) = names();
    let (server, session) = answering(|| Answer::ok(r#"{"value":1,"size":1}"#)).await;
    let session = session.with_options(Options {
        write_level: Some(WriteLevel::Majority),
        write_timeout: Some(Duration::from_secs(2)),
        wait: Some(Duration::from_millis(50)),
        consistency: Some(Consistency::Eventual),
    });
    soon(session.counter(&shop, &key).add(1)).await.unwrap();
    assert_eq!(last(&server).target, "/v1/shop/counters/a%2Fb?wait=50ms&w=majority&wtimeout=2s");
    soon(session.counter(&shop, &key).get()).await.unwrap();
    assert_eq!(last(&server).target, "/v1/shop/counters/a%2Fb?wait=50ms&consistency=eventual");
}

#[tokio::test]
async fn readiness_tells_the_reasons() {
    let server = http(at_once(|seen| match seen.target.as_str() {
        "/readyz?max_lag=5s" => {
            Answer::Reply(503, Vec::new(), r#"{"ready":false,"reasons":["bootstrapping 42%"]}"#.into())
        }
        "/readyz" => Answer::ok(r#"{"ready":true}"#),
        "/openapi.json" => Answer::ok(r#"{"openapi":"3.1.0"}"#),
        _ => Answer::status(500),
    }))
    .await;
    let client = client().endpoint(server.endpoint()).build().unwrap();
    assert!(soon(client.readiness(None)).await.unwrap().ready);
    let not_yet = soon(client.readiness(Some(Duration::from_secs(5)))).await.unwrap();
    assert_eq!((not_yet.ready, not_yet.reasons), (false, vec!["bootstrapping 42%".to_owned()]));
    assert!(!soon(client.is_healthy()).await.unwrap());
    assert_eq!(soon(client.openapi()).await.unwrap()["openapi"], "3.1.0");
}

#[tokio::test]
async fn admin_listener_is_read_and_told() {
    let status = r#"{"version":"0.1.0","cluster":"shop","node":"n1","region":"r","actor":"ff",
        "vector":{"ff":3},"durable":{"ff":2},"rows":1,"root":"00","clock_skew_ms":null,
        "peers":[{"node":"n2","region":"q","state":"live","rtt_ms":80,"lag_ms":1,"lag_records":0}]}"#;
    let server = http(at_once(move |seen| match seen.line().as_str() {
        "GET /admin/status" => Answer::ok(status),
        "GET /admin/digest" => Answer::ok(r#"{"root":"00","vector":{"ff":3}}"#),
        "GET /metrics" => Answer::ok("atoll_rows 1\n"),
        "POST /admin/links/n2" | "POST /admin/drain" => Answer::status(204),
        _ => Answer::problem(404, "not_found"),
    }))
    .await;
    let admin = Admin::new(client().endpoint(server.endpoint()).build().unwrap());
    let status = soon(admin.status()).await.unwrap();
    assert_eq!((status.vector["ff"], status.peers[0].state), (3, PeerState::Live));
    assert_eq!(soon(admin.digest()).await.unwrap().root, "00");
    assert_eq!(soon(admin.metrics()).await.unwrap(), "atoll_rows 1\n");
    soon(admin.pause_link("n2", true)).await.unwrap();
    assert_eq!(last_body(&server), json!({"paused": true}));
    soon(admin.drain()).await.unwrap();
    let unknown = soon(admin.pause_link("n9", true)).await.unwrap_err();
    assert_eq!(unknown.code(), Some(ErrorCode::NotFound));
}
