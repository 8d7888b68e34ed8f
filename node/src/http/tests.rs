//! The listeners against slow, silent and many clients.

use super::*;
use crate::api::testing::{Node, Setup, tls, until_counted};
use atoll_client::api::{Key, Namespace, SetChange};
use atoll_client::{Client, Endpoint, Trust};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(20);

struct Listening {
    node: Node,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
}

async fn listen(change: impl FnOnce(&mut Limits), tls: Option<rustls::ServerConfig>) -> Listening {
    let mut limits = Limits::default();
    change(&mut limits);
    let node = Node::with(Setup { limits, ..Setup::default() }).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Serving {
        name: "http",
        router: node.router.clone(),
        tls: tls.map(Arc::new),
        limits,
        metrics: Arc::clone(node.shared.metrics()),
        grace: SOON,
    };
    let (stop, stopping) = watch::channel(false);
    let served = tokio::spawn(serve(listener, serving, stopping));
    Listening { node, address, stop, served }
}

impl Listening {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn until_closed(&self, reason: &str) {
        let line = format!("atoll_connections_closed_total{{listener=\"http\",reason=\"{reason}\"}} 1");
        until_counted(&self.node.shared, &line).await;
        until_counted(&self.node.shared, "atoll_connections{listener=\"http\"} 0").await;
    }

