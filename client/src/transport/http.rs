//! Requests over HTTP: a pool of kept-alive connections, HTTP/2 where TLS agrees on it.

use std::error::Error as _;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme as UriScheme};
use http::{HeaderMap, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as HyperClient, Error as HyperError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::{Failure, Settings};
use crate::api::limits::MESSAGE_BYTES_MAX;
use crate::endpoint::{Endpoint, Scheme};
use crate::error::{Error, chain};
use crate::request::{Outgoing, Response};

/// Most connections to one endpoint: HTTP/1.1 needs one for each request in flight.
const CONNECTIONS_MAX: u32 = 256;

/// How long an unused connection is kept: less than servers and middleboxes commonly allow, so
/// that a request seldom meets a connection that was just closed.
const IDLE: Duration = Duration::from_secs(30);

/// A way to one `http` or `https` endpoint.
pub(crate) struct HttpTransport {
    client: HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
    scheme: UriScheme,
    authority: Authority,
    room: Semaphore,
}

impl HttpTransport {
    pub(crate) fn new(endpoint: &Endpoint, tls: rustls::ClientConfig, settings: &Settings) -> Result<Self, Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(settings.connect_timeout));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_all_versions().wrap_connector(tcp);
        let client = HyperClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(CONNECTIONS_MAX as usize)
            .build(connector);
        let url = endpoint.to_string();
        let authority = url.split_once("://").map_or("", |(_, authority)| authority);
        Ok(Self {
            client,
            scheme: match endpoint.scheme() {
                Scheme::Http => UriScheme::HTTP,
                Scheme::Https | Scheme::Quic => UriScheme::HTTPS,
            },
            authority: authority.parse().map_err(|_| Error::bad_input("the endpoint's host"))?,
            room: Semaphore::new(settings.in_flight_max.min(CONNECTIONS_MAX) as usize),
        })
    }

    pub(crate) async fn send(&self, outgoing: &Outgoing<'_>, deadline: Instant) -> Result<Response, Failure> {
        let request = self.build(outgoing)?;
        let Ok(permit) = timeout_at(deadline, self.room.acquire()).await else {
            return Err(Failure::NotSent("too many requests are in flight".to_owned()));
        };
        let answer = timeout_at(deadline, self.exchange(request)).await;
        drop(permit);
        answer.unwrap_or(Err(Failure::NoAnswer))
    }

    fn build(&self, outgoing: &Outgoing<'_>) -> Result<http::Request<Full<Bytes>>, Failure> {
        let refuse = |what: &str| Failure::BadInput(format!("{what} cannot be sent over HTTP"));
        let target: PathAndQuery = outgoing.target.parse().map_err(|_| refuse("the target"))?;
        let uri = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(target)
            .build()
            .map_err(|_| refuse("the target"))?;
        let mut headers = HeaderMap::with_capacity(outgoing.headers.len());
        for &(name, value) in &outgoing.headers {
            let name: HeaderName = name.parse().map_err(|_| refuse("a header's name"))?;
            let mut value: HeaderValue = value.parse().map_err(|_| refuse("a header's value"))?;
            // Kept out of debug output and of HTTP/2's compression table.
            value.set_sensitive(name == http::header::AUTHORIZATION);
            headers.insert(name, value);
        }
        let mut request = http::Request::new(Full::new(outgoing.body.clone()));
        *request.method_mut() = outgoing.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }

    async fn exchange(&self, request: http::Request<Full<Bytes>>) -> Result<Response, Failure> {
        let response = self.client.request(request).await.map_err(|error| failure(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MESSAGE_BYTES_MAX).collect().await.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                Failure::Protocol(format!("an answer of more than {MESSAGE_BYTES_MAX} bytes"))
            } else {
                Failure::Lost(chain(error.as_ref()))
            }
        })?;
        Ok(Response::from_http(head.status.as_u16(), head.headers, body.to_bytes()))
    }
}

/// What an error means for the request. Only a failed connect is certain to have sent nothing: the
/// pool itself repeats a request that a stale connection never began to write.
fn failure(error: &HyperError) -> Failure {
    // The error itself only says at which stage it happened; its source says what.
    let source = error.source();
    let cause = source.map_or_else(|| chain(error), chain);
    if error.is_connect() {
        return Failure::NotSent(cause);
    }
    match source.and_then(|source| source.downcast_ref::<hyper::Error>()) {
        Some(source) if source.is_parse() => Failure::Protocol(cause),
        _ => Failure::Lost(cause),
    }
}
