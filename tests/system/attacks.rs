//! Clients that mean harm, for real and in numbers: the node's memory stays under what its limits say, it serves others
//! meanwhile and goes on afterwards.
//!
//! **What is not here.** Each limit by itself, with its counter: the listeners' own tests in `node/src`.

use crate::cluster::{Cluster, Node, PATIENCE};
use crate::{key, shop};
use anyhow::{Context, ensure};
use futures_util::future::join_all;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

const MIB: u64 = 1 << 20;
/// What all sorts of small things may take beside what a limit bounds: tasks, TLS, the allocator's own.
const SMALL_THINGS: u64 = 64 * MIB;
/// Most that one request's head takes: the bound of a head, twice, while its buffer grows.
const HEAD: u64 = 256 << 10;
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const BYSTANDER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The most memory that a process has had resident, in bytes.
fn peak(node: &Node) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no peak")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib << 10)
}

/// What the process has grown by since it had `before`; said, and checked against a bound.
#[expect(clippy::print_stderr, reason = "the figure is for whoever reads a run")]
fn check_growth(node: &Node, before: u64, bound: u64, attack: &str) -> anyhow::Result<()> {
    let grown = peak(node)?.saturating_sub(before);
    eprintln!("{attack}: {} MiB more, at most {} MiB", grown / MIB, bound / MIB);
    ensure!(grown <= bound, "{attack}: {grown} bytes more than before, and the bound is {bound}");
    Ok(())
}

async fn connect(port: u16, from: Ipv4Addr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    Ok(socket.connect((Ipv4Addr::LOCALHOST, port).into()).await?)
}

