//! The roster: who is a member, as rows of the database itself.
//!
//! **How it goes.** When a node begins to serve it writes, in one record, who it is (`members/<node>`) and which actor
//! it writes as (`actors/<actor>`), into the namespace `_system`. The rows replicate like any others; every node dials
//! whom they name.
//!
//! **What always holds.** A wrong roster may cost traffic, never data: nobody is believed for being named in it.
//!
//! **What is not here.** Draining and removing members: not yet.

use crate::inbox::{Inbox, Stopped};
use crate::peer::{Member, PeerHandle};
use crate::store::{View, Views};
use atoll_crdt::{ActorId, CollectionKey, DataType, ReadError, RowSource, VersionVector, registers};
use atoll_replication::{Command, Input, NodeName, RegionName, WriteError, WriteRequest};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The namespace of rows that are ours.
pub(crate) const NAMESPACE: &str = "_system";

/// One member, as its row tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberRow {
    pub(crate) node: String,
    pub(crate) region: String,
    /// Where it listens for peers, clients' HTTP and clients' QUIC: `host:port`.
    pub(crate) peer: String,
    pub(crate) http: String,
    pub(crate) quic: String,
    pub(crate) weight: u32,
}

#[derive(Debug, Serialize)]
struct ActorRow<'a> {
    node: &'a str,
    region: &'a str,
}

fn key(kind: &str, name: &str) -> CollectionKey {
    CollectionKey::new(NAMESPACE, DataType::Register, &format!("{kind}/{name}")).expect("names make valid keys")
}

fn put(key: CollectionKey, value: &impl Serialize) -> Command {
    let bytes: Arc<[u8]> = serde_json::to_vec(value).expect("plain values encode").into();
    Command::RegisterPut { key, content_type: "application/json".into(), bytes }
}

/// Every member that the view names. Rows that do not read are left out: they name nobody.
pub(crate) fn members(view: &View) -> Result<Vec<MemberRow>, ReadError> {
    let prefix = CollectionKey::listing_prefix(NAMESPACE, DataType::Register, "members/").expect("a valid namespace");
    let mut members = Vec::new();
    view.visit(&prefix, &prefix, &mut |_, row| {
        if let Some(member) = registers::winner(row).and_then(|(_, _, bytes)| serde_json::from_slice(bytes).ok()) {
            members.push(member);
        }
        true
    })?;
    Ok(members)
}

/// Writes this node's rows; tries again while the node is not ready to write.
pub(crate) async fn announce(inbox: &Inbox, member: &MemberRow, actor: ActorId) -> Result<(), Stopped> {
    let commands = vec![
        put(key("members", &member.node), member),
        put(key("actors", &actor.to_string()), &ActorRow { node: &member.node, region: &member.region }),
    ];
    let mut pause = Duration::from_millis(50);
    loop {
        let request = WriteRequest {
            commands: commands.clone(),
            seen: None,
            token: VersionVector::new(),
            wait: Duration::ZERO,
            regions: 1,
            regions_wait: Duration::ZERO,
        };
        match inbox.write(request).await? {
            Ok(_) => return Ok(()),
            Err(WriteError::NotReady | WriteError::Overloaded) => {}
            // The clock decides only between writes of one member's row, which only that member makes.
            Err(error) => tracing::warn!("cannot announce this node yet: {error}"),
        }
        // Ever more rarely: a clock that is off is put right by people, and each try says so in the log.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Keeps the peer endpoint and the replica told of who is a member, until the node stops.
pub(crate) async fn follow(
    views: Arc<Views>,
    inbox: Inbox,
    peers: Option<PeerHandle>,
    own: NodeName,
    mut changes: watch::Receiver<u64>,
) -> Result<(), Stopped> {
    loop {
        let rows = members(&views.current()).unwrap_or_else(|error| {
            tracing::warn!("cannot read the roster: {error}");
            Vec::new()
        });
        let named: Vec<Member> = rows.into_iter().filter_map(named).filter(|member| member.node != own).collect();
        let names = named.iter().map(|member| (member.node.clone(), member.region.clone())).collect();
        inbox.input(Input::Members(names)).await?;
        if let Some(peers) = &peers {
            peers.set_members(named);
        }
        if changes.changed().await.is_err() {
            return Ok(());
        }
    }
}

fn named(row: MemberRow) -> Option<Member> {
    Some(Member { node: NodeName::new(&row.node).ok()?, region: RegionName::new(&row.region).ok()?, address: row.peer })
}
