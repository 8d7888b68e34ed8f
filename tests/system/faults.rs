//! Bad surroundings and bad peers: one clear line, and the node goes on or does not start.

use super::cluster::{Cluster, PATIENCE, atoll, wait};
use anyhow::{Context, ensure};
use atoll::pki;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Starts a node that must refuse to start; gives what it says.
fn refusal(config: &Path) -> anyhow::Result<String> {
    let mut child = atoll(&["serve", "--config", config.to_str().context("a path in UTF-8")?]).spawn()?;
    let status = wait(&mut child)?;
    let mut said = String::new();
    child.stderr.take().context("its errors")?.read_to_string(&mut said)?;
    ensure!(status.code() == Some(5), "exit status {status:?}: {said}");
    let complaint: Vec<_> = said.lines().filter(|line| line.starts_with("atoll: ") || line.contains("error")).collect();
    ensure!(complaint.len() == 1, "one clear line, not:\n{said}");
    Ok(said)
}

fn rewrite(config: &Path, from: &str, to: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(config)?;
    ensure!(text.contains(from), "{from} is in the file");
    Ok(std::fs::write(config, text.replace(from, to))?)
}

#[tokio::test]
async fn a_node_that_cannot_start_says_why_in_one_line_and_exits_with_5() -> anyhow::Result<()> {
    let mut cluster = Cluster::new(&["eu-west-1", "us-east-1"])?;
    let (first, second) = (cluster.nodes[0].config.clone(), cluster.nodes[1].config.clone());
    // A port in use.
    let taken = TcpListener::bind(("127.0.0.1", cluster.nodes[0].ports.http))?;
    let said = refusal(&first)?;
    ensure!(said.contains(&cluster.nodes[0].ports.http.to_string()), "{said}");
    drop(taken);
    // A key that does not exist.
    rewrite(&second, "data_dir", "datadir")?;
    let said = refusal(&second)?;
    ensure!(said.contains("datadir") && said.contains("data_dir"), "{said}");
    rewrite(&second, "datadir", "data_dir")?;
    // A certificate that names another node.
    rewrite(&second, "n1.crt", "n0.crt")?;
    rewrite(&second, "n1.key", "n0.key")?;
    let said = refusal(&second)?;
    ensure!(said.contains("n0") && said.contains("n1"), "{said}");
    // A data directory in use by another process.
    cluster.nodes[0].spawn()?;
    let lock = cluster.nodes[0].data_dir.join("LOCK");
    let deadline = Instant::now() + PATIENCE;
    while !lock.exists() || cluster.nodes[0].http()?.readiness(None).await.is_err() {
        ensure!(Instant::now() < deadline, "{}", cluster.nodes[0].log());
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
    }
    let ports = &cluster.nodes[0].ports;
    let other = cluster.dir().join("twice.toml");
    std::fs::copy(&first, &other)?;
    for port in [ports.http, ports.quic, ports.peer, ports.admin] {
        rewrite(&other, &format!("= \"127.0.0.1:{port}\""), "= \"127.0.0.1:0\"")?;
    }
    let said = refusal(&other)?;
    ensure!(said.contains("in use"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_peer_with_a_certificate_of_another_ca_is_refused_and_the_node_goes_on() -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&["eu-west-1"]).await?;
    let mut stranger = Cluster::new(&["us-east-1"])?;
    let peer = cluster.nodes[0].ports.peer;
    let own = stranger.nodes[0].ports.peer;
    rewrite(
        &stranger.nodes[0].config,
        &format!("seeds = [\"127.0.0.1:{own}\"]"),
        &format!("seeds = [\"127.0.0.1:{peer}\"]"),
    )?;
    stranger.nodes[0].spawn()?;
    let deadline = Instant::now() + PATIENCE;
    while !stranger.nodes[0].log().contains("certificate") {
        ensure!(Instant::now() < deadline, "the stranger says why: {}", stranger.nodes[0].log());
        tokio::time::sleep(Duration::from_millis(20)).await; // sleep: between two looks at a condition
    }
    let status = cluster.nodes[0].admin()?.status().await?;
    ensure!(status.peers.is_empty(), "{status:?}");
    cluster.nodes[0].ready().await?;
    ensure!(cluster.nodes[0].stop().await?.success());
    Ok(())
}

/// Sends bytes on a new stream of a QUIC connection, and waits for the node to end the connection.
async fn hurl(
    address: SocketAddr,
    alpn: &[u8],
    ca: &Path,
    identity: Option<(&Path, &Path)>,
    bytes: &[u8],
) -> anyhow::Result<()> {
    use quinn::rustls;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in rustls_pki_types::pem::PemObject::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut tls = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = rustls_pki_types::pem::PemObject::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
            builder.with_client_auth_cert(chain, rustls_pki_types::pem::PemObject::from_pem_file(key)?)?
        }
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(quinn::crypto::rustls::QuicClientConfig::try_from(tls)?));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse()?)?;
    let connection = endpoint.connect_with(config, address, "localhost")?.await?;
    if alpn == b"atoll/1" {
        let (mut send, _receive) = connection.open_bi().await?;
        // The node may have ended the connection already: that is what the test is for.
        let _ = send.write_all(bytes).await;
    } else {
        let mut send = connection.open_uni().await?;
        let _ = send.write_all(bytes).await;
    }
    tokio::time::timeout(PATIENCE, connection.closed()).await.context("the node ends the connection")?;
    Ok(())
}

#[tokio::test]
async fn hostile_bytes_end_their_connection_and_nothing_else() -> anyhow::Result<()> {
    let cluster = Cluster::start(&["eu-west-1"]).await?;
    let node = &cluster.nodes[0];
    let keys = cluster.dir().join("pki");
    pki::issue(&keys, &pki::Node { name: "evil".into(), region: "eu-west-1".into(), sans: Vec::new(), days: 2 })?;
    let (ca, certificate, key) = (keys.join("ca.crt"), keys.join("evil.crt"), keys.join("evil.key"));
    let hostile: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0xff; 64],
        // A length within bounds, then a body that is no message.
        &[0, 0, 0, 8, 1, 0, 0xc1, 0xc1, 0xc1, 0xc1, 0xc1, 0xc1],
        // Nesting without end.
        &[
            0, 0, 0, 34, 1, 0, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91,
            0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91, 0x91,
        ],
    ];
    for bytes in hostile {
        let peer = SocketAddr::from(([127, 0, 0, 1], node.ports.peer));
        hurl(peer, atoll_replication::wire::ALPN, &ca, Some((&certificate, &key)), bytes).await?;
        let client = SocketAddr::from(([127, 0, 0, 1], node.ports.quic));
        hurl(client, b"atoll/1", &ca, None, bytes).await?;
    }
    node.ready().await?;
    let metrics = node.admin()?.metrics().await?;
    let counted =
        metrics.lines().any(|line| line.starts_with("atoll_connections_closed_total") && line.contains("quic"));
    ensure!(counted, "closed connections are counted by reason:\n{metrics}");
    ensure!(node.log().contains("WARN") || node.log().contains("closed"), "and logged:\n{}", node.log());
    Ok(())
}