/// Sends bytes and reads until the other end closes; what came before that.
async fn say(port: u16, from: Ipv4Addr, bytes: &[u8]) -> anyhow::Result<String> {
    let mut stream = connect(port, from).await?;
    // A node that has heard enough does not take in the rest.
    let _ = stream.write_all(bytes).await;
    let mut said = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.context("it is not closed")?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

async fn answers(port: u16) -> anyhow::Result<()> {
    let said =
        say(port, BYSTANDER, b"GET /v1/shop/registers/k HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n").await?;
    ensure!(said.starts_with("HTTP/1.1 404"), "{said}");
    Ok(())
}

/// A counter of `/metrics`, all its labels that contain `label` summed.
async fn counted(node: &Node, name: &str, label: &str) -> anyhow::Result<f64> {
    let text = node.metrics().await?;
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

async fn until_counted(node: &Node, name: &str, label: &str, done: impl Fn(f64) -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done(counted(node, name, label).await?) {
        ensure!(Instant::now() < deadline, "{name} {label} is {}", counted(node, name, label).await?);
        tokio::time::sleep(Duration::from_millis(50)).await; // sleep: between two looks at a condition
    }
    Ok(())
}

/// A node by itself, in clear.
async fn in_clear(limits: &str) -> anyhow::Result<Cluster> {
    let mut cluster = Cluster::new(&["eu-west-1"])?;
    let config = cluster.nodes[0].config.clone();
    let text = std::fs::read_to_string(&config)?;
    let text = text.split("[tls]").next().context("a beginning")?;
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("seeds")).collect();
    std::fs::write(&config, format!("{}\n[limits]\n{limits}", kept.join("\n")))?;
    cluster.nodes[0].spawn()?;
    let port = cluster.nodes[0].ports.http;
    let deadline = Instant::now() + PATIENCE;
    while answers(port).await.is_err() {
        ensure!(Instant::now() < deadline, "{}", cluster.nodes[0].log());
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
    }
    Ok(cluster)
}

#[tokio::test]
async fn a_flood_of_slow_heads_takes_no_more_than_its_connections_may_and_keeps_no_other_address_out()
-> anyhow::Result<()> {
    const PER_ADDRESS: usize = 400;
    let limits = format!("connections = 600\nconnections_per_ip = {PER_ADDRESS}\nheader_timeout = \"3s\"\n");
    let cluster = in_clear(&limits).await?;
    let (node, port) = (&cluster.nodes[0], cluster.nodes[0].ports.http);
    let before = peak(node)?;
    // As much of a head as is taken, and never its end.
    let head = format!("GET /v1/shop/registers/k HTTP/1.1\r\nhost: n\r\nx: {}", "a".repeat(100 << 10));
    let mut held = Vec::new();
    for _ in 0..PER_ADDRESS {
        let mut stream = connect(port, ATTACKER).await?;
        stream.write_all(head.as_bytes()).await?;
        held.push(stream);
    }
    ensure!(say(port, ATTACKER, head.as_bytes()).await?.is_empty(), "one too many of one address is closed at once");
    answers(port).await.context("another address is served")?;
    ensure!(counted(node, "atoll_connections_closed_total", "reason=\"full\"").await? >= 1.0);
    until_counted(node, "atoll_connections_closed_total", "reason=\"head_timeout\"", |n| n >= PER_ADDRESS as f64)
        .await?;
    drop(held);
    check_growth(node, before, PER_ADDRESS as u64 * HEAD + SMALL_THINGS, "400 slow heads of 100 KiB")?;
    answers(port).await
}

#[tokio::test]
async fn slow_giant_and_deep_bodies_are_shed_or_cut_before_they_fill_the_memory() -> anyhow::Result<()> {
    const BODIES: u64 = 64 * MIB;
    let cluster =
        in_clear("header_timeout = \"3s\"\nbody_timeout = \"2s\"\nrequest_bytes_in_flight = \"64MiB\"\n").await?;
    let (node, port) = (&cluster.nodes[0], cluster.nodes[0].ports.http);
    let before = peak(node)?;
    let post = |length: u64| {
        format!(
            "POST /v1/shop/sets/k HTTP/1.1\r\nhost: n\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n"
        )
    };
    // 400 MB are announced, a third is sent, and none of it is ever ended.
    let slow = [post(1_000_000).as_bytes(), &vec![b'['; 330_000]].concat();
    let attack = join_all((0..400).map(|_| say(port, ATTACKER, &slow)));
    let (said, bystander) = tokio::join!(attack, answers(port));
    bystander.context("another is served meanwhile")?;
    let said = said.into_iter().collect::<Result<Vec<_>, _>>()?;
    let shed = said.iter().filter(|said| said.contains("\"overloaded\"")).count();
    ensure!(shed > 300, "{shed} of 400 are shed at once: 8 MB count for each of the others");
    check_growth(node, before, BODIES + 400 * HEAD + SMALL_THINGS, "400 slow bodies")?;
    // Far too large by its word, and without a word.
    let said = say(port, ATTACKER, post(10 << 30).as_bytes()).await?;
    ensure!(said.contains("\"too_large\""), "{said}");
    let head = post(0).replace("content-length: 0", "transfer-encoding: chunked");
    let endless = [head.as_bytes(), &[b"10000\r\n", &[b'['; 0x1_0000][..], b"\r\n"].concat().repeat(128)].concat();
    let said = say(port, ATTACKER, &endless).await?;
    ensure!(said.contains("\"too_large\"") || said.is_empty(), "{said}");
    // Deep, in every kind of body, and in a path.
    let deep = "[".repeat(500_000);
    for (line, body) in [
        ("POST /v1/shop/sets/k", deep.clone()),
        ("PATCH /v1/shop/maps/k", format!("{{\"set\":{{\"/a\":{deep}")),
        ("PATCH /v1/shop/maps/k", format!("{{\"set\":{{\"/a\":{}", "{\"a\":".repeat(100_000))),
        ("POST /v1/shop/_batch", format!("{{\"ops\":{deep}")),
    ] {
        let head = format!("{line} HTTP/1.1\r\nhost: n\r\nconnection: close\r\ncontent-type: application/json\r\n");
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        let said = say(port, ATTACKER, request.as_bytes()).await?;
        ensure!(said.starts_with("HTTP/1.1 400") && said.contains("\"malformed\""), "{line}: {said}");
    }
    let path =
        format!("GET /v1/shop/maps/k?path={} HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n", "/a".repeat(20_000));
    let said = say(port, ATTACKER, path.as_bytes()).await?;
    ensure!(said.starts_with("HTTP/1.1 4"), "{said}");
    check_growth(node, before, BODIES + 400 * HEAD + SMALL_THINGS, "and giant and deep ones")?;
    answers(port).await
}

/// A QUIC client that keeps to the handshake and to nothing else.
fn attacker(ca: &Path) -> anyhow::Result<quinn::Endpoint> {
    use quinn::rustls;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in rustls_pki_types::pem::PemObject::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"atoll/1".to_vec()];
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse()?)?;
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls)?;
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    Ok(endpoint)
}

