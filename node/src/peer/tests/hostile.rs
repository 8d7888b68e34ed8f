//! Peers that break the protocol, and strangers: each costs its own connection and a count, and the node goes on.

use super::super::transport;
use super::*;
use crate::tls::PEER_SERVER_NAME;
use quinn::{Connection, ConnectionError, Endpoint, SendStream};

/// A QUIC client that sends whatever bytes a test likes.
struct Raw(Endpoint);

impl Raw {
    fn new(tls: &Tls) -> Self {
        let mut endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        endpoint.set_default_client_config(transport::client(tls.peer_client().unwrap(), &Limits::default()).unwrap());
        Self(endpoint)
    }

    async fn connect(&self, node: &Node) -> Result<Connection, ConnectionError> {
        self.0.connect(node.peers.local_addr().unwrap(), PEER_SERVER_NAME).unwrap().await
    }
}

/// Why the node ended a connection, as it told the peer.
async fn told(connection: &Connection) -> Fault {
    let ended = tokio::time::timeout(LONG, connection.closed()).await.expect("an end in time");
    let ConnectionError::ApplicationClosed(close) = ended else { panic!("not by the node: {ended}") };
    Fault::from_code(close.error_code).expect("a known code")
}

fn frame(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

async fn stream(connection: &Connection, bytes: &[u8]) -> SendStream {
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// What a hostile peer does.
enum Attack {
    /// These bytes on the control stream, without a greeting.
    Ungreeted(Vec<u8>),
    /// These bytes after a greeting.
    Control(Vec<u8>),
    /// These bytes after a greeting, and the end of the stream.
    ControlEnd(Vec<u8>),
    /// These bytes on the stream of records.
    Live(Vec<u8>),
    /// These bytes on the stream of reconciliations.
    Bulk(Vec<u8>),
    /// A fourth stream.
    Fourth,
    /// A stream that is abandoned.
    Reset,
}

impl Attack {
    async fn run(&self, connection: &Connection) -> Vec<SendStream> {
        let greeting = frame(&hello("n9"));
        let with = |bytes: &[u8]| [greeting.as_slice(), bytes].concat();
        let mut streams = Vec::new();
        match self {
            Self::Ungreeted(bytes) => streams.push(stream(connection, bytes).await),
            Self::Control(bytes) => streams.push(stream(connection, &with(bytes)).await),
            Self::ControlEnd(bytes) => {
                streams.push(stream(connection, &with(bytes)).await);
                streams[0].finish().unwrap();
            }
            Self::Live(bytes) => {
                streams.push(stream(connection, &greeting).await);
                streams.push(stream(connection, bytes).await);
            }
            Self::Bulk(bytes) => {
                for bytes in [&greeting, &frame(&records(1..2)), bytes] {
                    streams.push(stream(connection, bytes).await);
                }
            }
            Self::Fourth => {
                for bytes in [greeting, frame(&records(1..2)), frame(&cells(1)), frame(&ping(1))] {
                    streams.push(stream(connection, &bytes).await);
                }
            }
            Self::Reset => {
                streams.push(stream(connection, &greeting).await);
                streams[0].reset(quinn::VarInt::from_u32(1)).unwrap();
            }
        }
        streams
    }
}

/// Frames that do not read.
fn broken_frames() -> Vec<(&'static str, Attack)> {
    use Attack::{Bulk, Control, ControlEnd, Live, Ungreeted};
    let a_ping = frame(&ping(1));
    let mut damaged = frame(&records(1..2));
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let mut nested = vec![0, 0, 0x10, 0x02, 1, 0];
    nested.resize(4_096 + 6, 0x91);
    let noise = (0..200).map(|n: u32| (n * 97 % 251) as u8).collect();
    let cut = a_ping[..a_ping.len() - 1].to_vec();
    vec![
        ("an unknown type", Control(vec![0, 0, 0, 2, 99, 0])),
        ("4 GiB", Control(vec![0xff, 0xff, 0xff, 0xff, 7, 0])),
        ("more than its type's", Live(vec![1, 0, 0, 0, 10, 0])),
        ("more than a reconciliation's", Bulk(vec![5, 0, 0, 0, 20, 0])),
        ("less than a header", Control(vec![0, 0, 0, 1, 7, 0])),
        ("no MessagePack", Control(vec![0, 0, 0, 3, 7, 0, 0xc1])),
        ("nested a thousand deep", Ungreeted(nested)),
        ("a body cut short", ControlEnd(cut)),
        ("a header cut short", ControlEnd(a_ping[..3].to_vec())),
        ("a damaged record", Live(damaged)),
        ("noise", Ungreeted(noise)),
        ("no greeting first", Ungreeted(a_ping)),
    ]
}

/// Streams that are not what a peer opens.
fn broken_streams() -> Vec<(&'static str, Attack)> {
    use Attack::{Bulk, Control, ControlEnd, Fourth, Live, Reset};
    vec![
        ("records as control", Control(frame(&records(1..2)))),
        ("control as records", Live(frame(&ping(1)))),
        ("a stream that ends", ControlEnd(Vec::new())),
        ("a stream that is abandoned", Reset),
        ("records as a reconciliation", Bulk(frame(&records(1..2)))),
        ("a reconciliation as records", Live(frame(&cells(1)))),
        ("a fourth stream", Fourth),
    ]
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_loses_its_own_connection_only() {
    let ca = Ca::new();
    let mut a = Node::start(tls(&ca, "n1"), Setup::default());
    let mut good = Node::start(tls(&ca, "n2"), Setup::seed(&a));
    let (at_good, _) = tokio::join!(good.greeted("n1"), a.greeted("n2"));
    let raw = Raw::new(&tls(&ca, "n9"));
    let frames = broken_frames().into_iter().map(|it| (it, Fault::Frame));
    let streams = broken_streams().into_iter().map(|it| (it, Fault::Stream));
    for ((what, attack), fault) in frames.chain(streams) {
        let before = a.count(fault);
        let connection = raw.connect(&a).await.unwrap();
        let link = a.up("n9").await;
        let streams = attack.run(&connection).await;
        assert_eq!(told(&connection).await, fault, "{what}");
        a.down(link).await;
        assert_eq!(a.count(fault), before + 1, "{what} is counted");
        drop(streams);
        good.peers.send(at_good, ping(7));
        assert_eq!(a.ping().await, 7, "the others go on after {what}");
    }
    assert!(good.ended.is_empty());
}

#[tokio::test]
async fn a_peer_that_does_not_greet_is_ended_in_time_and_its_records_are_not_read() {
    let ca = Ca::new();
    let limits = Limits { greeting: Duration::from_millis(300), ..Limits::default() };
    let mut a = Node::start(tls(&ca, "n1"), Setup { limits, ..Setup::default() });
    let connection = Raw::new(&tls(&ca, "n9")).connect(&a).await.unwrap();
    let control = connection.open_uni().await.unwrap();
    let live = stream(&connection, &frame(&records(1..2))).await;
    let link = a.up("n9").await;
    assert_eq!(told(&connection).await, Fault::Greeting);
    assert!(matches!(a.next().await, Input::LinkDown(down) if down == link), "no records in between");
    drop((control, live));
}

#[tokio::test]
async fn records_that_arrive_before_the_greeting_wait_for_it() {
    let ca = Ca::new();
    let mut a = Node::start(tls(&ca, "n1"), Setup::default());
    let connection = Raw::new(&tls(&ca, "n9")).connect(&a).await.unwrap();
    let mut control = connection.open_uni().await.unwrap();
    let live = stream(&connection, &frame(&records(1..2))).await;
    a.up("n9").await;
    control.write_all(&frame(&hello("n9"))).await.unwrap();
    assert!(matches!(a.next().await, Input::LinkMessage(_, Message::Hello(_))));
    assert!(matches!(a.next().await, Input::LinkMessage(_, Message::Records(_))));
    drop(live);
}

#[tokio::test]
async fn a_node_of_another_ca_is_refused_whoever_dials() {
    let (ca, other) = (Ca::new(), Ca::new());
    let mut a = Node::start(tls(&ca, "n1"), Setup::default());
    let stranger = Node::start(tls(&other, "n2"), Setup::seed(&a));
    let raw = Raw::new(&tls(&other, "n9"));
    assert!(raw.connect(&a).await.is_err(), "the dialler does not believe the node");
    // A dialler that believes anyone, but shows a certificate of another CA.
    let mixed = crate::tls::tests::mixed(&ca, &other, "atoll://shop/eu-west-1/n9");
    let connection = Raw::new(&mixed).connect(&a).await;
    if let Ok(connection) = connection {
        let ended = tokio::time::timeout(LONG, connection.closed()).await.unwrap();
        assert!(matches!(ended, ConnectionError::ConnectionClosed(_)), "TLS ends it: {ended}");
    }
    let mut friend = Node::start(tls(&ca, "n3"), Setup::seed(&a));
    tokio::join!(friend.greeted("n1"), a.greeted("n3"));
    until(|| a.count(Fault::Certificate) >= 2 && stranger.count(Fault::Certificate) >= 1).await;
    assert!(stranger.events.is_empty());
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused_although_the_ca_is_the_same() {
    let ca = Ca::new();
    let mut a = Node::start(tls(&ca, "n1"), Setup::default());
    let connection = Raw::new(&ca.node("atoll://bank/eu-west-1/n2")).connect(&a).await.unwrap();
    assert_eq!(told(&connection).await, Fault::Identity);
    // And the dialler refuses as well.
    let stranger = Node::start(ca.node("atoll://bank/eu-west-1/n3"), Setup::seed(&a));
    let mut friend = Node::start(tls(&ca, "n4"), Setup::seed(&a));
    tokio::join!(friend.greeted("n1"), a.greeted("n4"));
    assert!(stranger.events.is_empty(), "it never had a link");
    assert_eq!(a.open.len(), 1);
}

#[tokio::test]
async fn another_process_with_this_nodes_name_is_no_seed_that_is_itself() {
    let ca = Ca::new();
    let a = Node::start(tls(&ca, "n1"), Setup::default());
    let connection = Raw::new(&tls(&ca, "n1")).connect(&a).await.unwrap();
    assert_eq!(told(&connection).await, Fault::Identity);
    assert_eq!(a.count(Fault::Own), 0);
}

#[tokio::test]
async fn a_flood_of_handshakes_must_prove_its_addresses_and_keeps_nobody_out() {
    let (ca, other) = (Ca::new(), Ca::new());
    let limits = Limits { handshakes_per_s: 5, ..Limits::default() };
    let mut a = Node::start(tls(&ca, "n1"), Setup { limits, ..Setup::default() });
    let raw = Raw::new(&tls(&other, "n9"));
    let flood = futures_util::future::join_all((0..100).map(|_| raw.connect(&a))).await;
    assert!(flood.iter().all(Result::is_err));
    assert!(a.count(Fault::Retried) >= 50, "{:?}", a.peers.faults());
    let mut friend = Node::start(tls(&ca, "n3"), Setup::seed(&a));
    tokio::join!(friend.greeted("n1"), a.greeted("n3"));
}

#[tokio::test]
async fn connections_and_handshakes_beyond_their_bounds_are_refused() {
    let ca = Ca::new();
    let limits = Limits { links: 1, ..Limits::default() };
    let mut a = Node::start(tls(&ca, "n1"), Setup { limits, ..Setup::default() });
    let raw = Raw::new(&tls(&ca, "n9"));
    let _kept = raw.connect(&a).await.unwrap();
    a.up("n9").await;
    assert_eq!(told(&raw.connect(&a).await.unwrap()).await, Fault::Full);

    let limits = Limits { handshakes: 0, ..Limits::default() };
    let b = Node::start(tls(&ca, "n2"), Setup { limits, ..Setup::default() });
    let refused = raw.connect(&b).await.unwrap_err();
    assert!(matches!(refused, ConnectionError::ConnectionClosed(_)), "{refused}");
    assert_eq!(b.count(Fault::Full), 1);
}
