//! Pipelining, loss and misbehaviour over QUIC.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use atoll_client::api::{Key, Namespace, WriteLevel};
use atoll_client::{Error, Identity, Method, Options, Request};
use bytes::BytesMut;
use futures_util::future::join_all;
use tokio::sync::{Barrier, Semaphore};

use crate::server::{
    Answer, Pki, QuicOptions, at_once, client, client_of, echo, in_time, nobody, quic, quic_with, soon,
};

fn shop() -> Namespace {
    Namespace::new("shop").unwrap()
}

fn visits() -> Key {
    Key::new("visits").unwrap()
}

fn get(target: &str) -> Request {
    Request::new(Method::GET, target)
}

#[tokio::test]
async fn each_of_many_requests_in_flight_gets_its_own_answer() {
    let pki = Pki::new();
    let server = quic(&pki, echo());
    let session = client_of(&[&server], &pki).without_session();
    let requests: Vec<_> = (0..2_000).map(|n| get(&format!("/r/{n}"))).collect();
    let answers = soon(join_all(requests.iter().map(|request| session.request(request)))).await;
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap().body(), format!("GET /r/{n}").as_bytes());
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn requests_do_not_wait_for_the_answers_before_them() {
    // No answer leaves before all requests have come: without pipelining this would hang.
    let all_here = Arc::new(Barrier::new(200));
    let pki = Pki::new();
    let server = quic(
        &pki,
        in_time(move |seen| {
            let all_here = all_here.clone();
            async move {
                all_here.wait().await;
                Answer::ok(seen.target)
            }
        }),
    );
    let session = client_of(&[&server], &pki).without_session();
    let requests: Vec<_> = (0..200).map(|n| get(&format!("/{n}"))).collect();
    let answers = soon(join_all(requests.iter().map(|request| session.request(request)))).await;
    for (request, answer) in requests.iter().zip(answers) {
        assert_eq!(format!("GET {} (0 bytes)", answer.unwrap().body().escape_ascii()), format!("{request:?}"));
    }
}