/// Fills every stream that a connection gets with requests that wait, and keeps it open until the node ends it.
async fn fill(endpoint: quinn::Endpoint, port: u16) {
    let Ok(dialled) = endpoint.connect((Ipv4Addr::LOCALHOST, port).into(), "localhost") else { return };
    let Ok(connection) = dialled.await else { return };
    let body = vec![0x91; 1 << 20];
    // A frame that is longer than what comes of it.
    let frame = [&1_400_000_u32.to_be_bytes()[..], &body].concat();
    let streams = (0..64).map(|_| async {
        if let Ok((mut send, _receive)) = connection.open_bi().await {
            let _ = send.write_all(&frame).await;
            connection.closed().await;
        }
    });
    // Those that are not let open a stream wait until the connection ends.
    let _ = tokio::time::timeout(Duration::from_secs(6), join_all(streams)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_connections_streams_and_datagrams_over_quic_take_their_share_and_no_more() -> anyhow::Result<()> {
    const CONNECTIONS: usize = 200;
    const BUDGET: u64 = 64 * MIB;
    let limits = format!(
        "[limits]\nconnections_per_ip = {CONNECTIONS}\nheader_timeout = \"3s\"\nbody_timeout = \"3s\"\n\
         request_bytes_in_flight = \"64MiB\"\n"
    );
    let cluster = Cluster::with(&["eu-west-1"], &limits).await?;
    let node = &cluster.nodes[0];
    let session = node.http()?.session();
    session.register(&shop(), &key("k")).put("before", None).await?;
    let before = peak(node)?;
    // 12 GiB are offered.
    let endpoint = attacker(&cluster.dir().join("pki/ca.crt"))?;
    let attack = join_all((0..CONNECTIONS).map(|_| fill(endpoint.clone(), node.ports.quic)));
    let meanwhile = async {
        let read = session.register(&shop(), &key("k")).get().await?;
        ensure!(read.value.context("a value")?.body == "before");
        Ok(())
    };
    let (_, served) = tokio::join!(attack, meanwhile);
    served.context("another is served meanwhile")?;
    endpoint.close(0_u32.into(), b"");
    // A share of the budget for the n-th of them is a n-th: all together that many times the budget, and each has its least.
    let shares = BUDGET * 6 + CONNECTIONS as u64 * (256 << 10);
    check_growth(node, before, BUDGET + shares + SMALL_THINGS, "200 QUIC connections of 64 streams")?;
    ensure!(counted(node, "atoll_connections_closed_total", "listener=\"quic\"").await? > 0.0);
    // Datagrams that begin as handshakes do, and are none.
    let noise = UdpSocket::bind("127.0.0.1:0").await?;
    let mut datagram = vec![0xc3, 0, 0, 0, 1, 8];
    datagram.resize(1_200, 7);
    for n in 0..20_000_u32 {
        datagram[6..10].copy_from_slice(&n.to_be_bytes());
        for port in [node.ports.quic, node.ports.peer] {
            let _ = noise.send_to(&datagram, (Ipv4Addr::LOCALHOST, port)).await;
        }
    }
    until_counted(node, "atoll_connections{listener=\"quic\"}", "", |open| open == 0.0).await?;
    check_growth(node, before, BUDGET + shares + SMALL_THINGS, "and 40,000 datagrams")?;
    let there = node.quic()?.session();
    there.register(&shop(), &key("k")).put("after", None).await?;
    node.ready().await
}
