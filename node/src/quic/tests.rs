//! The QUIC client protocol against real and hostile clients.

use super::*;
use crate::api::testing::{Answer, Node, Setup, tls, until_counted};
use crate::config::Limits;
use atoll_client::api::{BatchChange, BatchOp, BatchRequest, Key, Namespace};
use atoll_client::frame::{self, ALPN, FrameReader};
use atoll_client::{Client, Endpoint, Trust};
use bytes::BytesMut;
use http::Method;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, RecvStream, SendStream};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use std::net::Ipv4Addr;
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(20);

struct Listening {
    node: Node,
    address: SocketAddr,
    ca: String,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
}

async fn listen(change: impl FnOnce(&mut Limits), gate: Gate) -> Listening {
    let mut limits = Limits::default();
    change(&mut limits);
    let node = Node::with(Setup { limits, ..Setup::default() }).await;
    let (ca, tls) = tls(&[ALPN]);
    let endpoint = bind((Ipv4Addr::LOCALHOST, 0).into(), tls, limits.quic_streams).unwrap();
    let address = endpoint.local_addr().unwrap();
    let (stop, stopping) = watch::channel(false);
    let served = tokio::spawn(serve(endpoint, Arc::clone(&node.shared), gate, stopping, SOON));
    Listening { node, address, ca, stop, served }
}

fn open() -> Gate {
    Gate::at(Ipv4Addr::LOCALHOST.into(), None)
}

impl Listening {
    fn client(&self) -> Client {
        let endpoint: Endpoint = format!("quic://{}", self.address).parse().unwrap();
        let trust = Trust::from_pem(self.ca.as_bytes()).unwrap();
        Client::builder().endpoint(endpoint).trust(trust).build().unwrap()
    }

    /// A connection that knows frames and nothing else.
    async fn connect(&self) -> Result<(quinn::Endpoint, Connection), ConnectionError> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut tls = tls.with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let connection = endpoint.connect_with(config, self.address, "localhost").unwrap().await?;
        Ok((endpoint, connection))
    }

    async fn stream(&self) -> (quinn::Endpoint, Connection, SendStream, FrameReader) {
        let (endpoint, connection) = self.connect().await.unwrap();
        let (send, recv) = connection.open_bi().await.unwrap();
        (endpoint, connection, send, reader(recv))
    }

    async fn until_closed(&self, reason: &str) {
        let line = format!("atoll_connections_closed_total{{listener=\"quic\",reason=\"{reason}\"}} 1");
        until_counted(&self.node.shared, &line).await;
    }

    /// The node goes on.
    async fn answers(&self) {
        assert!(timeout(SOON, self.client().is_healthy()).await.unwrap().unwrap());
    }
}

fn reader(recv: RecvStream) -> FrameReader {
    FrameReader::new(recv, &frame::Limits::default())
}

fn request(method: &Method, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::encode_request(&mut out, method, target, headers, body, &frame::Limits::default()).unwrap();
    out.to_vec()
}

