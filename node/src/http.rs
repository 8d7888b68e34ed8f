//! HTTP/1.1 and HTTP/2 listeners, with or without TLS.
//!
//! **How it goes.** One task accepts; each connection is a task of its own, with the router as its service. When the node
//! stops, no further connection is accepted, those that are open finish what they began, and what is left after the
//! grace period is cut.
//!
//! **What always holds.** H1: every wait for a client has an end: the TLS handshake, the first bytes, a request's head, its
//! body, the taking in of an answer. H2: connections are bounded, in all and from one address; one more is closed at
//! once and counted. H3: an error of one connection ends that connection alone. H4: what all clients together may send ahead over
//! HTTP/2 is a few times `limits.request_bytes_in_flight`, however many they are.
//!
//! **What is not here.** What requests mean: [`crate::api`], [`crate::admin`].
//!
//! **Why not `axum::serve`.** It installs no timer, so the head's timeout never fires, and it bounds nothing; and the
//! detection of the protocol waits for a client's first bytes for ever.

mod guarded;
mod places;

use crate::config::Limits;
use crate::metrics::Metrics;
use axum::Router;
use guarded::Guarded;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

pub(crate) use places::{Place, Places};

/// Streams of one HTTP/2 connection.
const H2_STREAMS_MAX: u32 = 128;
/// Between two pings on an HTTP/2 connection, and how long an answer may take.
const H2_PING: Duration = Duration::from_secs(20);
/// Bytes of a request's head. A session token is the largest part of one.
const HEAD_BYTES_MAX: u32 = 128 << 10;
const HEADERS_MAX: usize = 64;
/// Bytes that a client may send ahead of what is read, a stream and a connection.
const H2_STREAM_WINDOW: u32 = 256 << 10;
const H2_CONNECTION_WINDOW: u32 = 1 << 20;
/// The same of a connection among very many: HTTP/2 has no smaller one. H4
const H2_WINDOW_MIN: u32 = 64 << 10;
/// Bytes of an answer that a stream's writer holds; more stays where it came from.
const H2_SEND_BUFFER: usize = 64 << 10;

/// What a listener serves, and how.
#[derive(Clone)]
pub struct Serving {
    /// `http` or `admin`: names it in metrics and the log.
    pub name: &'static str,
    /// What requests mean.
    pub router: Router,
    /// With TLS, if at all.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Bounds on clients.
    pub limits: Limits,
    /// The node's metrics.
    pub metrics: Arc<Metrics>,
    /// How long open connections may take to finish when the node stops.
    pub grace: Duration,
}

/// Serves until `stop` says so (its value becomes `true`, or its sender is gone), then finishes.
pub async fn serve(listener: TcpListener, serving: Serving, mut stop: watch::Receiver<bool>) {
    let places = Places::new(&serving.limits, serving.metrics.connections(serving.name));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            // Reaps what has ended.
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => match places.take(from.ip()) {
                    // H2
                    None => serving.metrics.closed(serving.name, "full"),
                    Some(place) => {
                        let budget = serving.limits.request_bytes_in_flight;
                        let window = places.share(budget, H2_WINDOW_MIN, H2_CONNECTION_WINDOW);
                        connections.spawn(connection(stream, from.ip(), serving.clone(), stop.clone(), (place, window)));
                    }
                },
                Err(error) => {
                    tracing::warn!(listener = serving.name, "cannot accept a connection: {error}");
                    if !is_of_one_connection(&error) {
                        // Out of files or memory: trying again at once would spin.
                        sleep(Duration::from_millis(100)).await;
                    }
                }
            },
        }
    }
    drop(listener);
    let deadline = Instant::now() + serving.grace;
    while let Ok(Some(_)) = timeout_at(deadline, connections.join_next()).await {}
    connections.shutdown().await;
}

/// Waits until the node stops.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone has nothing more to say than that.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// One connection from its first byte to its end. H3
async fn connection(
    stream: TcpStream,
    from: IpAddr,
    serving: Serving,
    stop: watch::Receiver<bool>,
    place: (Place, u32),
) {
    // Answers are written whole: waiting to fill a packet only delays them.
    let _ = stream.set_nodelay(true);
    let (_place, window) = place;
    let reason = match serving.tls.clone() {
        None => converse(stream, &serving, stop, window).await,
        Some(tls) => match timeout(serving.limits.header_timeout, TlsAcceptor::from(tls).accept(stream)).await {
            Ok(Ok(stream)) => converse(stream, &serving, stop, window).await,
            // H1
            Ok(Err(error)) => {
                tracing::debug!(listener = serving.name, %from, "TLS: {error}");
                Some("tls")
            }
            Err(_) => Some("tls_timeout"),
        },
    };
    if let Some(reason) = reason {
        serving.metrics.closed(serving.name, reason);
        tracing::debug!(listener = serving.name, %from, reason, "connection ended");
    }
}

/// Serves requests until the client is done, or the node stops; tells why this side ended it, if it did.
async fn converse<S>(stream: S, serving: &Serving, mut stop: watch::Receiver<bool>, window: u32) -> Option<&'static str>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(Guarded::new(stream, serving.limits.header_timeout, serving.limits.body_timeout));
    let service = TowerToHyperService::new(serving.router.clone());
    let server = server(&serving.limits, window);
    let mut connection = std::pin::pin!(server.serve_connection(io, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.err().and_then(|error| why(&*error))
}

fn server(limits: &Limits, window: u32) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX as usize);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .initial_stream_window_size(H2_STREAM_WINDOW.min(window))
        .initial_connection_window_size(window)
        .max_send_buf_size(H2_SEND_BUFFER)
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(H2_PING);
    server
}

/// A word for why this side ended a connection; `None` when the client left.
fn why(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    use io::ErrorKind as K;
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            if error.is_timeout() {
                return Some("head_timeout");
            }
            if error.is_parse() {
                return Some("malformed");
            }
            if error.is_incomplete_message() {
                return None;
            }
        }
        match error.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(K::TimedOut) => return Some("stalled"),
            // Without a good-bye of TLS, the end of the stream is unexpected.
            Some(K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::NotConnected | K::UnexpectedEof) => {
                return None;
            }
            _ => {}
        }
        cause = error.source();
    }
    Some("broken")
}

#[cfg(test)]
mod tests;