    /// The node goes on.
    async fn answers(&self) {
        let mut stream = self.connect().await;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: n1\r\nconnection: close\r\n\r\n").await.unwrap();
        assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A connection that is cut has said what it had to.
    let _ = timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("the connection stays open");
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn use_it(client: &Client) {
    let (shop, key) = (Namespace::new("shop").unwrap(), Key::new("a/b c").unwrap());
    let session = client.session();
    session.register(&shop, &key).put("hello", Some("text/plain")).await.unwrap();
    let read = session.register(&shop, &key).get().await.unwrap();
    assert_eq!(&read.value.unwrap().body[..], b"hello");
    assert_eq!(session.counter(&shop, &key).add(5).await.unwrap().value, 5);
    let change = SetChange { add: vec!["m/n".into()], remove: Vec::new() };
    assert_eq!(session.set(&shop, &key).change(&change).await.unwrap().value, 1);
    assert!(session.set(&shop, &key).has("m/n").await.unwrap().value);
    assert!(session.token().is_some());
}

#[tokio::test]
async fn project_client_is_served_in_clear() {
    let listening = listen(|_| (), None).await;
    let endpoint: Endpoint = format!("http://{}", listening.address).parse().unwrap();
    use_it(&Client::builder().endpoint(endpoint).build().unwrap()).await;
}

#[tokio::test]
async fn project_client_is_served_over_tls() {
    let (ca, tls) = tls(&[b"h2", b"http/1.1"]);
    let listening = listen(|_| (), Some(tls)).await;
    let endpoint: Endpoint = format!("https://{}", listening.address).parse().unwrap();
    let client = Client::builder().endpoint(endpoint).trust(Trust::from_pem(ca.as_bytes()).unwrap());
    use_it(&client.build().unwrap()).await;
    until_counted(&listening.node.shared, "atoll_connections{listener=\"http\"} 0").await;
    let text = listening.node.shared.metrics().encode().unwrap();
    assert!(!text.contains("atoll_connections_closed_total{"), "a client that leaves is not sent away: {text}");
    // In clear there is nothing to be had.
    let mut stream = listening.connect().await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(!rest(&mut stream).await.contains("200"));
    until_counted(&listening.node.shared, "atoll_connections_closed_total{listener=\"http\",reason=\"tls\"} 1").await;
}

#[tokio::test]
async fn requests_follow_each_other_on_one_connection() {
    let listening = listen(|_| (), None).await;
    let mut stream = listening.connect().await;
    let put = "PUT /v1/shop/registers/a%2Fb%00 HTTP/1.1\r\nhost: n1\r\ncontent-length: 5\r\n\r\nhello";
    let get = "GET /v1/shop/registers/a%2Fb%00 HTTP/1.1\r\nhost: n1\r\nconnection: close\r\n\r\n";
    stream.write_all(format!("{put}{get}").as_bytes()).await.unwrap();
    let answers = rest(&mut stream).await;
    assert!(answers.starts_with("HTTP/1.1 204 No Content\r\n"), "{answers}");
    assert!(answers.contains("HTTP/1.1 200 OK\r\n") && answers.ends_with("\r\n\r\nhello"), "{answers}");
}

#[tokio::test]
async fn silent_client_is_given_up() {
    let listening = listen(|limits| limits.header_timeout = Duration::from_millis(50), None).await;
    let mut stream = listening.connect().await;
    assert_eq!(rest(&mut stream).await, "");
    listening.until_closed("stalled").await;
    listening.answers().await;
}

#[tokio::test]
async fn client_that_never_ends_its_head_is_given_up() {
    for first in ["PRI * HTTP", "GET /healthz HTTP/1.1\r\nhost: n1\r\nx-slow: "] {
        let listening = listen(|limits| limits.header_timeout = Duration::from_millis(50), None).await;
        let mut stream = listening.connect().await;
        stream.write_all(first.as_bytes()).await.unwrap();
        assert!(!rest(&mut stream).await.contains("200"));
        listening.until_closed(if first.starts_with("PRI") { "stalled" } else { "head_timeout" }).await;
    }
}

#[tokio::test]
async fn handshake_that_never_ends_is_given_up() {
    let (_, tls) = tls(&[b"http/1.1"]);
    let listening = listen(|limits| limits.header_timeout = Duration::from_millis(50), Some(tls)).await;
    let mut stream = listening.connect().await;
    assert_eq!(rest(&mut stream).await, "");
    listening.until_closed("tls_timeout").await;
}

#[tokio::test]
async fn bytes_that_are_no_http_end_their_connection_alone() {
    let listening = listen(|_| (), None).await;
    let mut stream = listening.connect().await;
    stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is no HTTP at all\r\n\r\n").await.unwrap();
    assert!(!rest(&mut stream).await.contains(" 200 "));
    listening.until_closed("malformed").await;
    let mut stream = listening.connect().await;
    let heads = "x: y\r\n".repeat(HEADERS_MAX + 1);
    stream.write_all(format!("GET /healthz HTTP/1.1\r\n{heads}\r\n").as_bytes()).await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 431 "));
    listening.answers().await;
}

#[tokio::test]
async fn client_that_does_not_take_in_its_answer_is_given_up() {
    let listening = listen(|limits| limits.body_timeout = Duration::from_millis(100), None).await;
    listening.node.put("/v1/shop/registers/k", &"x".repeat(1 << 20)).await.ok(204);
    let mut stream = listening.connect().await;
    let requests = "GET /v1/shop/registers/k HTTP/1.1\r\nhost: n1\r\n\r\n".repeat(32);
    stream.write_all(requests.as_bytes()).await.unwrap();
    listening.until_closed("stalled").await;
    drop(stream);
    listening.answers().await;
}

#[tokio::test]
async fn connection_too_many_is_closed_at_once_and_counted() {
    let listening = listen(|limits| limits.connections_per_ip = 1, None).await;
    let mut kept = listening.connect().await;
    kept.write_all(b"GET /healthz HTTP/1.1\r\nhost: n1\r\n\r\n").await.unwrap();
    let mut first = [0; 15];
    kept.read_exact(&mut first).await.unwrap();
    let mut refused = listening.connect().await;
    assert_eq!(rest(&mut refused).await, "");
    until_counted(&listening.node.shared, "atoll_connections_closed_total{listener=\"http\",reason=\"full\"} 1").await;
    drop(kept);
    until_counted(&listening.node.shared, "atoll_connections{listener=\"http\"} 0").await;
    listening.answers().await;
}

#[tokio::test]
async fn stop_answers_what_was_begun_and_takes_nothing_more() {
    let listening = listen(|_| (), None).await;
    let mut idle = listening.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: n1\r\n\r\n").await.unwrap();
    let mut begun = listening.connect().await;
    let actor = atoll_crdt::ActorId::new(9);
    let token = crate::app::Tokens::of_cluster("shop")
        .token(&atoll_crdt::VersionVector::from_iter([atoll_crdt::Dot::new(actor, 1)]));
    let request = format!("GET /v1/shop/counters/c?wait=300ms HTTP/1.1\r\nhost: n1\r\natoll-token: {token}\r\n\r\n");
    begun.write_all(request.as_bytes()).await.unwrap();
    while listening.node.views.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    listening.stop.send_replace(true);
    assert!(rest(&mut begun).await.starts_with("HTTP/1.1 503 "), "it is answered");
    assert!(rest(&mut idle).await.starts_with("HTTP/1.1 200 "), "and the idle connection ends");
    timeout(SOON, listening.served).await.unwrap().unwrap();
    assert!(TcpStream::connect(listening.address).await.is_err());
}
