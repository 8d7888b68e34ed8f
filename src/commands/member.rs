//! `atoll member`: who belongs to the cluster, and how one leaves it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use atoll_client::Admin;
use atoll_client::api::{Export, ExportCommand, ImportCommand, Imported, MemberCommand, MemberStatus, Standing};
use serde::{Deserialize, Serialize};

use super::admin_failure;
use crate::cli::{ClientArgs, MemberArgs, MemberCommand as Command};
use crate::connect::admin_client;
use crate::console::{Console, OneLine};
use crate::exit::{Exit, Failure};
use crate::table::{Align, table};

/// Between two looks at whether a member has drained.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Bytes of records, as text, in one request of an import: far below the largest body.
const IMPORT_BYTES: usize = 1 << 20;
/// Largest line of an export: a record as text.
const LINE_BYTES_MAX: u64 = 8 << 20;

/// The first line of an export.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    atoll_export: u32,
    cluster: String,
    node: String,
}

pub(super) async fn run(args: &MemberArgs, client: &ClientArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let client_of_admin = admin_client(&args.admin, client)?;
    let admin = Admin::new(client_of_admin.clone());
    let outcome = match &args.command {
        Command::List => list(&admin, console).await,
        Command::Drain { node, undo: true, .. } => decide(&admin, node, Standing::Active, console).await,
        Command::Drain { node, undo: false, timeout } => drain(&admin, node, *timeout, console).await,
        Command::Remove { node, force } => remove(&admin, node, *force, console).await,
        Command::Export { beyond, file } => {
            let member = admin_client(beyond, client)?;
            let outcome = export(&admin, &Admin::new(member.clone()), file, console).await;
            member.close().await;
            outcome
        }
        Command::Import { file } => import(&admin, file, console).await,
    };
    client_of_admin.close().await;
    outcome
}

async fn members(admin: &Admin) -> Result<Vec<MemberStatus>, Failure> {
    Ok(admin.members().await.map_err(admin_failure)?.members)
}

async fn list(admin: &Admin, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let members = members(admin).await?;
    if console.is_json() {
        console.json(&serde_json::json!({ "members": members }))?;
        return Ok(Exit::Done);
    }
    let head = ["MEMBER", "REGION", "STANDING", "LINK", "WEIGHT", "HTTP", "QUIC", "PEER"].map(str::to_owned);
    let rows = members.iter().map(|member| {
        let link = member.state.map_or_else(|| "(asked)".to_owned(), |state| state.to_string());
        [
            OneLine(&member.node).to_string(),
            OneLine(&member.region).to_string(),
            member.standing.as_str().to_owned(),
            link,
            member.weight.to_string(),
            OneLine(&member.http).to_string(),
            OneLine(&member.quic).to_string(),
            OneLine(&member.peer).to_string(),
        ]
    });
    let align =
        [Align::Left, Align::Left, Align::Left, Align::Left, Align::Right, Align::Left, Align::Left, Align::Left];
    console.text(&table(std::iter::once(head).chain(rows), align))?;
    Ok(Exit::Done)
}

async fn decide(admin: &Admin, node: &str, standing: Standing, console: &mut Console<'_>) -> Result<Exit, Failure> {
    admin.decide(node, MemberCommand { standing, force: false }).await.map_err(admin_failure)?;
    told(console, node, standing)
}

