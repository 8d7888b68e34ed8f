//! Tokens, contexts, write levels, staleness.

use crate::api::testing::{FORMER, Node, Setup};
use crate::app::{RegionFreshness, Tokens};
use atoll_crdt::{ActorId, Dot, VersionVector};
use atoll_replication::{Readiness, RegionName};
use http::Method;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const THREE: [&str; 3] = ["eu-west-1", "us-east-1", "ap-southeast-1"];

async fn of_three_regions() -> Node {
    Node::with(Setup { regions: THREE.to_vec(), ..Setup::default() }).await
}

fn token_of(actor: ActorId, seq: u64) -> String {
    Tokens::of_cluster("shop").token(&VersionVector::from_iter([Dot::new(actor, seq)]))
}

fn vector(token: &str) -> VersionVector {
    Tokens::of_cluster("shop").read_token(token.as_bytes()).unwrap()
}

#[tokio::test]
async fn token_grows_with_every_answer_and_covers_what_was_brought() {
    let node = Node::start().await;
    let first = node.post("/v1/shop/counters/c", r#"{"add": 1}"#).await.ok(200);
    let second = node.post("/v1/shop/counters/c", r#"{"add": 1}"#).await.ok(200);
    let (first, second) = (vector(first.header("atoll-token")), vector(second.header("atoll-token")));
    assert!(first.leq(&second) && first != second);
    let foreign = token_of(ActorId::new(9), 5);
    let brought = [("atoll-token", foreign.as_str())];
    let read = node.send(Method::GET, "/v1/shop/counters/c?consistency=eventual", &brought, "").await.ok(200);
    let mut expected = second;
    expected.join(&vector(&foreign));
    assert_eq!(vector(read.header("atoll-token")), expected);
    assert!(node.get("/v1/shop/counters/none").await.ok(404).headers.contains_key("atoll-token"));
}

#[tokio::test]
async fn read_that_this_node_has_not_seen_waits_and_then_says_how_far_behind_it_is() {
    let node = of_three_regions().await;
    let foreign = token_of(ActorId::new(9), 1);
    let brought = [("atoll-token", foreign.as_str())];
    for target in ["/v1/shop/counters/c?wait=1ms", "/v1/shop/_keys?wait=0ms", "/v1/shop/sets/s/m?wait=1ms"] {
        let behind = node.send(Method::GET, target, &brought, "").await.ok(503);
        assert_eq!(behind.code(), "session_behind");
        let lag = behind.header("atoll-lag");
        assert!(lag.starts_with("us-east-1=") && lag.contains(",ap-southeast-1="), "{lag}");
    }
    let written = node.send(Method::POST, "/v1/shop/counters/c?wait=1ms", &brought, r#"{"add":1}"#).await.ok(503);
    assert_eq!(written.code(), "session_behind");
    assert!(written.header("atoll-lag").contains("us-east-1="));
    assert_eq!(node.get("/v1/shop/counters/c").await.ok(404).code(), "not_found", "a refused write changed nothing");
}

#[tokio::test]
async fn read_that_waits_is_answered_as_soon_as_this_node_has_seen_enough() {
    let node = Arc::new(Node::start().await);
    let next = vector(node.put("/v1/shop/flags/f", r#"{"enabled":true}"#).await.ok(204).header("atoll-token"));
    let actor = next.iter().next().unwrap().actor;
    let token = token_of(actor, next.get(actor) + 1);
    let reading = tokio::spawn({
        let node = Arc::clone(&node);
        async move {
            let brought = [("atoll-token", token.as_str())];
            node.send(Method::GET, "/v1/shop/counters/c?wait=30s", &brought, "").await
        }
    });
    while node.views.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    node.post("/v1/shop/counters/c", r#"{"add": 3}"#).await.ok(200);
    assert_eq!(reading.await.unwrap().ok(200).json(), json!({"value": 3}));
}

#[tokio::test]
async fn write_that_nobody_holds_any_more_is_lost_and_not_waited_for_again() {
    let node = Node::start().await;
    let token = token_of(FORMER, 7);
    let brought = [("atoll-token", token.as_str())];
    let read = node.send(Method::GET, "/v1/shop/counters/c?wait=1ms", &brought, "").await.ok(410);
    assert_eq!(read.code(), "session_write_lost");
    let write = node.send(Method::POST, "/v1/shop/counters/c?wait=1ms", &brought, r#"{"add":1}"#).await.ok(410);
    assert_eq!(write.code(), "session_write_lost");
}

#[tokio::test]
async fn write_level_that_is_not_reached_in_time_is_told_and_the_write_stands() {
    let node = of_three_regions().await;
    for (w, acked) in [("2", "1/2"), ("majority", "1/2"), ("3", "1/3"), ("all", "1/3")] {
        let target = format!("/v1/shop/counters/{w}?w={w}&wtimeout=1ms");
        let written = node.post(&target, r#"{"add": 4}"#).await.ok(202);
        assert_eq!((written.header("atoll-acked"), written.json()), (acked, json!({"value": 4})));
        assert_eq!(node.get(&format!("/v1/shop/counters/{w}")).await.json(), json!({"value": 4}));
    }
    let silent = node.put("/v1/shop/registers/k?w=all&wtimeout=1ms", "v").await.ok(202);
    assert_eq!((silent.body.len(), silent.header("atoll-acked")), (0, "1/3"));
    for w in ["local", "1"] {
        let written = node.post(&format!("/v1/shop/counters/c?w={w}&wtimeout=1ms"), r#"{"add": 1}"#).await.ok(200);
        assert!(!written.headers.contains_key("atoll-acked"));
    }
    let lonely = Node::start().await;
    for w in ["majority", "all", "1"] {
        lonely.put(&format!("/v1/shop/registers/k?w={w}&wtimeout=1ms"), "v").await.ok(204);
    }
}

#[tokio::test]
async fn staleness_is_the_age_of_the_data_until_every_region_has_answered() {
    let node = of_three_regions().await;
    node.tell(|snapshot| snapshot.founded_ms = crate::clock::wall_ms() - 5_000);
    let staleness = |answer: &crate::api::testing::Answer| answer.header("atoll-staleness-ms").parse::<u64>().unwrap();
    let unknown = staleness(&node.get("/v1/shop/counters/c").await);
    assert!((5_000..60_000).contains(&unknown), "{unknown}");
    node.status.publish_freshness(Some(node.status.now()));
    let known = staleness(&node.get("/v1/shop/counters/c").await);
    assert!(known < 5_000, "{known}");
}

#[tokio::test]
async fn node_that_is_not_ready_says_why_and_answers_when_it_is() {
    let node = of_three_regions().await;
    assert_eq!(node.get("/readyz").await.ok(200).json(), json!({"ready": true}));
    assert_eq!(&node.get("/healthz").await.ok(200).body[..], b"ok\n");
    node.tell(|snapshot| snapshot.readiness = Readiness::Joining { percent: 42 });
    let not_yet = node.get("/readyz").await.ok(503);
    assert_eq!(not_yet.json(), json!({"ready": false, "reasons": ["bootstrapping 42%"]}));
    assert_eq!(not_yet.header("retry-after"), "1");
    node.get("/healthz").await.ok(200);
    assert_eq!(node.get("/v1/shop/counters/c").await.ok(503).code(), "not_ready");
    assert_eq!(node.post("/v1/shop/counters/c", r#"{"add":1}"#).await.ok(503).code(), "not_ready");
    node.tell(|snapshot| {
        let region = RegionName::new("us-east-1").unwrap();
        snapshot.readiness = Readiness::Serving;
        snapshot.founded_ms = 0;
        snapshot.regions = vec![RegionFreshness { region, as_of: None }];
    });
    node.get("/readyz").await.ok(200);
    let reasons = node.get("/readyz?max_lag=5s").await.ok(503).json()["reasons"].clone();
    assert_eq!(reasons, json!(["us-east-1 has not answered yet"]));
    let now = node.status.now();
    node.tell(|snapshot| snapshot.regions[0].as_of = Some(now));
    node.get("/readyz?max_lag=1h").await.ok(200);
}

#[tokio::test]
async fn drained_node_answers_reads_and_refuses_writes() {
    let node = Node::start().await;
    node.put("/v1/shop/registers/k", "v").await.ok(204);
    node.status.drain();
    for answer in [
        node.put("/v1/shop/registers/k", "w").await,
        node.post("/v1/shop/_batch", r#"{"ops":[]}"#).await,
        node.delete("/v1/shop/registers/k").await,
    ] {
        assert_eq!(answer.ok(503).code(), "draining");
    }
    assert_eq!(&node.get("/v1/shop/registers/k").await.ok(200).body[..], b"v");
    assert_eq!(node.get("/readyz").await.ok(503).json()["reasons"], json!(["draining"]));
}

#[tokio::test]
async fn store_that_takes_no_writes_is_told_from_other_refusals() {
    let node = Node::start().await;
    node.tell(|snapshot| snapshot.read_only = Some("the disk is full".into()));
    assert_eq!(node.put("/v1/shop/registers/k", "w").await.ok(503).code(), "store_read_only");
    node.get("/v1/shop/_keys").await.ok(200);
}

#[tokio::test]
async fn node_whose_clock_stepped_back_refuses_what_clocks_decide() {
    let node = Node::start().await;
    node.wall_shift_ms.store(-60_000, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(node.put("/v1/shop/registers/k", "v").await.ok(503).code(), "clock_skew");
    node.wall_shift_ms.store(0, std::sync::atomic::Ordering::Relaxed);
    node.put("/v1/shop/registers/k", "v").await.ok(204);
}

#[tokio::test]
async fn waiting_is_bounded_in_time_and_in_number() {
    let node = Arc::new(Node::with(Setup { waiting_reads: 1, ..Setup::default() }).await);
    let token = token_of(ActorId::new(9), 1);
    let waiting = tokio::spawn({
        let (node, token) = (Arc::clone(&node), token.clone());
        async move {
            let brought = [("atoll-token", token.as_str())];
            node.send(Method::GET, "/v1/shop/counters/c?wait=30s", &brought, "").await
        }
    });
    while node.views.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let brought = [("atoll-token", token.as_str())];
    let one_more = node.send(Method::GET, "/v1/shop/counters/c?wait=30s", &brought, "").await.ok(503);
    assert_eq!(one_more.code(), "overloaded");
    waiting.abort();

    let replica = atoll_replication::Limits { waiting_writes: 1, ..Default::default() };
    let node = Arc::new(Node::with(Setup { replica, ..Setup::default() }).await);
    let waiting = tokio::spawn({
        let (node, token) = (Arc::clone(&node), token.clone());
        async move {
            let brought = [("atoll-token", token.as_str())];
            node.send(Method::PUT, "/v1/shop/flags/f?wait=30s", &brought, r#"{"enabled":true}"#).await
        }
    });
    let refused = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let answer = node.put("/v1/shop/flags/g", r#"{"enabled":true}"#).await;
            if answer.status != 204 {
                return answer;
            }
        }
    });
    assert_eq!(refused.await.unwrap().ok(503).code(), "overloaded");
    waiting.abort();
}
