//! Reading a state page by page, for a backup.
//!
//! **What always holds.** P1: a page is read by a thread that may block, and only when it is asked for: a slow reader costs nothing but
//! the state that is kept. P2: what is damaged here is never left out: the page is refused.
//!
//! **What is not here.** How long a state is kept ([`crate::backup`]).

use super::{Admin, done, json, root, seqs, with_body};
use crate::api::{Failure, read_json};
use crate::app::AppError;
use crate::inbox::Event;
use crate::store::{BackupPage, BackupSource};
use atoll_client::api::{BackupAsk, BackupBegun, BackupStart, ErrorCode};
use atoll_crdt::ReadError;
use atoll_replication::Readiness;
use atoll_replication::sketch::RowId;
use axum::extract::Request;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What pages are called.
const PAGE_TYPE: &str = "application/octet-stream";
/// Ids whose rows may be asked for at once.
const IDS_MAX: usize = 8_192;

pub(super) async fn begin(admin: Arc<Admin>, _: Request) -> Result<Response, Failure> {
    let app = admin.shared.app();
    if app.status().snapshot().readiness != Readiness::Serving {
        return Err(Failure::new(
            ErrorCode::NotReady,
            "this node has yet to join; what it holds is no state to back up",
        ));
    }
    let (answer, source) = oneshot::channel();
    app.inbox().event(Event::Backup(answer)).await.map_err(AppError::from)?;
    let source = source.await.map_err(|_| AppError::Stopping)?;
    if source.is_clearing() {
        return Err(Failure::new(ErrorCode::NotReady, "rows of a deleted key are still being removed; ask again"));
    }
    let session = rand::random();
    let begun = begun(&admin, session, &source);
    if !admin.backups.begin(session, source) {
        let detail = "another backup is being taken of this node; wait for its end, or two minutes if it was given up";
        return Err(Failure::new(ErrorCode::Overloaded, detail));
    }
    json(&begun)
}

fn begun(admin: &Admin, session: u64, source: &BackupSource) -> BackupBegun {
    let starts = source.starts().iter().map(|start| BackupStart {
        actor: start.actor.to_string(),
        ceiling: format!("{:016x}", start.ceiling.to_bits()),
        founded_ms: start.founded_ms,
    });
    BackupBegun {
        session: format!("{session:016x}"),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: admin.identity.cluster.clone(),
        node: admin.identity.node.as_str().to_owned(),
        region: admin.shared.app().region().as_str().to_owned(),
        vector: seqs(source.context()),
        ceiling: format!("{:016x}", source.ceiling_bits()),
        starts: starts.collect(),
        rows: source.rows(),
        root: root(source.root()),
        digests: source.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

pub(super) async fn ask(admin: Arc<Admin>, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let name = parts.uri.path().strip_prefix("/admin/backup/").unwrap_or_default();
    let unknown = || {
        Failure::new(
            ErrorCode::NotFound,
            "no such backup is being taken: nothing was asked of it for two minutes, or the node has restarted",
        )
    };
    let session = u64::from_str_radix(name, 16).map_err(|_| unknown())?;
    let ask: BackupAsk = read_json(admin.shared.room(), &parts.headers, body).await?;
    let ended = match ask {
        BackupAsk::Done => admin.backups.end(session, Some(crate::clock::wall_ms())),
        BackupAsk::Abandon => admin.backups.end(session, None),
        _ => return page(admin.backups.source(session).ok_or_else(unknown)?, ask).await,
    };
    if ended { Ok(done()) } else { Err(unknown()) }
}

/// A byte that is 1 on the last page, of rows of ids then how many ids it answers, and the page. P1
async fn page(source: Arc<BackupSource>, ask: BackupAsk) -> Result<Response, Failure> {
    let read = tokio::task::spawn_blocking(move || read(&source, &ask)).await;
    let bytes = read.map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))??;
    Ok(with_body(PAGE_TYPE, bytes))
}

fn read(source: &BackupSource, ask: &BackupAsk) -> Result<Vec<u8>, Failure> {
    let malformed = |what: &str| Failure::new(ErrorCode::Malformed, what);
    match ask {
        BackupAsk::Rows { after } => {
            let after = STANDARD.decode(after).map_err(|_| malformed("a key in base64 is wanted"))?;
            Ok(framed(&source.rows_after(&after).map_err(unreadable)?, None))
        }
        BackupAsk::Ids { after } => {
            let after =
                after.map(|id| RowId::from_bits(id).ok_or_else(|| malformed("no row has this id"))).transpose()?;
            Ok(framed(&source.ids_after(after).map_err(unreadable)?, None))
        }
        BackupAsk::RowsOf { ids } => {
            let bytes = STANDARD.decode(ids).map_err(|_| malformed("ids in base64 are wanted"))?;
            let ids: Option<Vec<RowId>> =
                bytes.chunks(8).map(|id| RowId::from_bits(u64::from_be_bytes(id.try_into().ok()?))).collect();
            let ids = ids.filter(|ids| ids.len() <= IDS_MAX && ids.windows(2).all(|pair| pair[0] < pair[1]));
            let ids = ids.ok_or_else(|| malformed("ids are eight bytes each, ascending, 8,192 at most"))?;
            let (page, answered) = source.rows_of(&ids).map_err(unreadable)?;
            Ok(framed(&page, u32::try_from(answered).ok()))
        }
        BackupAsk::Done | BackupAsk::Abandon => Ok(Vec::new()),
    }
}

fn framed(page: &BackupPage, answered: Option<u32>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(page.bytes.len() + 5);
    bytes.push(u8::from(page.is_last));
    bytes.extend(answered.map(u32::to_be_bytes).into_iter().flatten());
    bytes.extend_from_slice(&page.bytes);
    bytes
}

/// P2
fn unreadable(error: ReadError) -> Failure {
    match error {
        ReadError::Damaged(key) => {
            let detail = format!(
                "the row {key:?} is damaged here and not repaired yet; back up another node, or wait for the repair"
            );
            Failure::new(ErrorCode::NotReady, detail)
        }
        error @ ReadError::Failed(_) => Failure::new(ErrorCode::Internal, error.to_string()),
    }
}
