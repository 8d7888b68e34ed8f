//! What the contract's table of resources promises.

use crate::api::testing::Node;
use http::Method;
use serde_json::json;

#[tokio::test]
async fn register_answers_what_was_put_with_its_media_type() {
    let node = Node::start().await;
    let at = "/v1/shop/registers/greeting";
    node.send(Method::PUT, at, &[("content-type", "image/x; a=b")], vec![0_u8, 255, 10]).await.ok(204);
    let read = node.get(at).await.ok(200);
    assert_eq!((&read.body[..], read.header("content-type")), (&[0, 255, 10][..], "image/x; a=b"));
    assert_eq!((read.header("atoll-siblings"), read.header("atoll-region")), ("1", "eu-west-1"));
    assert_eq!(read.header("atoll-staleness-ms"), "0", "there is no other region");
    node.put(at, "").await.ok(204);
    let read = node.get(at).await.ok(200);
    assert_eq!((read.body.len(), read.header("content-type")), (0, "application/octet-stream"));
    let head = node.send(Method::HEAD, at, &[], "").await.ok(200);
    assert_eq!((head.body.len(), head.header("atoll-siblings")), (0, "1"));
    node.delete(at).await.ok(204);
    node.delete(at).await.ok(204);
    assert_eq!(node.get(at).await.ok(404).code(), "not_found");
}

#[tokio::test]
async fn concurrent_values_stay_readable_until_something_that_saw_them_replaces_them() {
    let node = Node::start().await;
    let at = "/v1/shop/registers/k";
    let nothing = node.get(at).await.ok(404);
    let saw_nothing = [("atoll-context", nothing.header("atoll-context")), ("content-type", "text/plain")];
    node.send(Method::PUT, at, &saw_nothing, "one").await.ok(204);
    node.send(Method::PUT, at, &saw_nothing, "two").await.ok(204);
    let read = node.get(at).await.ok(200);
    assert_eq!((&read.body[..], read.header("atoll-siblings")), (&b"two"[..], "2"));
    let all = node.get(&format!("{at}?siblings=all")).await.ok(200);
    assert_eq!(all.header("atoll-siblings"), "2");
    let siblings = all.json()["siblings"].clone();
    assert_eq!((&siblings[0]["value_base64"], &siblings[1]["value_base64"]), (&json!("dHdv"), &json!("b25l")));
    assert_eq!(siblings[0]["content_type"], "text/plain");
    let written_at = siblings[0]["at"].as_str().unwrap();
    assert!(written_at.len() == 24 && written_at.ends_with('Z'), "{written_at}");
    let saw_both = [("atoll-context", read.header("atoll-context"))];
    node.send(Method::PUT, at, &saw_nothing, "three").await.ok(204);
    node.send(Method::PUT, at, &saw_both, "four").await.ok(204);
    let all = node.get(&format!("{at}?siblings=all")).await.ok(200);
    assert_eq!(all.header("atoll-siblings"), "2", "three was not seen by four");
    node.send(Method::DELETE, at, &saw_both, "").await.ok(204);
    assert_eq!(node.get(at).await.header("atoll-siblings"), "2", "what that read showed is gone already");
    node.delete(at).await.ok(204);
    node.get(at).await.ok(404);
}

#[tokio::test]
async fn sibling_names_the_region_that_its_actor_announced() {
    let node = Node::start().await;
    node.put("/v1/shop/registers/k", "v").await.ok(204);
    let region = async |node: &Node| {
        let all = node.get("/v1/shop/registers/k?siblings=all").await.ok(200);
        all.json()["siblings"][0]["region"].clone()
    };
    assert_eq!(region(&node).await, "unknown", "nothing was announced");
    let key = format!("actors/{}", crate::api::testing::ACTOR);
    let key = atoll_crdt::CollectionKey::new("_system", atoll_crdt::DataType::Register, &key).unwrap();
    let bytes = br#"{"node":"n1","region":"eu-west-1"}"#[..].into();
    let put = atoll_replication::Command::RegisterPut { key, content_type: "application/json".into(), bytes };
    let app = node.shared.app();
    app.write(vec![put], crate::app::WriteOptions::default()).await.unwrap();
    assert_eq!(region(&node).await, "eu-west-1");
}