async fn next(reader: &mut FrameReader) -> Answer {
    let frame = timeout(SOON, reader.next()).await.expect("no answer").unwrap().expect("the stream ended");
    let response = frame::decode_response(&frame, &frame::Limits::default()).unwrap();
    let mut headers = http::HeaderMap::new();
    for (name, value) in response.headers.iter() {
        headers.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    Answer { status: response.status, headers, body: response.body }
}

/// The code with which the node closes a connection.
async fn closed(connection: &Connection) -> u64 {
    match timeout(SOON, connection.closed()).await.expect("the connection stays open") {
        ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn project_client_is_served() {
    let listening = listen(|_| (), open()).await;
    let client = listening.client();
    let session = client.session();
    let (shop, key) = (Namespace::new("shop").unwrap(), Key::new("a/b").unwrap());
    session.register(&shop, &key).put(vec![7_u8; 1 << 20], None).await.unwrap();
    let read = session.register(&shop, &key).get().await.unwrap();
    assert_eq!(read.value.unwrap().body.len(), 1 << 20);
    let counter = session.counter(&shop, &key);
    let adds = (0..500).map(|_| counter.add(1));
    let sums = futures_util::future::try_join_all(adds).await.unwrap();
    assert_eq!(sums.iter().map(|sum| sum.value).max(), Some(500));
    let batch = BatchRequest { ops: vec![BatchOp { key: key.clone(), change: BatchChange::Counter(-500) }] };
    assert_eq!(session.batch(&shop, &batch).await.unwrap().value.results[0].value, Some(0));
    assert_eq!(counter.get().await.unwrap().value, Some(0));
}

#[tokio::test]
async fn answers_are_those_of_http() {
    let listening = listen(|_| (), open()).await;
    let (_endpoint, _connection, mut send, mut reader) = listening.stream().await;
    for (method, target, headers, body) in [
        (Method::PUT, "/v1/shop/registers/a%2Fb?w=1", &[("content-type", "text/x")][..], &b"v"[..]),
        (Method::GET, "/v1/shop/registers/a%2Fb", &[], b""),
        (Method::HEAD, "/v1/shop/registers/a%2Fb", &[], b""),
        (Method::GET, "/v1/shop/registers/none", &[("x-request-id", "r")], b""),
        (Method::POST, "/v1/shop/registers/a%2Fb", &[("x-request-id", "r")], b""),
        (Method::POST, "/v1/shop/counters/c?unknown=1", &[("x-request-id", "r")], b"{}"),
        (Method::GET, "/readyz", &[], b""),
        (Method::GET, "/openapi.json", &[], b""),
    ] {
        send.write_all(&request(&method, target, headers, body)).await.unwrap();
        let over_quic = next(&mut reader).await;
        let over_http = listening.node.send(method.clone(), target, headers, body.to_vec()).await;
        assert_eq!((over_quic.status, &over_quic.body), (over_http.status, &over_http.body), "{method} {target}");
        let names =
            |answer: &Answer| answer.headers.keys().map(ToString::to_string).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(names(&over_quic), names(&over_http), "{method} {target}");
    }
}

#[tokio::test]
async fn answers_leave_in_the_order_of_requests_which_are_worked_on_together() {
    let listening = listen(|_| (), open()).await;
    let (_endpoint, _connection, mut send, mut reader) = listening.stream().await;
    let vector = atoll_crdt::VersionVector::from_iter([atoll_crdt::Dot::new(atoll_crdt::ActorId::new(9), 1)]);
    let token = crate::app::Tokens::of_cluster("shop").token(&vector);
    let slow = [("atoll-token", token.as_str())];
    let mut bytes = request(&Method::GET, "/v1/shop/counters/slow?wait=2s", &slow, b"");
    for n in 0..300 {
        bytes.extend(request(&Method::PUT, &format!("/v1/shop/registers/{n}"), &[], b"v"));
        bytes.extend(request(
            &Method::GET,
            &format!("/v1/shop/counters/{n}"),
            &[("x-request-id", &n.to_string())],
            b"",
        ));
    }
    send.write_all(&bytes).await.unwrap();
    // The quick ones are done while the slow one, which is answered first, still waits.
    let done = async {
        while listening.node.get("/v1/shop/registers/50").await.status == 404 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, done).await.expect("the quick ones are held up");
    assert!(listening.node.views.waiting() > 0, "the slow one still waits");
    assert_eq!(next(&mut reader).await.ok(503).code(), "session_behind");
    for n in 0..300 {
        next(&mut reader).await.ok(204);
        assert_eq!(next(&mut reader).await.ok(404).header("x-request-id"), n.to_string());
    }
}

#[tokio::test]
async fn bytes_that_are_no_frame_end_their_connection_with_a_counted_reason() {
    let too_long = u32::try_from(frame::Limits::default().frame_bytes_max + 1).unwrap().to_be_bytes().to_vec();
    let no_message = [&3_u32.to_be_bytes()[..], b"abc"].concat();
    let whole = request(&Method::GET, "/healthz", &[], b"");
    let deep = [&2_000_u32.to_be_bytes()[..], &[0x91; 2_000]].concat();
    for (bytes, ends) in
        [(too_long, false), (no_message, false), (deep, false), (whole[..whole.len() - 1].to_vec(), true)]
    {
        let listening = listen(|_| (), open()).await;
        let (_endpoint, connection, mut send, _reader) = listening.stream().await;
        send.write_all(&bytes).await.unwrap();
        if ends {
            send.finish().unwrap();
        }
        assert_eq!(closed(&connection).await, 1, "{bytes:?}");
        listening.until_closed("frame").await;
        listening.answers().await;
    }
}

#[tokio::test]
async fn whole_frame_that_http_would_not_take_is_malformed() {
    let listening = listen(|_| (), open()).await;
    let (_endpoint, _connection, mut send, mut reader) = listening.stream().await;
    send.write_all(&request(&Method::GET, "/v1/shop/registers/a b", &[], b"")).await.unwrap();
    assert_eq!(next(&mut reader).await.ok(400).code(), "malformed");
    send.write_all(&request(&Method::GET, "/healthz", &[("a(b", "c")], b"")).await.unwrap();
    assert_eq!(next(&mut reader).await.ok(400).code(), "malformed");
    send.write_all(&request(&Method::GET, "/healthz", &[], b"")).await.unwrap();
    next(&mut reader).await.ok(200);
}

#[tokio::test]
async fn frame_that_does_not_arrive_is_given_up_and_a_silent_stream_is_not() {
    let listening = listen(|limits| limits.body_timeout = Duration::from_millis(100), open()).await;
    let (_endpoint, _connection, mut silent, mut reader) = listening.stream().await;
    silent.write_all(&request(&Method::GET, "/healthz", &[], b"")).await.unwrap();
    next(&mut reader).await.ok(200);
    let (_endpoint, connection, mut send, _reader) = listening.stream().await;
    send.write_all(&request(&Method::GET, "/healthz", &[], b"")[..6]).await.unwrap();
    assert_eq!(closed(&connection).await, 2);
    listening.until_closed("body_timeout").await;
    silent.write_all(&request(&Method::GET, "/healthz", &[], b"")).await.unwrap();
    next(&mut reader).await.ok(200);
}

#[tokio::test]
async fn client_that_does_not_take_in_its_answers_is_given_up() {
    let listening = listen(|limits| limits.body_timeout = Duration::from_millis(200), open()).await;
    listening.node.put("/v1/shop/registers/k", &"x".repeat(1 << 20)).await.ok(204);
    let (_endpoint, connection, mut send, _reader) = listening.stream().await;
    let one = request(&Method::GET, "/v1/shop/registers/k", &[], b"");
    send.write_all(&one.repeat(64)).await.unwrap();
    assert_eq!(closed(&connection).await, 2);
    listening.until_closed("stalled").await;
}

#[tokio::test]
async fn large_frames_share_the_room_of_bodies() {
    let large = request(&Method::PUT, "/v1/shop/registers/k", &[], &vec![0; 1 << 20]);
    let half = large.len() / 2;
    // Room for one frame that is not whole.
    let listening = listen(|limits| limits.request_bytes_in_flight = 6 << 20, open()).await;
    let (_endpoint, _connection, mut send, mut reader) = listening.stream().await;
    send.write_all(&large[..half]).await.unwrap();
    let taken = async {
        while listening.node.shared.room().take(2 << 20).is_some() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, taken).await.expect("a frame that is not whole takes room");
    send.write_all(&large[half..]).await.unwrap();
    next(&mut reader).await.ok(204);
    assert!(listening.node.shared.room().take(6 << 20).is_some(), "and gives it back");

    let change = |limits: &mut Limits| {
        limits.request_bytes_in_flight = 6 << 20;
        limits.body_timeout = Duration::from_millis(100);
    };
    let listening = listen(change, open()).await;
    let others = listening.node.shared.room().take(6 << 20);
    let (_endpoint, connection, mut send, _reader) = listening.stream().await;
    send.write_all(&large[..half]).await.unwrap();
    assert_eq!(closed(&connection).await, 2);
    listening.until_closed("no_room").await;
    drop(others);
    let (_endpoint, _connection, mut send, mut reader) = listening.stream().await;
    send.write_all(&large).await.unwrap();
    next(&mut reader).await.ok(204);
}

#[tokio::test]
async fn listener_beyond_loopback_answers_those_who_show_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    std::fs::write(&file, "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\n").unwrap();
    let tokens = crate::auth::Tokens::load(&file).unwrap();
    let listening = listen(|_| (), Gate::at(Ipv4Addr::UNSPECIFIED.into(), Some(&tokens))).await;
    let (_endpoint, _connection, mut send, mut reader) = listening.stream().await;
    send.write_all(&request(&Method::GET, "/v1/shop/_keys", &[], b"")).await.unwrap();
    assert_eq!(next(&mut reader).await.ok(401).code(), "unauthenticated");
    let shown = [("authorization", "Bearer secret")];
    send.write_all(&request(&Method::GET, "/v1/shop/_keys", &shown, b"")).await.unwrap();
    next(&mut reader).await.ok(200);
}

#[tokio::test]
async fn connection_too_many_is_refused_and_counted() {
    let listening = listen(|limits| limits.connections_per_ip = 1, open()).await;
    let (_endpoint, connection) = listening.connect().await.unwrap();
    let refused = listening.connect().await.unwrap_err();
    assert!(matches!(refused, ConnectionError::ConnectionClosed(_)), "{refused}");
    listening.until_closed("full").await;
    connection.close(0_u32.into(), b"");
    until_counted(&listening.node.shared, "atoll_connections{listener=\"quic\"} 0").await;
    listening.connect().await.unwrap();
}

#[tokio::test]
async fn many_handshakes_at_once_prove_their_addresses_first() {
    let listening = listen(|_| (), open()).await;
    let connects = (0..2 * HANDSHAKES_PER_SECOND).map(|_| listening.connect());
    let connected = futures_util::future::join_all(connects).await;
    assert!(connected.iter().all(Result::is_ok), "an honest client does not notice");
    let text = listening.node.shared.metrics().encode().unwrap();
    assert!(text.contains("listener=\"quic\",reason=\"retried\"}"), "{text}");
}

#[tokio::test]
async fn stop_answers_what_was_begun_and_says_goodbye() {
    let listening = listen(|_| (), open()).await;
    let (_endpoint, connection, mut send, mut reader) = listening.stream().await;
    let vector = atoll_crdt::VersionVector::from_iter([atoll_crdt::Dot::new(atoll_crdt::ActorId::new(9), 1)]);
    let token = crate::app::Tokens::of_cluster("shop").token(&vector);
    let slow = [("atoll-token", token.as_str())];
    send.write_all(&request(&Method::GET, "/v1/shop/counters/slow?wait=300ms", &slow, b"")).await.unwrap();
    while listening.node.views.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    listening.stop.send_replace(true);
    assert_eq!(next(&mut reader).await.ok(503).code(), "session_behind");
    assert_eq!(closed(&connection).await, 0);
    timeout(SOON, listening.served).await.unwrap().unwrap();
}
