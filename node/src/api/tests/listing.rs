//! Pages of keys.

use crate::api::testing::Node;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

async fn all(node: &Node, query: &str) -> (Vec<Value>, usize) {
    let (mut keys, mut pages, mut after) = (Vec::new(), 0, String::new());
    loop {
        let page = node.get(&format!("/v1/shop/_keys?{query}{after}")).await.ok(200).json();
        keys.extend(page["keys"].as_array().unwrap().clone());
        pages += 1;
        assert!(pages < 1_000, "the listing ends");
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return (keys, pages),
        }
    }
}

fn key(data_type: &str, key: &str) -> Value {
    json!({"type": data_type, "key": key})
}

/// Fills a namespace with something of every kind that is, was, or never was shown.
async fn fill(node: &Node) {
    for (name, bytes) in [("a", "1"), ("a%2Fb", "2"), ("a%00", "3"), ("b", "4")] {
        node.put(&format!("/v1/shop/registers/{name}"), bytes).await.ok(204);
    }
    node.delete("/v1/shop/registers/b").await.ok(204);
    for name in ["visits", "gone"] {
        node.post(&format!("/v1/shop/counters/{name}"), r#"{"add": 1}"#).await.ok(200);
    }
    // What stays of a deleted counter is a marker that nobody is shown.
    node.delete("/v1/shop/counters/gone").await.ok(204);
    let members: Vec<String> = (0..100).map(|n| format!("\"{n}\"")).collect();
    for name in ["cart", "emptied", "z"] {
        node.post(&format!("/v1/shop/sets/{name}"), &format!(r#"{{"add":[{}]}}"#, members.join(","))).await.ok(200);
    }
    node.delete("/v1/shop/sets/emptied").await.ok(204);
    node.patch("/v1/shop/maps/only-counter", r#"{"add": {"/n": 1}}"#).await.ok(204);
    node.delete("/v1/shop/maps/only-counter").await.ok(204);
    node.patch("/v1/shop/maps/user", r#"{"set": {"/a": {"b": 1, "c": 2}}, "add": {"/n": 1}, "remove": ["/n"]}"#)
        .await
        .ok(204);
    node.put("/v1/shop/flags/off", r#"{"enabled": false}"#).await.ok(204);
    node.put("/v1/shopping/flags/other", r#"{"enabled": true}"#).await.ok(204);
}

#[tokio::test]
async fn keys_are_those_that_a_read_would_find_in_order_of_type_and_key() {
    let node = Node::start().await;
    assert_eq!(all(&node, "").await.0, Vec::<Value>::new());
    fill(&node).await;
    let expected = [
        key("registers", "a"),
        key("registers", "a\0"),
        key("registers", "a/b"),
        key("counters", "visits"),
        key("sets", "cart"),
        key("sets", "z"),
        key("maps", "user"),
        key("flags", "off"),
    ];
    assert_eq!(all(&node, "").await, (expected.to_vec(), 1));
    for limit in 1..=9 {
        let (keys, pages) = all(&node, &format!("limit={limit}")).await;
        assert_eq!(keys, expected, "{limit}");
        assert_eq!(pages, expected.len().div_ceil(limit), "a page that ends the listing says so");
    }
    assert_eq!(all(&node, "type=sets&limit=1").await.0, expected[4..6]);
    assert_eq!(all(&node, "type=sets&prefix=ca").await.0, expected[4..5]);
    assert_eq!(all(&node, "prefix=a&limit=1").await.0, expected[..3]);
    assert_eq!(all(&node, "prefix=a%00").await.0, expected[1..2]);
    assert_eq!(all(&node, "prefix=nothing").await.0, Vec::<Value>::new());
}

#[tokio::test]
async fn cursor_of_another_listing_seeks_within_this_one_and_nowhere_else() {
    let node = Node::start().await;
    fill(&node).await;
    let next = node.get("/v1/shop/_keys?limit=4").await.json()["next"].as_str().unwrap().to_owned();
    // It stood among the sets: of registers none follow, in another namespace those of later types do.
    let page = |target: String| {
        let node = &node;
        async move { node.get(&target).await.ok(200).json()["keys"].clone() }
    };
    assert_eq!(page(format!("/v1/shop/_keys?type=registers&after={next}")).await, json!([]));
    assert_eq!(page(format!("/v1/shopping/_keys?after={next}")).await, json!([key("flags", "other")]));
    for hostile in [&[0, 0xff, 0xff][..], &[1, 0, 0], &[2], b"\x02cart\0", b"\x04off\0\x01", &[3, 0xff, 1, 2]] {
        let hostile = URL_SAFE_NO_PAD.encode(hostile);
        for keys in page(format!("/v1/shop/_keys?after={hostile}")).await.as_array().unwrap() {
            assert!(keys["key"] != "other", "{hostile}");
        }
    }
    for bad in ["", "BQ", "!", "a"] {
        let refused = node.get(&format!("/v1/shop/_keys?after={bad}")).await.ok(400);
        assert_eq!(refused.code(), "bad_parameter", "{bad}");
    }
}

#[tokio::test]
async fn page_of_long_names_ends_before_it_is_larger_than_an_answer() {
    let node = Node::start().await;
    let long = |n: usize| format!("{n:04}{}", "\u{1}".repeat(1_020));
    for batch in 0..4 {
        let ops: Vec<Value> =
            (0..250).map(|n| json!({"type": "flags", "key": long(batch * 250 + n), "enabled": true})).collect();
        node.post("/v1/shop/_batch", &json!({"ops": ops}).to_string()).await.ok(200);
    }
    let first = node.get("/v1/shop/_keys?limit=10000").await.ok(200);
    assert!(first.body.len() < atoll_client::api::limits::MESSAGE_BYTES_MAX, "{}", first.body.len());
    assert!(first.json()["next"].is_string());
    let (keys, pages) = all(&node, "limit=10000").await;
    assert_eq!((keys.len(), pages), (1_000, 2));

    let members: Vec<String> = (0..600).map(long).collect();
    for half in members.chunks(300) {
        node.post("/v1/shop/sets/s", &json!({"add": half}).to_string()).await.ok(200);
    }
    let (mut found, mut after) = (0, String::new());
    loop {
        let page = node.get(&format!("/v1/shop/sets/s?limit=10000{after}")).await.ok(200).json();
        found += page["members"].as_array().unwrap().len();
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(found, 600);
}