async fn drain(admin: &Admin, node: &str, timeout: Duration, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let command = MemberCommand { standing: Standing::Draining, force: false };
    admin.decide(node, command).await.map_err(admin_failure)?;
    let deadline = Instant::now() + timeout;
    loop {
        let standing = members(admin).await?.into_iter().find(|member| member.node == node).map(|of| of.standing);
        match standing {
            Some(Standing::Drained) => return told(console, node, Standing::Drained),
            _ if Instant::now() >= deadline => {
                let what = "it is to take no more writes, and has not said yet that it does not";
                return Err(Failure::new(
                    Exit::No,
                    format!("{node} drains: {what}; check that it runs, and ask again"),
                ));
            }
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

async fn remove(admin: &Admin, node: &str, force: bool, console: &mut Console<'_>) -> Result<Exit, Failure> {
    admin.decide(node, MemberCommand { standing: Standing::Removed, force }).await.map_err(admin_failure)?;
    told(console, node, Standing::Removed)
}

fn told(console: &mut Console<'_>, node: &str, standing: Standing) -> Result<Exit, Failure> {
    if console.is_json() {
        console.json(&serde_json::json!({ "node": node, "standing": standing }))?;
    } else {
        let text = match standing {
            Standing::Active => "is active again",
            Standing::Draining => "drains",
            Standing::Drained => "has drained: it takes no more writes, and all that it took is held by the node asked",
            Standing::Removed => "is removed: every other member refuses it from now on",
        };
        console.line(format_args!("{} {text}", OneLine(node)))?;
    }
    Ok(Exit::Done)
}

/// Writes what `admin`'s node holds beyond what `member`'s node does to a file.
async fn export(admin: &Admin, member: &Admin, file: &Path, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let status = admin.status().await.map_err(admin_failure)?;
    let mut beyond = member.status().await.map_err(admin_failure)?.durable;
    let cannot = |error: std::io::Error| {
        Failure::new(Exit::CannotStart, format!("{} cannot be written: {error}", file.display()))
    };
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Readable by its owner alone, and there only once it is whole.
    let mut out = tempfile::NamedTempFile::new_in(directory).map_err(cannot)?;
    let header = Header { atoll_export: 1, cluster: status.cluster, node: status.node };
    writeln!(out, "{}", serde_json::to_string(&header).unwrap_or_default()).map_err(cannot)?;
    let (mut records, mut missing) = (0_u64, 0_u64);
    loop {
        let part = admin.export(&ExportCommand { beyond: beyond.clone() }).await.map_err(admin_failure)?;
        if part.upto.is_empty() {
            break;
        }
        for Export(record) in &part.records {
            writeln!(out, "{record}").map_err(cannot)?;
        }
        records += part.records.len() as u64;
        missing += part.missing;
        beyond.extend(part.upto);
    }
    out.as_file().sync_all().map_err(cannot)?;
    out.persist(file).map_err(|error| cannot(error.error))?;
    if console.is_json() {
        console.json(&serde_json::json!({ "records": records, "missing": missing }))?;
    } else {
        console.line(format_args!("{records} records written to {}", file.display()))?;
    }
    if missing > 0 {
        let what = format!("{missing} records are no longer in the node's log; only its rows still show their effect");
        return Err(Failure::new(Exit::No, what));
    }
    Ok(Exit::Done)
}

/// Hands the records of a file to `admin`'s node.
async fn import(admin: &Admin, file: &Path, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let cannot = |error: std::io::Error| Failure::usage(format!("{} cannot be read: {error}", file.display()));
    let mut reader = BufReader::new(File::open(file).map_err(cannot)?);
    let header = line(&mut reader).map_err(cannot)?;
    let header: Option<Header> = header.and_then(|line| serde_json::from_str(&line).ok());
    let Some(header) = header.filter(|header| header.atoll_export == 1) else {
        return Err(Failure::usage(format!("{} is no export of 'atoll member export'", file.display())));
    };
    let cluster = admin.status().await.map_err(admin_failure)?.cluster;
    if cluster != header.cluster {
        let (of, to) = (OneLine(&header.cluster), OneLine(&cluster));
        return Err(Failure::new(Exit::Refused, format!("the export is of cluster {of}, and the node of {to}")));
    }
    let mut total = Imported::default();
    loop {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while bytes < IMPORT_BYTES {
            let Some(record) = line(&mut reader).map_err(cannot)? else { break };
            bytes += record.len();
            batch.push(Export(record));
        }
        if batch.is_empty() {
            break;
        }
        let part = admin.import(&ImportCommand { records: batch }).await.map_err(admin_failure)?;
        total.new += part.new;
        total.known += part.known;
        total.held_back += part.held_back;
    }
    if console.is_json() {
        console.json(&total)?;
    } else {
        console.line(format_args!("{} records taken over, {} known before", total.new, total.known))?;
    }
    if total.held_back > 0 {
        let what = format!("{} records build on others that the node does not have", total.held_back);
        return Err(Failure::new(Exit::No, format!("{what}; import again when it has caught up, it does no harm")));
    }
    Ok(Exit::Done)
}

/// The next line; a file that is no export may have none for a long while.
fn line(reader: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut line = String::new();
    reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
    Ok((!line.is_empty()).then(|| line.trim_end().to_owned()))
}
