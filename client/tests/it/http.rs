//! Connections, refusals and misbehaviour over HTTP.

use std::time::Duration;

use atoll_client::api::{ErrorCode, Key, Namespace};
use atoll_client::{Client, Error, Method, Request};
use futures_util::future::join_all;

use crate::server::{Answer, Pki, Server, at_once, client, client_of, echo, http, https, nobody, not_http, soon};

fn session_of(server: &Server) -> atoll_client::Session {
    client().endpoint(server.endpoint()).build().unwrap().session()
}

async fn add_one(server: &Server) -> Result<i64, Error> {
    let (shop, visits) = (Namespace::new("shop").unwrap(), Key::new("visits").unwrap());
    let session = session_of(server);
    let written = soon(session.counter(&shop, &visits).add(1)).await?;
    Ok(written.value)
}

#[tokio::test]
async fn connections_are_kept_and_used_again() {
    let server = http(echo()).await;
    let session = session_of(&server);
    for n in 0..20 {
        let answer = soon(session.request(&Request::new(Method::GET, format!("/{n}")))).await;
        assert_eq!(answer.unwrap().body(), format!("GET /{n}").as_bytes());
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn https_carries_many_requests_on_one_connection() {
    let pki = Pki::new();
    let server = https(&pki, echo()).await;
    let session = client_of(&[&server], &pki).without_session();
    let first = soon(session.request(&Request::new(Method::GET, "/first"))).await;
    assert_eq!(first.unwrap().body().as_ref(), b"GET /first");
    let requests: Vec<_> = (0..50).map(|n| Request::new(Method::GET, format!("/{n}"))).collect();
    for answer in soon(join_all(requests.iter().map(|request| session.request(request)))).await {
        assert_eq!(answer.unwrap().status(), 200);
    }
    assert_eq!(server.connections(), 1, "HTTP/2, as TLS agreed");
}

#[tokio::test]
async fn node_of_another_authority_is_not_spoken_to() {
    let (ours, theirs) = (Pki::new(), Pki::new());
    let server = https(&theirs, echo()).await;
    let outcome = soon(client_of(&[&server], &ours).is_healthy()).await;
    let Err(Error::Unreachable { attempts }) = outcome else { panic!("{outcome:?}") };
    assert!(attempts[0].cause.contains("certificate"), "{}", attempts[0].cause);
    assert_eq!(server.lines(), [""; 0]);
}

#[tokio::test]
async fn closed_port_is_passed_over_even_by_a_write() {
    let server = http(at_once(|_| Answer::ok(r#"{"value":3}"#))).await;
    let client = client().endpoint(nobody("http")).endpoint(server.endpoint()).build().unwrap();
    let (shop, visits) = (Namespace::new("shop").unwrap(), Key::new("visits").unwrap());
    let added = soon(client.session().counter(&shop, &visits).add(1)).await;
    assert_eq!(added.unwrap().value, 3);
}

#[tokio::test]
async fn write_whose_answer_is_lost_has_an_unknown_fate_and_is_sent_once() {
    let first = http(at_once(|_| Answer::Vanish)).await;
    let second = http(at_once(|_| Answer::ok(r#"{"value":3}"#))).await;
    let client = client().endpoint(first.endpoint()).endpoint(second.endpoint()).build().unwrap();
    let (shop, visits) = (Namespace::new("shop").unwrap(), Key::new("visits").unwrap());
    let session = client.session();
    let counter = session.counter(&shop, &visits);
    let outcome = soon(counter.add(1)).await;
    assert!(matches!(outcome, Err(Error::FateUnknown { .. })), "{outcome:?}");
    assert_eq!((first.lines().len(), second.lines().len()), (1, 0));
    // A read in the same place is repeated, here and then elsewhere.
    assert_eq!(soon(counter.get()).await.unwrap().value, Some(3));
    assert_eq!((first.lines().len(), second.lines().len()), (3, 1));
}

#[tokio::test]
async fn silence_is_a_timeout_for_a_read_and_an_unknown_fate_for_a_write() {
    let server = http(at_once(|_| Answer::Never)).await;
    let client = client().answer_timeout(Duration::from_millis(100)).endpoint(server.endpoint()).build().unwrap();
    let outcome = soon(client.is_healthy()).await;
    assert!(matches!(outcome, Err(Error::Timeout { .. })), "{outcome:?}");
    let outcome = soon(client.session().request(&Request::new(Method::PUT, "/"))).await.err();
    assert!(matches!(&outcome, Some(Error::FateUnknown { .. })), "{outcome:?}");
}

#[tokio::test]
async fn refusal_carries_its_code_and_when_to_ask_again() {
    let server = http(at_once(|_| {
        Answer::problem(503, "session_behind").header("retry-after", "2").header("atoll-lag", "eu-west-1=120")
    }))
    .await;
    let outcome = add_one(&server).await;
    let Err(Error::Refused { problem, retry_after, lag, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(problem.code, ErrorCode::SessionBehind);
    assert!(problem.code.is_retryable());
    assert_eq!(problem.request_id, "r1");
    assert_eq!(retry_after, Some(Duration::from_secs(2)));
    assert_eq!(lag.as_deref(), Some("eu-west-1=120"));
}

#[tokio::test]
async fn what_is_not_http_is_a_protocol_violation() {
    let server = not_http(b"220 mail.example ESMTP\r\n").await;
    let outcome = add_one(&server).await;
    assert!(matches!(outcome, Err(Error::Protocol { .. })), "{outcome:?}");
}

#[tokio::test]
async fn answer_of_the_wrong_shape_is_a_protocol_violation() {
    for body in ["", "[]", r#"{"value":"1"}"#, "<html>"] {
        let server = http(at_once(move |_| Answer::ok(body))).await;
        let outcome = add_one(&server).await;
        assert!(matches!(outcome, Err(Error::Protocol { .. })), "{body}: {outcome:?}");
    }
    let server = http(at_once(|_| Answer::status(302).header("location", "/elsewhere"))).await;
    let outcome = add_one(&server).await;
    assert!(matches!(outcome, Err(Error::Protocol { .. })), "{outcome:?}");
}

#[tokio::test]
async fn answer_beyond_the_bound_is_not_read_to_its_end() {
    let server = http(at_once(|_| Answer::ok(vec![b' '; (5 << 20) + 1]))).await;
    let outcome = add_one(&server).await;
    let Err(Error::Protocol { cause, .. }) = outcome else { panic!("{outcome:?}") };
    assert!(cause.contains("5242880"), "{cause}");
}

#[tokio::test]
async fn bearer_token_is_sent_and_never_shown() {
    let secret = "s3cret-t0ken";
    let server = http(at_once(|_| Answer::problem(403, "forbidden"))).await;
    let builder = client().endpoint(server.endpoint()).bearer(secret);
    let mut shown = format!("{builder:?}");
    let client = builder.build().unwrap();
    let session = client.session();
    let (shop, visits) = (Namespace::new("shop").unwrap(), Key::new("visits").unwrap());
    let counter = session.counter(&shop, &visits);
    let refused = soon(counter.add(1)).await.unwrap_err();
    shown += &format!("{client:?} {session:?} {counter:?} {refused:?} {refused}");
    let request = Request::new(Method::GET, "/").header("authorization", "Bearer s3cret-t0ken");
    shown += &format!("{request:?}");
    assert!(!shown.contains(secret), "{shown}");
    assert_eq!(server.seen()[0].header("authorization"), Some("Bearer s3cret-t0ken"));
}

#[tokio::test]
async fn set_up_that_cannot_work_is_refused_before_anything_is_sent() {
    let refused = |builder: atoll_client::ClientBuilder| match builder.build() {
        Err(Error::BadInput(rejection)) => rejection.detail,
        other => panic!("{other:?}"),
    };
    let parse = |url: &str| url.parse().unwrap();
    assert!(refused(Client::builder()).contains("no endpoint"));
    let no_trust = Client::builder().endpoint(parse("quic://127.0.0.1:1"));
    assert!(refused(no_trust).contains("CA"));
    let in_clear = Client::builder().bearer("t").endpoint(parse("http://10.1.2.3:1"));
    assert!(refused(in_clear).contains("in clear"));
    let bad_token = Client::builder().bearer("s3 cret").endpoint(parse("http://127.0.0.1:1"));
    assert!(!refused(bad_token).contains("s3"));
    assert!(atoll_client::Trust::from_pem(b"").is_err());
    assert!(atoll_client::Trust::from_pem(b"-----BEGIN CERTIFICATE-----\nAAAA\n").is_err());
    assert!(atoll_client::Identity::from_pem(b"x", b"y").is_err());
}

#[tokio::test]
async fn endpoint_that_refuses_because_of_what_it_is_is_passed_over_even_by_a_write() {
    let (shop, visits) = (Namespace::new("shop").unwrap(), Key::new("visits").unwrap());
    for code in ["draining", "not_ready", "store_read_only", "clock_skew"] {
        let first = http(at_once(move |_| Answer::problem(503, code))).await;
        let second = http(at_once(|_| Answer::ok(r#"{"value":3}"#))).await;
        let both = client().endpoint(first.endpoint()).endpoint(second.endpoint()).build().unwrap();
        for _ in 0..2 {
            assert_eq!(soon(both.session().counter(&shop, &visits).add(1)).await.unwrap().value, 3);
        }
        assert_eq!((first.lines().len(), second.lines().len()), (1, 2), "the other one is asked first from then on");
        // Where all refuse, or nobody else is to be reached, the refusal is the answer.
        let alone = client().endpoint(first.endpoint()).endpoint(nobody("http")).build().unwrap();
        let refused = soon(alone.session().counter(&shop, &visits).add(1)).await;
        assert!(
            matches!(&refused, Err(Error::Refused { problem, .. }) if problem.code.as_str() == code),
            "{refused:?}"
        );
    }
    // One that has too much to do is not helped by asking the next.
    let first = http(at_once(|_| Answer::problem(503, "overloaded"))).await;
    let second = http(at_once(|_| Answer::ok(r#"{"value":3}"#))).await;
    let both = client().endpoint(first.endpoint()).endpoint(second.endpoint()).build().unwrap();
    let refused = soon(both.session().counter(&shop, &visits).add(1)).await;
    assert!(matches!(&refused, Err(Error::Refused { problem, .. }) if problem.code == ErrorCode::Overloaded));
    assert_eq!(second.lines().len(), 0);
}
