//! A server that notes what it sees and answers as it is told, over HTTP, HTTPS and QUIC.
//!
//! It shares the client's framing but none of its rules, so that a test can see what the client
//! really sends, and can make the server misbehave.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_client::frame::{self, FrameReader, Limits};
use atoll_client::{Bytes, Client, ClientBuilder, Endpoint, Trust};
use bytes::BytesMut;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    /// Which of the server's connections it came on, counted from 1.
    pub(crate) connection: usize,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.target)
    }
}

/// What the server does about a request.
pub(crate) enum Answer {
    Reply(u16, Vec<(&'static str, String)>, Bytes),
    /// These bytes instead of an answer's frame, or instead of HTTP.
    Raw(Vec<u8>),
    /// Nothing: the connection is closed.
    Vanish,
    /// Nothing, ever.
    Never,
}

impl Answer {
    pub(crate) fn ok(body: impl Into<Bytes>) -> Self {
        Self::Reply(200, Vec::new(), body.into())
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::Reply(status, Vec::new(), Bytes::new())
    }

    pub(crate) fn problem(status: u16, code: &str) -> Self {
        let body = format!(r#"{{"status":{status},"code":"{code}","detail":"as told","request_id":"r1"}}"#);
        Self::Reply(status, vec![("content-type", "application/problem+json".into())], body.into())
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Self::Reply(_, headers, _) = &mut self {
            headers.push((name, value.to_owned()));
        }
        self
    }
}

type Handler = Arc<dyn Fn(Seen) -> BoxFuture<'static, Answer> + Send + Sync>;

/// What a running server shares with its test.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) url: String,
    state: Arc<State>,
}

struct State {
    handler: Handler,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    /// The QUIC close codes that clients gave.
    closes: mpsc::Sender<u64>,
    closed: tokio::sync::Mutex<mpsc::Receiver<u64>>,
}

impl Server {
    fn new(scheme: &str, address: SocketAddr, handler: Handler) -> Self {
        let (closes, closed) = mpsc::channel(64);
        let state = State {
            handler,
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            closes,
            closed: tokio::sync::Mutex::new(closed),
        };
        Self { url: format!("{scheme}://{address}"), state: Arc::new(state) }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        self.url.parse().unwrap()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }

    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// The code with which the next client closes its connection.
    pub(crate) async fn next_close(&self) -> u64 {
        self.state.closed.lock().await.recv().await.unwrap()
    }

    async fn handle(&self, seen: Seen) -> Answer {
        self.state.seen.lock().unwrap().push(seen.clone());
        (self.state.handler)(seen).await
    }

    fn count_connection(&self) -> usize {
        self.state.connections.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// A handler from a function that answers at once.
pub(crate) fn at_once(handler: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Handler {
    Arc::new(move |seen| {
        let answer = handler(&seen);
        Box::pin(async move { answer })
    })
}

/// A handler from an async function.
pub(crate) fn in_time<F>(handler: impl Fn(Seen) -> F + Send + Sync + 'static) -> Handler
where
    F: Future<Output = Answer> + Send + 'static,
{
    Arc::new(move |seen| Box::pin(handler(seen)))
}

/// Answers each request with its method and target.
pub(crate) fn echo() -> Handler {
    at_once(|seen| Answer::ok(seen.line()))
}

/// A certificate authority and what it issued.
pub(crate) struct Pki {
    pub(crate) ca_pem: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { ca_pem: issuer.pem(), issuer }
    }

    /// A certificate for loopback and its key, both in PEM.
    pub(crate) fn issue(&self) -> (String, String) {
        let (certificate, key) = self.certify();
        (certificate.pem(), key.serialize_pem())
    }

    fn certify(&self) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = CertificateParams::new(names).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::from_pem(self.ca_pem.as_bytes()).unwrap()
    }

    /// A server's TLS; with `ask_client` it takes only clients of the same authority.
    fn server_tls(&self, alpn: &[&[u8]], ask_client: bool) -> rustls::ServerConfig {
        let (certificate, key) = self.certify();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if ask_client {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from(self.issuer.der().to_vec())).unwrap();
            let roots = Arc::new(roots);
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }
}

/// A builder with limits short enough for tests of what does not answer.
pub(crate) fn client() -> ClientBuilder {
    Client::builder().connect_timeout(Duration::from_secs(1))
}

/// A client of `servers`, in this order.
pub(crate) fn client_of(servers: &[&Server], pki: &Pki) -> Client {
    let builder = client().trust(pki.trust());
    servers.iter().fold(builder, |b, server| b.endpoint(server.endpoint())).build().unwrap()
}

/// A loopback address where nothing listens, of the kind that `scheme` uses.
pub(crate) fn nobody(scheme: &str) -> Endpoint {
    let any = (Ipv4Addr::LOCALHOST, 0);
    let port = match scheme {
        "quic" => std::net::UdpSocket::bind(any).unwrap().local_addr().unwrap().port(),
        _ => std::net::TcpListener::bind(any).unwrap().local_addr().unwrap().port(),
    };
    format!("{scheme}://127.0.0.1:{port}").parse().unwrap()
}

/// Fails a test that hangs, instead of hanging the suite.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("the test hangs")
}

// HTTP

pub(crate) async fn http(handler: Handler) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let server = Server::new("http", listener.local_addr().unwrap(), handler);
    let accepted = server.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_http(accepted.clone(), stream));
        }
    });
    server
}

