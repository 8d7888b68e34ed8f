//! How many requests a second one client thread drives over QUIC, by how many are in flight.
//!
//! Client and server have a thread and a current-thread runtime each and share nothing but
//! loopback. The server does no work: it answers every frame with 204, all that have arrived in
//! one write. So this is the ceiling of the client and the protocol, not of a node.
//!
//! `cargo bench -p atoll-client --bench pipeline`

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use atoll_client::api::{Key, Namespace};
use atoll_client::frame::{self, FrameReader, Limits};
use atoll_client::{Client, Session, Trust};
use bytes::BytesMut;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;

const RUN: Duration = Duration::from_secs(2);

fn main() {
    // Cargo passes flags meant for its own harness; there is nothing to configure.
    let (certificate, key) = certificate();
    let pem = certificate.pem();
    let (address_is, address) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        runtime().block_on(serve(certificate.der().clone(), key.serialize_der(), address_is));
    });
    let address: SocketAddr = address.recv().unwrap();

    println!("{:>9}  {:>9}  {:>11}  {:>8}  {:>8}", "in flight", "session", "requests/s", "p50 µs", "p99 µs");
    for with_session in [false, true] {
        for in_flight in [1, 16, 64, 256, 1024, 4096] {
            let client = Client::builder()
                .endpoint(format!("quic://{address}").parse().unwrap())
                .trust(Trust::from_pem(pem.as_bytes()).unwrap())
                .in_flight_max(8192)
                .build()
                .unwrap();
            let (rate, mut latencies) = runtime().block_on(drive(client, in_flight, with_session));
            latencies.sort_unstable();
            let at = |share: f64| latencies[(latencies.len() as f64 * share) as usize].as_micros();
            println!("{in_flight:>9}  {with_session:>9}  {rate:>11.0}  {:>8}  {:>8}", at(0.50), at(0.99));
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn certificate() -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    (params.self_signed(&key).unwrap(), key)
}

/// Keeps `in_flight` requests going for [`RUN`]; answers the rate and each request's latency.
async fn drive(client: Client, in_flight: usize, with_session: bool) -> (f64, Vec<Duration>) {
    client.is_healthy().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..in_flight)
        .map(|n| {
            let session = if with_session { client.session() } else { client.without_session() };
            tokio::spawn(put_until(session, n, stop.clone()))
        })
        .collect();
    tokio::time::sleep(RUN).await; // sleep: the length of a run is its input
    stop.store(true, Ordering::Relaxed);
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.unwrap());
    }
    let rate = latencies.len() as f64 / begun.elapsed().as_secs_f64();
    client.close().await;
    (rate, latencies)
}

async fn put_until(session: Session, n: usize, stop: Arc<AtomicBool>) -> Vec<Duration> {
    let namespace = Namespace::new("bench").unwrap();
    let key = Key::new(&format!("key:{n}")).unwrap();
    let mut latencies = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        session.register(&namespace, &key).put(&b"a value of forty bytes, as a cart may be"[..], None).await.unwrap();
        latencies.push(begun.elapsed());
    }
    latencies
}

async fn serve(
    certificate: rustls::pki_types::CertificateDer<'static>,
    key: Vec<u8>,
    address_is: std::sync::mpsc::SyncSender<SocketAddr>,
) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::try_from(key).unwrap())
        .unwrap();
    tls.alpn_protocols = vec![frame::ALPN.to_vec()];
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    // As the client does: bursts that overflow the default buffer would measure retransmission.
    socket.set_recv_buffer_size(4 << 20).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let endpoint = quinn::Endpoint::new(
        quinn::EndpointConfig::default(),
        Some(config),
        socket.into(),
        Arc::new(quinn::TokioRuntime),
    )
    .unwrap();
    address_is.send(endpoint.local_addr().unwrap()).unwrap();
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else {
                return;
            };
            while let Ok((send, recv)) = connection.accept_bi().await {
                tokio::spawn(answer(send, recv));
            }
        });
    }
}

async fn answer(mut send: quinn::SendStream, recv: quinn::RecvStream) {
    let limits = Limits::default();
    let mut reader = FrameReader::new(recv, &limits);
    let mut out = BytesMut::new();
    while let Ok(Some(frame)) = reader.next().await {
        let mut frame = Some(frame);
        while let Some(bytes) = frame {
            let request = frame::decode_request(&bytes, &limits).unwrap();
            let headers =
                [("atoll-token", request.headers.get("atoll-token").unwrap_or("v1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"))];
            frame::encode_response(&mut out, 204, &headers, b"", &limits).unwrap();
            frame = reader.arrived().unwrap();
        }
        if send.write_chunk(out.split().freeze()).await.is_err() {
            return;
        }
    }
}
