//! The roster: who is a member and where it stands, as rows of the database itself.
//!
//! **How it goes.** When a node begins to serve it writes, in one record, who it is (`members/<node>`) and which actor
//! it writes as (`actors/<actor>`), into the namespace `_system`. What operators decide of a member is a row of its own
//! (`standing/<node>`). The rows replicate like any others; every node dials whom they name, and obeys what they say of
//! itself.
//!
//! **What always holds.** A wrong roster may cost traffic, never data: nobody is believed for being named in it. T1: a
//! row that says that a member accepts no more writes was written after the last write that it accepted; and records
//! arrive in the order of causes: who reads that row holds all that the member ever took from clients. T2: of
//! concurrent decisions about a member, its removal stands.

use crate::archive::Archives;
use crate::inbox::{Event, Inbox, Stopped};
use crate::peer::{self, PeerHandle};
use crate::store::{View, Views};
use atoll_crdt::{ActorId, CollectionKey, DataType, ReadError, RowSource, VersionVector, registers};
use atoll_replication::{Command, Input, Member, Membership, NodeName, RegionName, WriteError, WriteRequest};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The namespace of rows that are ours.
const NAMESPACE: &str = "_system";

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
    /// Whether it takes clients' writes. T1
    #[serde(default = "yes")]
    pub(crate) accepting: bool,
}

const fn yes() -> bool {
    true
}

#[derive(Debug, Serialize)]
struct ActorRow<'a> {
    node: &'a str,
    region: &'a str,
}

/// What operators decided of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Standing {
    Active,
    Draining,
    Removed,
}

#[derive(Debug, Serialize, Deserialize)]
struct StandingRow {
    standing: Standing,
}

/// A member's own row, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) row: MemberRow,
    pub(crate) node: NodeName,
    pub(crate) region: RegionName,
    pub(crate) membership: Membership,
}

impl Listed {
    /// Whether it has taken its last write, and everything it ever took is here. T1
    pub(crate) fn is_drained(&self) -> bool {
        self.membership == Membership::Draining && !self.row.accepting
    }

    fn member(&self) -> Member {
        Member { node: self.node.clone(), region: self.region.clone(), membership: self.membership }
    }
}

fn key(kind: &str, name: &str) -> CollectionKey {
    CollectionKey::new(NAMESPACE, DataType::Register, &format!("{kind}/{name}")).expect("names make valid keys")
}

/// What the keys of rows begin with that say who is a member, and where each stands.
pub(crate) fn prefixes_of_members() -> [Vec<u8>; 2] {
    ["members/", "standing/"]
        .map(|kind| CollectionKey::listing_prefix(NAMESPACE, DataType::Register, kind).expect("a valid namespace"))
}

fn put(key: CollectionKey, value: &impl Serialize) -> Command {
    let bytes: Arc<[u8]> = serde_json::to_vec(value).expect("plain values encode").into();
    Command::RegisterPut { key, content_type: "application/json".into(), bytes }
}

/// A write of our own rows, acknowledged here.
fn request(commands: Vec<Command>) -> WriteRequest {
    WriteRequest {
        commands,
        seen: None,
        token: VersionVector::new(),
        wait: Duration::ZERO,
        regions: 1,
        regions_wait: Duration::ZERO,
    }
}

/// Every member that the view names. Rows that do not read are left out: they name nobody.
pub(crate) fn members(view: &View) -> Result<Vec<Listed>, ReadError> {
    let prefix = CollectionKey::listing_prefix(NAMESPACE, DataType::Register, "members/").expect("a valid namespace");
    let mut rows: Vec<MemberRow> = Vec::new();
    view.visit(&prefix, &prefix, &mut |_, row| {
        if let Some(member) = registers::winner(row).and_then(|(_, _, bytes)| serde_json::from_slice(bytes).ok()) {
            rows.push(member);
        }
        true
    })?;
    let mut listed = Vec::with_capacity(rows.len());
    for row in rows {
        if let (Ok(node), Ok(region)) = (NodeName::new(&row.node), RegionName::new(&row.region)) {
            let membership = membership(view, &node)?;
            listed.push(Listed { row, node, region, membership });
        }
    }
    Ok(listed)
}

