//! One node's admin listener.

use std::fmt;

use http::Method;
use serde::de::DeserializeOwned;

use crate::api::{Digest, LinkCommand, Status, headers};
use crate::client::Client;
use crate::error::Error;
use crate::request::{Outgoing, Request};

/// What an operator asks of one node, over a client whose endpoint is its admin listener.
#[derive(Clone)]
pub struct Admin {
    client: Client,
}

impl Admin {
    /// Asks through `client`. Give it one endpoint: answers are about whichever node gave them.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The node's view of itself and its peers.
    ///
    /// # Errors
    /// When the node does not answer, or refuses.
    pub async fn status(&self) -> Result<Status, Error> {
        self.get("/admin/status").await
    }

    /// The digest of the node's rows, and where it stands.
    ///
    /// # Errors
    /// When the node does not answer, or refuses.
    pub async fn digest(&self) -> Result<Digest, Error> {
        self.get("/admin/digest").await
    }

    /// The node's metrics in Prometheus' text format.
    ///
    /// # Errors
    /// When the node does not answer, or refuses.
    pub async fn metrics(&self) -> Result<String, Error> {
        let (response, endpoint) = self.client.get("/metrics").await?;
        if !response.is_success() {
            return Err(response.into_refusal(endpoint));
        }
        String::from_utf8(response.body().to_vec())
            .map_err(|error| Error::Protocol { endpoint: endpoint.clone(), cause: format!("metrics: {error}") })
    }

    /// Stops or resumes the link to the peer called `node`, both ways.
    ///
    /// # Errors
    /// When the node does not answer, or knows no such peer.
    pub async fn pause_link(&self, node: &str, paused: bool) -> Result<(), Error> {
        let mut target = "/admin/links/".to_owned();
        crate::api::push_segment(&mut target, node);
        // This struct has one field of a type that always serializes.
        let body = serde_json::to_vec(&LinkCommand { paused }).unwrap_or_default();
        self.post(target, body).await
    }

    /// Asks the node to take no further writes and to finish what it has begun.
    ///
    /// # Errors
    /// When the node does not answer, or refuses.
    pub async fn drain(&self) -> Result<(), Error> {
        self.post("/admin/drain".to_owned(), Vec::new()).await
    }

    async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, Error> {
        let (response, endpoint) = self.client.get(target).await?;
        if response.is_success() { response.json(endpoint) } else { Err(response.into_refusal(endpoint)) }
    }

    async fn post(&self, target: String, body: Vec<u8>) -> Result<(), Error> {
        let request = Request::new(Method::POST, target).header(headers::CONTENT_TYPE, headers::JSON).body(body);
        let (response, endpoint) = self.client.exchange(Outgoing::from_request(&request)).await?;
        if response.is_success() { Ok(()) } else { Err(response.into_refusal(endpoint)) }
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Admin").field(&self.client).finish()
    }
}