#[tokio::test]
async fn requests_that_wait_for_regions_do_not_hold_up_one_that_does_not() {
    let quick_done = Arc::new(Semaphore::new(0));
    let released = quick_done.clone();
    let pki = Pki::new();
    let server = quic(
        &pki,
        in_time(move |seen| {
            let released = released.clone();
            async move {
                if seen.target.contains("w=all") {
                    released.acquire().await.unwrap().forget();
                }
                Answer::ok(r#"{"value":1}"#)
            }
        }),
    );
    let session = client_of(&[&server], &pki).without_session();
    let patient = session.with_options(Options { write_level: Some(WriteLevel::All), ..Options::default() });
    let (shop, visits) = (shop(), visits());
    let slow = patient.counter(&shop, &visits);
    let quick = session.counter(&shop, &visits);
    // More of them than there are streams, and all on their way before the quick one.
    let all = async {
        tokio::join!(join_all((0..20).map(|_| slow.add(1))), async {
            let done = quick.add(1).await;
            quick_done.add_permits(20);
            done
        })
    };
    let (slow, quick) = soon(all).await;
    assert!(quick.is_ok() && slow.iter().all(Result::is_ok));
}

#[tokio::test]
async fn lost_connection_is_made_anew_by_the_next_request() {
    let pki = Pki::new();
    let server = quic(
        &pki,
        at_once(|seen| match seen.target.as_str() {
            "/vanish" => Answer::Vanish,
            _ => Answer::ok(seen.connection.to_string()),
        }),
    );
    let session = client_of(&[&server], &pki).without_session();
    assert_eq!(soon(session.request(&get("/"))).await.unwrap().body().as_ref(), b"1");
    let lost = soon(session.request(&Request::new(Method::PUT, "/vanish"))).await;
    assert!(matches!(lost, Err(Error::FateUnknown { .. })), "{lost:?}");
    assert_eq!(soon(session.request(&get("/"))).await.unwrap().body().as_ref(), b"2");
}

#[tokio::test]
async fn write_whose_answer_is_lost_has_an_unknown_fate_and_is_sent_once() {
    let pki = Pki::new();
    let first = quic(&pki, at_once(|_| Answer::Vanish));
    let second = quic(&pki, at_once(|_| Answer::ok(r#"{"value":1}"#)));
    let session = client_of(&[&first, &second], &pki).session();
    let (shop, visits) = (shop(), visits());
    let outcome = soon(session.counter(&shop, &visits).add(1)).await;
    let Err(Error::FateUnknown { endpoint, cause }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(endpoint, first.endpoint());
    assert!(cause.contains("as told"), "{cause}");
    assert_eq!(first.lines(), ["POST /v1/shop/counters/visits"]);
    assert_eq!(second.lines(), [""; 0]);
}

#[tokio::test]
async fn read_whose_answer_is_lost_is_repeated_here_and_then_elsewhere() {
    let pki = Pki::new();
    let first = quic(&pki, at_once(|_| Answer::Vanish));
    let second = quic(&pki, at_once(|_| Answer::ok(r#"{"value":7}"#)));
    let session = client_of(&[&first, &second], &pki).session();
    let (shop, visits) = (shop(), visits());
    let counter = session.counter(&shop, &visits);
    assert_eq!(soon(counter.get()).await.unwrap().value, Some(7));
    assert_eq!((first.lines().len(), second.lines().len()), (2, 1));
    // The one that answered is asked first from here on.
    assert_eq!(soon(counter.add(0)).await.unwrap().value, 7);
    assert_eq!((first.lines().len(), second.lines().len()), (2, 2));
}

#[tokio::test]
async fn endpoint_where_nobody_listens_is_passed_over() {
    let pki = Pki::new();
    let server = quic(&pki, at_once(|_| Answer::ok(r#"{"value":1}"#)));
    let client = client()
        .connect_timeout(Duration::from_millis(200))
        .trust(pki.trust())
        .endpoint(nobody("quic"))
        .endpoint(server.endpoint())
        .build()
        .unwrap();
    let (shop, visits) = (shop(), visits());
    // A write too: what never left has no unknown fate.
    let added = soon(client.session().counter(&shop, &visits).add(1)).await;
    assert_eq!(added.unwrap().value, 1);
}

#[tokio::test]
async fn unreachable_names_every_endpoint_in_order() {
    let pki = Pki::new();
    let (quic, http) = (nobody("quic"), nobody("http"));
    let client = client()
        .connect_timeout(Duration::from_millis(200))
        .trust(pki.trust())
        .endpoint(quic.clone())
        .endpoint(http.clone())
        .build()
        .unwrap();
    let outcome = soon(client.is_healthy()).await;
    let Err(Error::Unreachable { attempts }) = outcome else { panic!("{outcome:?}") };
    let tried: Vec<_> = attempts.iter().map(|attempt| attempt.endpoint.clone()).collect();
    assert_eq!(tried, [quic, http]);
}

#[tokio::test]
async fn node_of_another_authority_is_not_spoken_to() {
    let (ours, theirs) = (Pki::new(), Pki::new());
    let server = quic(&theirs, echo());
    let client = client_of(&[&server], &ours);
    let outcome = soon(client.is_healthy()).await;
    let Err(Error::Unreachable { attempts }) = outcome else { panic!("{outcome:?}") };
    assert!(attempts[0].cause.contains("certificate"), "{}", attempts[0].cause);
    assert_eq!(server.lines(), [""; 0]);
}

#[tokio::test]
async fn client_certificate_opens_a_listener_that_asks_for_one() {
    let pki = Pki::new();
    let options = QuicOptions { ask_client: true, ..QuicOptions::default() };
    let server = quic_with(&pki, options, at_once(|_| Answer::ok(r#"{"value":1}"#)));
    let (certificate, key) = pki.issue();
    let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    let builder = client().trust(pki.trust()).endpoint(server.endpoint());
    let known = builder.identity(identity).build().unwrap().session();
    let (shop, visits) = (shop(), visits());
    assert_eq!(soon(known.counter(&shop, &visits).add(1)).await.unwrap().value, 1);

    let stranger = client_of(&[&server], &pki).session();
    let outcome = soon(stranger.counter(&shop, &visits).add(1)).await;
    // The node read nothing of it, so its fate is not unknown.
    assert!(matches!(outcome, Err(Error::Unreachable { .. })), "{outcome:?}");
    assert_eq!(server.lines().len(), 1);
}

#[tokio::test]
async fn one_stream_is_enough() {
    let pki = Pki::new();
    let options = QuicOptions { streams: 1, ..QuicOptions::default() };
    let server = quic_with(&pki, options, at_once(|_| Answer::ok(r#"{"value":1}"#)));
    let session = client_of(&[&server], &pki).session();
    let (shop, visits) = (shop(), visits());
    let counter = session.counter(&shop, &visits);
    for answer in soon(join_all((0..50).map(|_| counter.add(1)))).await {
        assert_eq!(answer.unwrap().value, 1);
    }
}

#[tokio::test]
async fn bytes_that_are_no_answer_are_a_protocol_violation() {
    let hostile: [&[u8]; 4] = [
        b"\x00\x00\x00\x03abc",                // No map.
        b"\x00\x00\x00\x01\x80",               // A map without a status.
        b"\x00\x50\x00\x01",                   // A length of 5 MiB and a byte.
        b"\x00\x00\x00\x09\x81\xa6status\x2a", // A status of 42.
    ];
    for bytes in hostile {
        let pki = Pki::new();
        let server = quic(&pki, at_once(|_| Answer::Raw(bytes.to_vec())));
        let client = client_of(&[&server], &pki);
        let outcome = soon(client.is_healthy()).await;
        assert!(matches!(outcome, Err(Error::Protocol { .. })), "{outcome:?}");
        assert_eq!(server.next_close().await, 1, "the close code says whose fault it was");
    }
}

#[tokio::test]
async fn answer_that_nobody_asked_for_ends_the_connection() {
    let pki = Pki::new();
    let mut twice = BytesMut::new();
    for _ in 0..2 {
        let limits = atoll_client::frame::Limits::default();
        atoll_client::frame::encode_response(&mut twice, 200, &[], b"", &limits).unwrap();
    }
    let twice = twice.to_vec();
    let server = quic(&pki, at_once(move |_| Answer::Raw(twice.clone())));
    let client = client_of(&[&server], &pki);
    assert!(soon(client.is_healthy()).await.unwrap());
    assert_eq!(soon(server.next_close()).await, 1);
    assert!(soon(client.is_healthy()).await.unwrap());
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn silence_is_a_timeout_for_a_read_and_an_unknown_fate_for_a_write() {
    let pki = Pki::new();
    let server = quic(&pki, at_once(|_| Answer::Never));
    let client = client()
        .answer_timeout(Duration::from_millis(100))
        .trust(pki.trust())
        .endpoint(server.endpoint())
        .build()
        .unwrap();
    let outcome = soon(client.is_healthy()).await;
    assert!(matches!(outcome, Err(Error::Timeout { .. })), "{outcome:?}");
    let (shop, visits) = (shop(), visits());
    let outcome = soon(client.session().counter(&shop, &visits).add(1)).await;
    let Err(Error::FateUnknown { cause, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(cause, "no answer within 100 ms");
}

#[tokio::test]
async fn requests_beyond_the_bound_wait_for_their_turn() {
    // Two at a time are let go, so the number in hand reaches two, and must never pass it.
    let pair = Arc::new(Barrier::new(2));
    let in_hand = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let highest = most.clone();
    let pki = Pki::new();
    let server = quic(
        &pki,
        in_time(move |_| {
            let (pair, in_hand, most) = (pair.clone(), in_hand.clone(), most.clone());
            async move {
                most.fetch_max(in_hand.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                pair.wait().await;
                in_hand.fetch_sub(1, Ordering::SeqCst);
                Answer::ok("")
            }
        }),
    );
    let builder = client().in_flight_max(2).trust(pki.trust()).endpoint(server.endpoint());
    let client = builder.build().unwrap();
    let answers = soon(join_all((0..40).map(|_| client.is_healthy()))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap()));
    assert_eq!(highest.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn large_bodies_count_for_more_but_one_always_fits() {
    let pki = Pki::new();
    let server = quic(&pki, at_once(|seen| Answer::ok(seen.body.len().to_string())));
    let builder = client().in_flight_max(4).trust(pki.trust()).endpoint(server.endpoint());
    let session = builder.build().unwrap().without_session();
    let request = Request::new(Method::PUT, "/").body(vec![7; 4 << 20]);
    let answers = soon(join_all((0..4).map(|_| session.request(&request)))).await;
    for answer in answers {
        assert_eq!(answer.unwrap().body().as_ref(), b"4194304");
    }
    let too_large = Request::new(Method::PUT, "/").body(vec![7; 6 << 20]);
    let outcome = soon(session.request(&too_large)).await;
    assert!(matches!(outcome, Err(Error::BadInput(_))), "{outcome:?}");
}

#[tokio::test]
async fn caller_that_gives_up_does_not_take_the_answer_of_the_next() {
    let release = Arc::new(Semaphore::new(0));
    let held = release.clone();
    let pki = Pki::new();
    let server = quic(
        &pki,
        in_time(move |seen| {
            let held = held.clone();
            async move {
                if seen.target == "/held" {
                    held.acquire().await.unwrap().forget();
                }
                Answer::ok(seen.target)
            }
        }),
    );
    let options = client().trust(pki.trust()).endpoint(server.endpoint());
    let session = options.in_flight_max(1_000).build().unwrap().without_session();
    let (held, next) = (get("/held"), get("/next"));
    let abandoned = async {
        tokio::select! {
            biased;
            _ = session.request(&held) => panic!("the server answered what it holds"),
            () = async { while server.lines().is_empty() { tokio::task::yield_now().await } } => {}
        }
        release.add_permits(1);
        join_all((0..10).map(|_| session.request(&next))).await
    };
    for answer in soon(abandoned).await {
        assert_eq!(answer.unwrap().body().as_ref(), b"/next");
    }
}

#[tokio::test]
async fn close_tells_the_server() {
    let pki = Pki::new();
    let server = quic(&pki, echo());
    let client = client_of(&[&server], &pki);
    assert!(soon(client.is_healthy()).await.unwrap());
    client.close().await;
    assert_eq!(soon(server.next_close()).await, 0);
    assert!(soon(client.is_healthy()).await.unwrap(), "a closed client connects anew");
}

#[tokio::test]
async fn dropping_the_client_closes_its_connections() {
    let pki = Pki::new();
    let server = quic(&pki, echo());
    let client = client_of(&[&server], &pki);
    assert!(soon(client.is_healthy()).await.unwrap());
    drop(client);
    assert_eq!(soon(server.next_close()).await, 0);
}
