//! One node's admin listener.

use std::fmt;

use bytes::Bytes;
use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::{
    BackupAsk, BackupBegun, Digest, ExportCommand, Exported, ImportCommand, Imported, LinkCommand, MemberCommand,
    Members, Status, VerifyReport, headers,
};
use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::request::{Outgoing, Request, Response};

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
        self.post(target, encoded(&LinkCommand { paused })).await.map(drop)
    }

    /// Who belongs to the cluster, as the node knows it.
    ///
    /// # Errors
    /// When the node does not answer, or refuses.
    pub async fn members(&self) -> Result<Members, Error> {
        self.get("/admin/members").await
    }

    /// Decides where a member stands.
    ///
    /// # Errors
    /// When the node does not answer, knows no such member, or finds that it cannot be so yet.
    pub async fn decide(&self, node: &str, command: MemberCommand) -> Result<(), Error> {
        let mut target = "/admin/members/".to_owned();
        crate::api::push_segment(&mut target, node);
        self.post(target, encoded(&command)).await.map(drop)
    }

    /// Records of the node that somebody lacks, as many as one answer takes.
    ///
    /// # Errors
    /// When the node does not answer, or refuses.
    pub async fn export(&self, command: &ExportCommand) -> Result<Exported, Error> {
        self.ask("/admin/export", encoded(command)).await
    }

    /// Hands in records that another node exported.
    ///
    /// # Errors
    /// When the node does not answer, or refuses.
    pub async fn import(&self, command: &ImportCommand) -> Result<Imported, Error> {
        self.ask("/admin/import", encoded(command)).await
    }

    /// Has the node begin to compare itself with every other member, unless it does already.
    ///
    /// # Errors
    /// When the node does not answer, or refuses.
    pub async fn begin_verify(&self) -> Result<(), Error> {
        self.post("/admin/verify".to_owned(), Vec::new()).await.map(drop)
    }

    /// What that has found so far.
    ///
    /// # Errors
    /// When the node does not answer, or was never asked to.
    pub async fn verify_report(&self) -> Result<VerifyReport, Error> {
        self.get("/admin/verify").await
    }

    /// Has the node read every stored row, to find what a disk has damaged. Its metrics tell how far it is.
    ///
    /// # Errors
    /// When the node does not answer, or refuses: `overloaded` while it does already.
    pub async fn begin_scrub(&self) -> Result<(), Error> {
        self.post("/admin/scrub".to_owned(), Vec::new()).await.map(drop)
    }

    /// Has the node keep its state as it is now, to be backed up.
    ///
    /// # Errors
    /// When the node does not answer, or refuses: `overloaded` while another backup is being taken.
    pub async fn begin_backup(&self) -> Result<BackupBegun, Error> {
        self.ask("/admin/backup", Vec::new()).await
    }

    /// A page of that state, as the node's bytes; none when it was told that no more is wanted.
    ///
    /// # Errors
    /// When the node does not answer, or refuses: `not_found` when it keeps the state no longer.
    pub async fn ask_backup(&self, session: &str, ask: &BackupAsk) -> Result<Bytes, Error> {
        let mut target = "/admin/backup/".to_owned();
        crate::api::push_segment(&mut target, session);
        let request =
            Request::new(Method::POST, target).header(headers::CONTENT_TYPE, headers::JSON).body(encoded(ask));
        let (response, endpoint) = self.client.exchange(Outgoing::from_request(&request)).await?;
        if response.is_success() { Ok(response.body().clone()) } else { Err(response.into_refusal(endpoint)) }
    }

    /// Asks the node to take no further writes and to finish what it has begun.
    ///
    /// # Errors
    /// When the node does not answer, or refuses.
    pub async fn drain(&self) -> Result<(), Error> {
        self.post("/admin/drain".to_owned(), Vec::new()).await.map(drop)
    }

    async fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, Error> {
        let (response, endpoint) = self.client.get(target).await?;
        if response.is_success() { response.json(endpoint) } else { Err(response.into_refusal(endpoint)) }
    }

    async fn ask<T: DeserializeOwned>(&self, target: &str, body: Vec<u8>) -> Result<T, Error> {
        let (response, endpoint) = self.post(target.to_owned(), body).await?;
        response.json(endpoint)
    }

    async fn post(&self, target: String, body: Vec<u8>) -> Result<(Response, &Endpoint), Error> {
        let request = Request::new(Method::POST, target).header(headers::CONTENT_TYPE, headers::JSON).body(body);
        let (response, endpoint) = self.client.exchange(Outgoing::from_request(&request)).await?;
        if response.is_success() { Ok((response, endpoint)) } else { Err(response.into_refusal(endpoint)) }
    }
}

/// Commands are plain values, which always serialize.
fn encoded(command: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(command).unwrap_or_default()
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Admin").field(&self.client).finish()
    }
}