#[tokio::test]
async fn counter_adds_reads_and_deletes_what_was_seen() {
    let node = Node::start().await;
    let at = "/v1/shop/counters/visits";
    assert_eq!(node.get(at).await.ok(404).code(), "not_found");
    assert_eq!(node.post(at, r#"{"add": 5}"#).await.ok(200).json(), json!({"value": 5}));
    assert_eq!(node.post(at, r#"{"add": -5}"#).await.ok(200).json(), json!({"value": 0}));
    let read = node.get(at).await.ok(200);
    assert_eq!(read.json(), json!({"value": 0}), "zero is a value");
    node.post(at, r#"{"add": 7}"#).await.ok(200);
    node.send(Method::DELETE, at, &[("atoll-context", read.header("atoll-context"))], "").await.ok(204);
    assert_eq!(node.get(at).await.ok(200).json(), json!({"value": 7}), "what was added since the read stays");
    node.delete(at).await.ok(204);
    node.get(at).await.ok(404);
    node.post(at, &format!(r#"{{"add": {}}}"#, i64::MAX)).await.ok(200);
    assert_eq!(node.post(at, r#"{"add": 1}"#).await.ok(409).code(), "out_of_range");
    assert_eq!(node.get(at).await.json(), json!({"value": i64::MAX}), "a refused request changed nothing");
}

#[tokio::test]
async fn totals_that_a_counter_showed_cut_no_other_counter() {
    let node = Node::start().await;
    // The one that would be cut is the older: a total cuts what began before it.
    node.post("/v1/shop/counters/b", r#"{"add": 1}"#).await.ok(200);
    node.post("/v1/shop/counters/a", r#"{"add": 100}"#).await.ok(200);
    let shown = node.get("/v1/shop/counters/a").await.ok(200);
    node.post("/v1/shop/counters/b", r#"{"add": 1}"#).await.ok(200);
    let saw_a = [("atoll-context", shown.header("atoll-context"))];
    node.send(Method::DELETE, "/v1/shop/counters/b", &saw_a, "").await.ok(204);
    assert_eq!(node.get("/v1/shop/counters/b").await.json(), json!({"value": 2}));
    let both = r#"{"ops":[{"type":"counters","key":"a","delete":true},{"type":"counters","key":"b","delete":true}]}"#;
    node.send(Method::POST, "/v1/shop/_batch", &saw_a, both).await.ok(200);
    assert_eq!(node.get("/v1/shop/counters/b").await.json(), json!({"value": 2}));
}

#[tokio::test]
async fn set_changes_pages_and_tells_members() {
    let node = Node::start().await;
    let at = "/v1/shop/sets/cart:42";
    assert_eq!(node.get(at).await.ok(404).code(), "not_found");
    assert_eq!(node.post(at, r#"{"add": ["milk", "bread", "", "é", "a/b"]}"#).await.ok(200).json(), json!({"size": 5}));
    assert_eq!(
        node.post(at, r#"{"add": ["eggs"], "remove": ["bread", "nothing", "eggs"]}"#).await.json(),
        json!({"size": 5})
    );
    let all = node.get(at).await.ok(200).json();
    assert_eq!(all, json!({"members": ["", "a/b", "eggs", "milk", "é"], "size": 5, "next": null}));
    let (mut members, mut after) = (Vec::new(), String::new());
    loop {
        let page = node.get(&format!("{at}?limit=2{after}")).await.ok(200).json();
        assert_eq!(page["size"], 5);
        members.extend(page["members"].as_array().unwrap().clone());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(json!(members), all["members"]);
    for (member, status) in [("milk", 204), ("%C3%A9", 204), ("a%2Fb", 204), ("", 204), ("bread", 404)] {
        let answer = node.get(&format!("{at}/{member}")).await.ok(status);
        assert_eq!(answer.header("atoll-region"), "eu-west-1");
    }
    node.post(at, r#"{"remove": ["", "a/b", "eggs", "milk", "é"]}"#).await.ok(200);
    node.get(at).await.ok(404);
    node.post(at, r#"{"add": ["x"]}"#).await.ok(200);
    node.delete(at).await.ok(204);
    node.get(at).await.ok(404);
}

#[tokio::test]
async fn map_is_patched_in_order_and_read_nested_or_at_a_place() {
    let node = Node::start().await;
    let at = "/v1/shop/maps/user:7";
    node.patch(
        at,
        r#"{"set": {"/name": "Ann", "/address": {"city": "Paris", "geo": {"lat": 48.85}}, "/tags": [1, null]}}"#,
    )
    .await
    .ok(204);
    node.patch(at, r#"{"add": {"/visits": 2}, "members": {"/roles": {"add": ["b", "a"], "remove": ["c"]}}}"#)
        .await
        .ok(204);
    let whole = json!({
        "name": "Ann", "address": {"city": "Paris", "geo": {"lat": 48.85}}, "tags": [1, null], "visits": 2,
        "roles": ["a", "b"],
    });
    assert_eq!(node.get(at).await.ok(200).json(), whole);
    for (path, shown) in [
        ("", whole.clone()),
        ("/address", whole["address"].clone()),
        ("/address/city", json!("Paris")),
        ("/visits", json!(2)),
        ("/roles", json!(["a", "b"])),
    ] {
        assert_eq!(node.get(&format!("{at}?path={path}")).await.ok(200).json(), shown, "{path}");
    }
    assert_eq!(node.get(&format!("{at}?path=/nothing")).await.ok(404).code(), "not_found");
    // Removals come first, so what is set in the same patch stays.
    node.patch(at, r#"{"set": {"/address/city": "Rome"}, "remove": ["/address", "/tags"]}"#).await.ok(204);
    assert_eq!(node.get(&format!("{at}?path=/address")).await.json(), json!({"city": "Rome"}));
    node.patch(at, r#"{"set": {"/address": "nowhere"}}"#).await.ok(204);
    assert_eq!(node.get(&format!("{at}?path=/address")).await.json(), json!("nowhere"));
    node.patch(at, r#"{"remove": [""]}"#).await.ok(204);
    node.get(at).await.ok(404);
    node.patch(at, r#"{"set": {"": {"a": 1}}}"#).await.ok(204);
    assert_eq!(node.get(at).await.json(), json!({"a": 1}));
    node.delete(at).await.ok(204);
    node.get(at).await.ok(404);
    node.patch(at, r#"{"set": {"/a": {}}}"#).await.ok(204);
    node.get(at).await.ok(404);
}

#[tokio::test]
async fn numbers_of_a_map_keep_what_json_readers_tell_apart() {
    let node = Node::start().await;
    let text = r#"{"i":9007199254740993,"u":18446744073709551615,"n":-1,"f":1.0,"s":"\u0000\"é"}"#;
    node.patch("/v1/shop/maps/m", &format!(r#"{{"set":{{"":{text}}}}}"#)).await.ok(204);
    let body = node.get("/v1/shop/maps/m").await.body;
    let expected = r#"{"f":1.0,"i":9007199254740993,"n":-1,"s":"\u0000\"é","u":18446744073709551615}"#;
    assert_eq!(std::str::from_utf8(&body).unwrap(), expected);
}

#[tokio::test]
async fn flag_is_on_off_or_not_there() {
    let node = Node::start().await;
    let at = "/v1/shop/flags/dark-mode";
    node.get(at).await.ok(404);
    node.put(at, r#"{"enabled": true}"#).await.ok(204);
    assert_eq!(node.get(at).await.ok(200).json(), json!({"enabled": true}));
    node.put(at, r#"{"enabled": false}"#).await.ok(204);
    assert_eq!(node.get(at).await.ok(200).json(), json!({"enabled": false}));
    node.delete(at).await.ok(204);
    node.get(at).await.ok(404);
}

#[tokio::test]
async fn batch_answers_each_op_in_order_and_does_all_or_nothing() {
    let node = Node::start().await;
    let batch = r#"{"ops":[
        {"type":"counters","key":"stock","add":-1},
        {"type":"registers","key":"k","put":{"value":"v","content_type":"text/x"}},
        {"type":"registers","key":"plain","put":{"value":"é"}},
        {"type":"sets","key":"s","add":["m","n"]},
        {"type":"maps","key":"m","set":{"/a":1},"add":{"/n":2}},
        {"type":"flags","key":"f","enabled":true},
        {"type":"counters","key":"stock","add":3},
        {"type":"sets","key":"gone","delete":true}]}"#;
    let done = node.post("/v1/shop/_batch", batch).await.ok(200);
    assert_eq!(done.json(), json!({"results": [{"value": -1}, {}, {}, {"size": 2}, {}, {}, {"value": 2}, {}]}));
    assert_eq!(node.get("/v1/shop/registers/k").await.header("content-type"), "text/x");
    assert_eq!(node.get("/v1/shop/registers/plain").await.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(node.get("/v1/shop/maps/m").await.json(), json!({"a": 1, "n": 2}));
    let refused = format!(
        r#"{{"ops":[{{"type":"flags","key":"f","enabled":false}},{{"type":"counters","key":"stock","add":{}}}]}}"#,
        i64::MAX
    );
    assert_eq!(node.post("/v1/shop/_batch", &refused).await.ok(409).code(), "out_of_range");
    assert_eq!(node.get("/v1/shop/flags/f").await.json(), json!({"enabled": true}), "all or nothing");
    assert_eq!(node.post("/v1/shop/_batch", r#"{"ops":[]}"#).await.ok(200).json(), json!({"results": []}));
}

#[tokio::test]
async fn one_name_of_two_types_is_two_things() {
    let node = Node::start().await;
    node.put("/v1/shop/registers/x", "v").await.ok(204);
    node.post("/v1/shop/counters/x", r#"{"add": 1}"#).await.ok(200);
    node.delete("/v1/shop/registers/x").await.ok(204);
    assert_eq!(node.get("/v1/shop/counters/x").await.json(), json!({"value": 1}));
    assert_eq!(node.get("/v1/other/counters/x").await.ok(404).code(), "not_found");
}

#[tokio::test]
async fn key_may_hold_any_character() {
    let node = Node::start().await;
    let longest = "%C3%A9".repeat(512);
    for key in ["a%2Fb", "%00", "a%20b", "a+b", ".", "..", "%2E%2E", "%25", "a;b:@!$&'()*,=", "_x", longest.as_str()] {
        let at = format!("/v1/shop/registers/{key}");
        node.put(&at, key).await.ok(204);
        assert_eq!(node.get(&at).await.ok(200).body, key.as_bytes(), "{key}");
    }
    let keys = node.get("/v1/shop/_keys?type=registers&limit=100").await.json();
    // `..` and `%2E%2E` are one key.
    assert_eq!(keys["keys"].as_array().unwrap().len(), 10);
    assert_eq!(keys["keys"][0]["key"], "\u{0}");
}
