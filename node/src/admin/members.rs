//! Members: listing them, deciding where they stand, and carrying over what a removed one alone holds.
//!
//! **What always holds.** M1: a member is removed unforced only when it has drained and everything it ever took from
//! clients is held durably by the node that is asked. M2: what is exported is durable records, verbatim; importing them
//! twice is importing them once.

use super::{Admin, done, json, peer_state, seqs};
use crate::api::{Failure, read_json};
use crate::app::AppError;
use crate::inbox::Event;
use crate::roster::{self, Listed};
use atoll_client::api::{
    ErrorCode, Export, ExportCommand, Exported, ImportCommand, Imported, MemberCommand, MemberStatus, Members, Standing,
};
use atoll_crdt::{ActorId, Dot, VersionVector};
use atoll_replication::{Membership, NodeName, RecordBytes};
use axum::extract::Request;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;
use tokio::sync::oneshot;

pub(super) async fn list(admin: Arc<Admin>, _: Request) -> Result<Response, Failure> {
    let app = admin.shared.app();
    let snapshot = app.status().snapshot();
    let members = roster::members(&app.view()).map_err(AppError::from)?;
    let members = members.into_iter().map(|member| {
        let state = snapshot.peers.iter().find(|peer| peer.node == member.node).map(|peer| peer_state(peer.state));
        MemberStatus {
            standing: standing(&member),
            node: member.row.node,
            region: member.row.region,
            peer: member.row.peer,
            http: member.row.http,
            quic: member.row.quic,
            weight: member.row.weight,
            state,
        }
    });
    json(&Members { members: members.collect() })
}

fn standing(member: &Listed) -> Standing {
    match member.membership {
        Membership::Active => Standing::Active,
        Membership::Draining if member.is_drained() => Standing::Drained,
        Membership::Draining => Standing::Draining,
        Membership::Removed => Standing::Removed,
    }
}

pub(super) async fn decide(admin: Arc<Admin>, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let name = parts.uri.path().strip_prefix("/admin/members/").unwrap_or_default();
    // A name that follows the rule needs no percent-encoding.
    let node = NodeName::new(name).ok();
    let command: MemberCommand = read_json(admin.shared.room(), &parts.headers, body).await?;
    let app = admin.shared.app();
    let members = roster::members(&app.view()).map_err(AppError::from)?;
    let Some(member) = members.into_iter().find(|member| Some(&member.node) == node.as_ref()) else {
        return Err(Failure::new(ErrorCode::NotFound, format!("no member is called {name}")));
    };
    let membership = check(&member, command, &admin.identity.node)?;
    if membership != member.membership {
        let written = app.inbox().write(roster::decision(&member.node, membership)).await.map_err(AppError::from)?;
        written.map_err(|error| app.refused(error))?;
    }
    Ok(done())
}

/// Whether a decision may be taken now. M1
fn check(member: &Listed, command: MemberCommand, own: &NodeName) -> Result<Membership, Failure> {
    let node = &member.node;
    if member.membership == Membership::Removed && command.standing != Standing::Removed {
        let why = format!("{node} was removed; its name is not used again, start the node under a new one");
        return Err(Failure::new(ErrorCode::Forbidden, why));
    }
    match command.standing {
        Standing::Active => Ok(Membership::Active),
        Standing::Draining => Ok(Membership::Draining),
        Standing::Drained => Err(Failure::new(ErrorCode::Malformed, "a member drains; it is drained when it says so")),
        Standing::Removed if node == own => {
            Err(Failure::new(ErrorCode::Forbidden, format!("{node} cannot remove itself; ask another member")))
        }
        Standing::Removed if command.force || member.membership == Membership::Removed || member.is_drained() => {
            Ok(Membership::Removed)
        }
        Standing::Removed if member.membership == Membership::Draining => {
            let why = format!("{node} has not drained yet, or its last writes are not here; wait, or force it");
            Err(Failure::new(ErrorCode::NotReady, why))
        }
        Standing::Removed => {
            let why = format!("{node} still takes writes; drain it first, or force it if it is gone for good");
            Err(Failure::new(ErrorCode::Forbidden, why))
        }
    }
}

pub(super) async fn export(admin: Arc<Admin>, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let command: ExportCommand = read_json(admin.shared.room(), &parts.headers, body).await?;
    let mut beyond = VersionVector::new();
    for (actor, seq) in command.beyond {
        let actor = u64::from_str_radix(&actor, 16)
            .map_err(|_| Failure::new(ErrorCode::Malformed, format!("{actor} is no actor: sixteen digits")))?;
        beyond.include(Dot::new(ActorId::new(actor), seq));
    }
    let app = admin.shared.app();
    let (answer, excerpt) = oneshot::channel();
    app.inbox().event(Event::Export(beyond, answer)).await.map_err(AppError::from)?;
    let excerpt = excerpt.await.map_err(|_| AppError::Stopping)?.map_err(AppError::from)?;
    json(&Exported {
        records: excerpt.records.iter().map(|record| Export(STANDARD.encode(record.as_bytes()))).collect(),
        upto: seqs(&excerpt.upto),
        missing: excerpt.missing,
    })
}

pub(super) async fn import(admin: Arc<Admin>, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let command: ImportCommand = read_json(admin.shared.room(), &parts.headers, body).await?;
    let malformed = |at: usize, why: String| Failure::new(ErrorCode::Malformed, format!("record {at}: {why}"));
    let mut records = Vec::with_capacity(command.records.len());
    for (at, Export(text)) in command.records.iter().enumerate() {
        let bytes = STANDARD.decode(text).map_err(|error| malformed(at, error.to_string()))?;
        let record = RecordBytes::check(Arc::from(bytes)).map_err(|error| malformed(at, error.to_string()))?;
        record.decode().map_err(|error| malformed(at, error.to_string()))?;
        records.push(record);
    }
    let app = admin.shared.app();
    let (answer, outcome) = oneshot::channel();
    app.inbox().event(Event::Import(records, answer)).await.map_err(AppError::from)?;
    match outcome.await.map_err(|_| AppError::Stopping)? {
        Some(imported) => json(&Imported { new: imported.new, known: imported.known, held_back: imported.held_back }),
        None => Err(Failure::new(ErrorCode::Forbidden, "a record of the process that is asked, which it never wrote")),
    }
}