pub(crate) async fn https(pki: &Pki, handler: Handler) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let server = Server::new("https", listener.local_addr().unwrap(), handler);
    let tls = pki.server_tls(&[b"h2", b"http/1.1"], false);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let accepted = server.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (server, acceptor) = (accepted.clone(), acceptor.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve_http(server, stream).await;
                }
            });
        }
    });
    server
}

/// A server that answers every connection with `bytes`, whatever it says.
pub(crate) async fn not_http(bytes: &'static [u8]) -> Server {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let server = Server::new("http", listener.local_addr().unwrap(), echo());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            if stream.read(&mut request).await.is_ok() {
                let _ = stream.write_all(bytes).await;
            }
        }
    });
    server
}

async fn serve_http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(server: Server, stream: S) {
    let connection = server.count_connection();
    let service = service_fn(move |request: http::Request<Incoming>| {
        let server = server.clone();
        async move { answer_http(server, request, connection).await }
    });
    // An error is what `Vanish` ends a connection with, or the client's own end.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer_http(
    server: Server,
    request: http::Request<Incoming>,
    connection: usize,
) -> Result<http::Response<Full<Bytes>>, &'static str> {
    let (head, body) = request.into_parts();
    let text = |value: &http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let seen = Seen {
        method: head.method.to_string(),
        target: head.uri.path_and_query().unwrap().to_string(),
        headers: head.headers.iter().map(|(n, v)| (n.to_string(), text(v))).collect(),
        body: body.collect().await.map_err(|_| "the client went away")?.to_bytes(),
        connection,
    };
    match server.handle(seen).await {
        Answer::Reply(status, headers, body) => {
            let mut response = http::Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            Ok(response.body(Full::new(body)).unwrap())
        }
        Answer::Vanish => Err("as told"),
        Answer::Never => std::future::pending().await,
        Answer::Raw(_) => unreachable!("raw bytes go over QUIC, or from `not_http`"),
    }
}

// QUIC

/// What a QUIC server allows.
#[derive(Clone, Copy)]
pub(crate) struct QuicOptions {
    pub(crate) streams: u32,
    pub(crate) ask_client: bool,
}

impl Default for QuicOptions {
    fn default() -> Self {
        Self { streams: frame::STREAMS_MAX, ask_client: false }
    }
}

pub(crate) fn quic(pki: &Pki, handler: Handler) -> Server {
    quic_with(pki, QuicOptions::default(), handler)
}

pub(crate) fn quic_with(pki: &Pki, options: QuicOptions, handler: Handler) -> Server {
    let tls = pki.server_tls(&[frame::ALPN], options.ask_client);
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = quinn::TransportConfig::default();
    transport.max_concurrent_bidi_streams(options.streams.into());
    config.transport_config(Arc::new(transport));
    let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let server = Server::new("quic", endpoint.local_addr().unwrap(), handler);
    let accepted = server.clone();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(serve_quic(accepted.clone(), incoming));
        }
    });
    server
}

async fn serve_quic(server: Server, incoming: quinn::Incoming) {
    let Ok(connection) = incoming.await else {
        return;
    };
    let number = server.count_connection();
    while let Ok(streams) = connection.accept_bi().await {
        tokio::spawn(serve_stream(server.clone(), connection.clone(), number, streams));
    }
    if let Some(quinn::ConnectionError::ApplicationClosed(close)) = connection.close_reason() {
        let _ = server.state.closes.send(close.error_code.into_inner()).await;
    }
}

/// Handles a stream's requests concurrently and answers them in order.
async fn serve_stream(
    server: Server,
    connection: quinn::Connection,
    number: usize,
    (mut send, recv): (quinn::SendStream, quinn::RecvStream),
) {
    let limits = Limits::default();
    let (pending, mut answers) = mpsc::channel::<tokio::task::JoinHandle<Answer>>(10_000);
    let reader = tokio::spawn(async move {
        let mut reader = FrameReader::new(recv, &limits);
        while let Ok(Some(frame)) = reader.next().await {
            let request = frame::decode_request(&frame, &limits).unwrap();
            let headers = request.headers.iter();
            let seen = Seen {
                method: request.method.to_string(),
                target: request.target.to_string(),
                headers: headers.map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
                body: request.body.clone(),
                connection: number,
            };
            let server = server.clone();
            let answer = tokio::spawn(async move { server.handle(seen).await });
            pending.send(answer).await.unwrap();
        }
    });
    while let Some(answer) = answers.recv().await {
        let mut bytes = BytesMut::new();
        match answer.await.unwrap() {
            Answer::Reply(status, headers, body) => {
                let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
                frame::encode_response(&mut bytes, status, &headers, &body, &limits).unwrap();
            }
            Answer::Raw(raw) => bytes.extend_from_slice(&raw),
            Answer::Vanish => connection.close(0_u32.into(), b"as told"),
            Answer::Never => std::future::pending().await,
        }
        if send.write_all(&bytes).await.is_err() {
            break;
        }
    }
    reader.abort();
}