/// What operators decided of a member. T2
fn membership(view: &View, node: &NodeName) -> Result<Membership, ReadError> {
    let row = view.row(&key("standing", node.as_str()).row())?;
    let read = |bytes: &[u8]| serde_json::from_slice::<StandingRow>(bytes).ok().map(|row| row.standing);
    let Some(row) = row else { return Ok(Membership::Active) };
    let is_removed = registers::siblings(&row).iter().any(|sibling| read(&sibling.bytes) == Some(Standing::Removed));
    Ok(match registers::winner(&row).and_then(|(_, _, bytes)| read(bytes)) {
        _ if is_removed => Membership::Removed,
        Some(Standing::Draining) => Membership::Draining,
        // An unreadable row decides nothing.
        Some(Standing::Active | Standing::Removed) | None => Membership::Active,
    })
}

/// Writes what operators decided of a member.
pub(crate) fn decision(node: &NodeName, membership: Membership) -> WriteRequest {
    let standing = match membership {
        Membership::Active => Standing::Active,
        Membership::Draining => Standing::Draining,
        Membership::Removed => Standing::Removed,
    };
    request(vec![put(key("standing", node.as_str()), &StandingRow { standing })])
}

/// Tells the replica who is a member, before anything else is asked of it: a node that is drained takes no write at the
/// start of its next process either (T1). To be called on a thread that may block.
pub(crate) fn tell_first(views: &Views, inbox: &Inbox) {
    let members = read(views).iter().map(Listed::member).collect();
    // Nobody stops a node that has not started.
    let _ = inbox.send_blocking(Event::Input(Input::Members(members)));
}

fn read(views: &Views) -> Vec<Listed> {
    members(&views.current()).unwrap_or_else(|error| {
        tracing::warn!("cannot read the roster: {error}");
        Vec::new()
    })
}

/// Writes this node's rows, and again whenever what it has to say changes; tries again while the node is not ready to
/// write.
pub(crate) async fn announce(
    inbox: Inbox,
    actor: ActorId,
    mut member: watch::Receiver<MemberRow>,
) -> Result<(), Stopped> {
    loop {
        let row = member.borrow_and_update().clone();
        let origin = ActorRow { node: &row.node, region: &row.region };
        let commands = vec![put(key("members", &row.node), &row), put(key("actors", &actor.to_string()), &origin)];
        let mut pause = Duration::from_millis(50);
        loop {
            match inbox.write(request(commands.clone())).await? {
                Ok(_) => break,
                Err(WriteError::NotReady | WriteError::Overloaded | WriteError::Fenced(_)) => {}
                // The clock decides only between writes of one member's row, which only that member makes.
                Err(error) => tracing::warn!("cannot announce this node yet: {error}"),
            }
            // Ever more rarely: a clock that is off is put right by people, and each try says so in the log.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        if member.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Whoever lets what rows of our own say come into effect.
pub(crate) struct Follower {
    pub(crate) views: Arc<Views>,
    pub(crate) inbox: Inbox,
    pub(crate) peers: Option<PeerHandle>,
    pub(crate) own: NodeName,
    pub(crate) archives: Arc<Archives>,
    /// What this node tells of itself.
    pub(crate) announced: watch::Sender<MemberRow>,
}

impl Follower {
    /// Keeps the peer endpoint and the replica told of who is a member, the announcement of whether this node takes
    /// writes, and the archive of vectors, until the node stops.
    pub(crate) async fn run(self, mut changes: watch::Receiver<u64>) -> Result<(), Stopped> {
        loop {
            self.members().await?;
            self.archive().await?;
            if changes.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn members(&self) -> Result<(), Stopped> {
        let all = read(&self.views);
        self.inbox.input(Input::Members(all.iter().map(Listed::member).collect())).await?;
        let own = all.iter().find(|member| member.node == self.own);
        let accepting = own.is_none_or(|own| own.membership == Membership::Active);
        // T1: queued behind the input that ends it.
        self.announced.send_if_modified(|row| std::mem::replace(&mut row.accepting, accepting) != accepting);
        if let Some(peers) = &self.peers {
            let is_dialled = |member: &Listed| member.node != self.own && member.membership != Membership::Removed;
            let named = all.into_iter().filter(is_dialled).map(|Listed { row, node, region, .. }| peer::Member {
                node,
                region,
                address: row.peer,
            });
            peers.set_members(named.collect());
        }
        Ok(())
    }

    async fn archive(&self) -> Result<(), Stopped> {
        match self.archives.refresh(&self.views.current()) {
            // A write that is refused now is due at the next change as well.
            Ok(Some(commands)) => drop(self.inbox.write(request(commands)).await?),
            Ok(None) => {}
            Err(error) => tracing::warn!("cannot read the archived vectors: {error}"),
        }
        Ok(())
    }
}
