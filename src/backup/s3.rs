//! A bucket that speaks S3, reached by the HTTP stack that everything else here uses.
//!
//! **What always holds.** Keys come from the usual `AWS_` variables, or from the machine's role; they are in headers that are never
//! printed. A request has an end: [`CONNECT_MAX`] and [`REQUEST_MAX`].
//!
//! **Why not the store's own transport.** It brings a second HTTP client and a second TLS provider, and two providers in one process make
//! rustls choose neither.

use http_body_util::BodyExt as _;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use object_store::{ClientOptions, Error};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::time::Duration;

const CONNECT_MAX: Duration = Duration::from_secs(10);
/// For one object, both ways, and one that is 32 MiB.
const REQUEST_MAX: Duration = Duration::from_secs(300);

/// A bucket, by what the environment says of it.
pub(super) fn bucket(name: &str) -> Result<AmazonS3, Error> {
    AmazonS3Builder::from_env().with_bucket_name(name).with_http_connector(Connector).build()
}

#[derive(Debug)]
struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> Result<HttpClient, Error> {
        let cannot = |error: io::Error| Error::Generic { store: "S3", source: error.into() };
        let mut tcp = TcpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_MAX));
        let tls = HttpsConnectorBuilder::new().with_provider_and_native_roots(rustls::crypto::ring::default_provider());
        // Plain HTTP only where the endpoint says so, which the store allows only if it is told to (AWS_ALLOW_HTTP).
        let connector = tls.map_err(cannot)?.https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        Ok(HttpClient::new(Service(client)))
    }
}

struct Service(Client<HttpsConnector<TcpConnector>, HttpRequestBody>);

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Service")
    }
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'a>>;

impl HttpService for Service {
    fn call<'a, 'b>(&'a self, request: HttpRequest) -> Answer<'b>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            let answer = tokio::time::timeout(REQUEST_MAX, self.0.request(request)).await;
            let late = |_| HttpError::new(HttpErrorKind::Timeout, io::Error::from(io::ErrorKind::TimedOut));
            let response = answer.map_err(late)?.map_err(|error| {
                let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
                HttpError::new(kind, error)
            })?;
            let (head, body) = response.into_parts();
            let body = body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error));
            Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)))
        })
    }
}
