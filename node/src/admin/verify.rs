//! Comparing this node with every other member, and what that found.
//!
//! **What is not here.** The comparison: `atoll_replication`. It goes on without whoever asked for it.

use super::{Admin, accepted, json, root, seqs};
use crate::api::{Failure, api_type};
use crate::app::AppError;
use atoll_client::api::{DifferingRow, ErrorCode, Verdict, VerifyReport};
use atoll_crdt::RowPath;
use atoll_replication::{Contradiction, Input, PeerVerdict, Verification};
use axum::extract::Request;
use axum::response::Response;
use std::sync::Arc;

pub(super) async fn begin(admin: Arc<Admin>, _: Request) -> Result<Response, Failure> {
    admin.shared.app().inbox().input(Input::Verify).await.map_err(AppError::from)?;
    Ok(accepted())
}

pub(super) async fn report(admin: Arc<Admin>, _: Request) -> Result<Response, Failure> {
    let app = admin.shared.app();
    let snapshot = app.status().snapshot();
    let Some(report) = snapshot.verification.as_deref() else {
        return Err(Failure::new(ErrorCode::NotFound, "nothing was verified by this process; POST here begins it"));
    };
    let Verification { count, running, vector, root: cell, peers } = report;
    json(&VerifyReport {
        count: *count,
        running: running.as_ref().map(ToString::to_string),
        node: admin.identity.node.as_str().to_owned(),
        region: app.region().as_str().to_owned(),
        root: root(*cell),
        vector: seqs(vector),
        peers: peers.iter().map(verdict).collect(),
    })
}

fn verdict(of: &PeerVerdict) -> Verdict {
    Verdict {
        node: of.node.as_str().to_owned(),
        region: of.region.as_str().to_owned(),
        compared: of.compared,
        why: (!of.compared).then(|| of.why.to_owned()),
        differing: of.differing,
        rows: of.named.iter().map(row).collect(),
    }
}

fn row(of: &Contradiction) -> DifferingRow {
    let (namespace, data_type, key, path) = of.key.parts();
    let path = match path {
        RowPath::Whole => None,
        RowPath::Member(member) => Some(member),
        RowPath::Leaf(path, _, member) if member.is_empty() => Some(path.to_pointer()),
        RowPath::Leaf(path, _, member) => Some(format!("{} {member}", path.to_pointer())),
    };
    DifferingRow {
        namespace: namespace.to_owned(),
        data_type: api_type(data_type).as_str().to_owned(),
        key,
        path,
        here: of.here as u64,
        there: of.there as u64,
        contents: of.contents,
    }
}
