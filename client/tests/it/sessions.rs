//! What a session carries from one request to the next.

use std::sync::atomic::{AtomicUsize, Ordering};

use atoll_client::api::{Key, Namespace};
use atoll_client::{Error, Method, Options, Request};

use crate::server::{Answer, Pki, Server, at_once, client, client_of, http, quic, soon};

/// A server whose answers bring the tokens t1, t2, …
async fn counting() -> Server {
    let count = AtomicUsize::new(0);
    http(at_once(move |_| {
        let token = format!("t{}", count.fetch_add(1, Ordering::SeqCst) + 1);
        Answer::ok(r#"{"value":1}"#).header("atoll-token", &token)
    }))
    .await
}

fn tokens(server: &Server) -> Vec<Option<String>> {
    server.seen().iter().map(|seen| seen.header("atoll-token").map(str::to_owned)).collect()
}

fn some(token: &str) -> Option<String> {
    Some(token.to_owned())
}

#[tokio::test]
async fn each_request_brings_the_token_of_the_answer_before() {
    let server = counting().await;
    let session = client().endpoint(server.endpoint()).build().unwrap().session();
    let (shop, key) = (Namespace::new("shop").unwrap(), Key::new("k").unwrap());
    soon(session.counter(&shop, &key).add(1)).await.unwrap();
    soon(session.with_options(Options::default()).counter(&shop, &key).get()).await.unwrap();
    soon(session.clone().request(&Request::new(Method::GET, "/"))).await.unwrap();
    assert_eq!(tokens(&server), [None, some("t1"), some("t2")]);
    assert_eq!(session.token(), some("t3"));
}

#[tokio::test]
async fn sessions_of_one_client_share_connections_and_nothing_else() {
    let server = counting().await;
    let client = client().endpoint(server.endpoint()).build().unwrap();
    let (one, other) = (client.session(), client.session());
    let apart = client.without_session();
    let resumed = client.resume("from-elsewhere");
    let request = Request::new(Method::GET, "/");
    for session in [&one, &other, &apart, &apart, &resumed, &one] {
        soon(session.request(&request)).await.unwrap();
    }
    assert_eq!(tokens(&server), [None, None, None, None, some("from-elsewhere"), some("t1")]);
    assert_eq!(server.connections(), 1);
    assert_eq!((other.token(), apart.token(), resumed.token()), (some("t2"), None, some("t5")));
}

#[tokio::test]
async fn session_goes_on_with_its_token_at_another_endpoint_and_transport() {
    let pki = Pki::new();
    let calls = AtomicUsize::new(0);
    let first = quic(
        &pki,
        at_once(move |_| match calls.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::ok("").header("atoll-token", "seen-here"),
            _ => Answer::Vanish,
        }),
    );
    let second = counting().await;
    let session = client_of(&[&first, &second], &pki).session();
    let request = Request::new(Method::GET, "/");
    soon(session.request(&request)).await.unwrap();
    soon(session.request(&request)).await.unwrap();
    assert_eq!(tokens(&second), [some("seen-here")]);
    assert_eq!(session.token(), some("t1"));
}

#[tokio::test]
async fn answer_that_is_lost_leaves_the_token_as_it_was() {
    let calls = AtomicUsize::new(0);
    let server = http(at_once(move |_| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::ok("").header("atoll-token", "t1"),
        _ => Answer::Vanish,
    }))
    .await;
    let session = client().endpoint(server.endpoint()).build().unwrap().session();
    soon(session.request(&Request::new(Method::PUT, "/"))).await.unwrap();
    let lost = soon(session.request(&Request::new(Method::PUT, "/"))).await;
    assert!(matches!(lost, Err(Error::FateUnknown { .. })), "{lost:?}");
    assert_eq!(session.token(), some("t1"));
}
