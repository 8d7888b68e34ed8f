//! `atoll backup` and `atoll restore`.

use std::time::{SystemTime, UNIX_EPOCH};

use atoll_client::Admin;
use serde_json::json;

use crate::backup::chain::{self, Catalogue};
use crate::backup::destination::Destination;
use crate::backup::id::{BackupId, time_text};
use crate::backup::manifest::Manifest;
use crate::backup::prune::{self, Keep};
use crate::backup::take::{self, Wanted};
use crate::cli::{BackupArgs, BackupCommand, ClientArgs, RestoreArgs};
use crate::connect::admin_client;
use crate::console::{Console, OneLine};
use crate::exit::{Exit, Failure};
use crate::table::{Align, table};

pub(super) async fn run(args: &BackupArgs, client: &ClientArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let Some(to) = &args.to else {
        return Err(Failure::usage("--to is missing: a directory, file://… or s3://BUCKET/PREFIX; see --help"));
    };
    match &args.command {
        None => {
            let to = Destination::open(to, true)?;
            let client = admin_client(&args.admin, client)?;
            let wanted = Wanted { full: args.full, rate: Some(args.rate).filter(|rate| *rate > 0) };
            let outcome = take::take(&Admin::new(client.clone()), &to, wanted).await;
            client.close().await;
            let taken = outcome?;
            told(&taken.manifest, taken.seconds, console)
        }
        Some(BackupCommand::List) => list(&Destination::open(to, false)?, console).await,
        Some(BackupCommand::Verify { backup }) => {
            verify(&Destination::open(to, false)?, backup.as_ref(), console).await
        }
        Some(BackupCommand::Prune { keep, keep_days, dry_run }) => {
            let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
            let since = |days: u32| now_ms.saturating_sub(u64::from(days) * 24 * 3_600 * 1_000);
            let keep = match (keep, keep_days) {
                (Some(count), None) => Keep::Newest(*count as usize),
                (None, Some(days)) => Keep::Since(since(*days)),
                _ => return Err(Failure::usage("--keep N or --keep-days D says what stays; give one of them")),
            };
            prune(&Destination::open(to, false)?, keep, now_ms, *dry_run, console).await
        }
    }
}

fn told(manifest: &Manifest, seconds: f64, console: &mut Console<'_>) -> Result<Exit, Failure> {
    if console.is_json() {
        let mut value = summary(manifest);
        value["seconds"] = json!(seconds);
        console.json(&value)?;
        return Ok(Exit::Done);
    }
    let rows = match &manifest.parent {
        None => format!("{} rows", manifest.rows),
        Some(parent) => {
            let (changed, gone) = (manifest.changed, manifest.gone);
            format!("{} rows, of which {changed} have changed since {parent}, and {gone} are gone", manifest.rows)
        }
    };
    console.line(format_args!("backup {}: {rows}; {} in {seconds:.1} s", manifest.id, size(manifest.bytes())))?;
    Ok(Exit::Done)
}

fn summary(manifest: &Manifest) -> serde_json::Value {
    json!({
        "id": manifest.id, "parent": manifest.parent, "at": time_text(manifest.at_ms), "cluster": manifest.cluster,
        "node": manifest.node, "region": manifest.region, "rows": manifest.rows, "changed": manifest.changed,
        "gone": manifest.gone, "bytes": manifest.bytes(), "objects": manifest.row_parts.len() + manifest.id_parts.len(),
        "root": manifest.root, "vector": manifest.vector,
    })
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

async fn list(from: &Destination, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let all = Catalogue::read(from, None).await?;
    if console.is_json() {
        let backups: Vec<_> = all.whole.values().map(summary).collect();
        let damaged: Vec<_> =
            all.damaged.iter().map(|(place, why)| json!({"id": place.id, "node": place.node, "why": why})).collect();
        let unfinished: Vec<_> =
            all.unfinished.iter().map(|place| json!({"id": place.id, "node": place.node})).collect();
        console.json(&json!({ "backups": backups, "unfinished": unfinished, "damaged": damaged }))?;
        return Ok(Exit::Done);
    }
    let head = ["BACKUP", "CLUSTER", "NODE", "REGION", "ROWS", "CHANGED", "SIZE", "RECORDS", "GOES ON FROM"]
        .map(str::to_owned);
    let rows = all.whole.values().map(|manifest| {
        [
            manifest.id.to_string(),
            OneLine(&manifest.cluster).to_string(),
            OneLine(&manifest.node).to_string(),
            OneLine(&manifest.region).to_string(),
            manifest.rows.to_string(),
            (manifest.changed + manifest.gone).to_string(),
            size(manifest.bytes()),
            manifest.vector.values().fold(0_u64, |sum, seq| sum.saturating_add(*seq)).to_string(),
            manifest.parent.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        ]
    });
    let (left, right) = (Align::Left, Align::Right);
    let align = [left, left, left, left, right, right, right, right, left];
    console.text(&table(std::iter::once(head).chain(rows), align))?;
    for (place, why) in &all.damaged {
        console.line(format_args!("{} does not read: {}", from.object(place, "manifest"), OneLine(why)))?;
    }
    for place in &all.unfinished {
        console.line(format_args!("{} is no backup: it has no manifest", from.object(place, "")))?;
    }
    Ok(Exit::Done)
}

async fn verify(from: &Destination, wanted: Option<&BackupId>, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let all = Catalogue::read(from, None).await?;
    let mut wrong: Vec<String> = Vec::new();
    let mut whole = Vec::new();
    let wanted: Vec<&Manifest> = match wanted {
        Some(id) => all.chain(id).map_err(|why| Failure::new(Exit::No, why))?,
        None => {
            wrong.extend(
                all.damaged
                    .iter()
                    .map(|(place, why)| format!("{} does not read: {why}", from.object(place, "manifest"))),
            );
            all.whole.values().collect()
        }
    };
    if wanted.is_empty() && wrong.is_empty() {
        return Err(Failure::not_found(format_args!("there is no backup in {}", from.name())));
    }
    for manifest in wanted {
        let parent = manifest.parent.as_ref();
        let outcome = match all.chain(&manifest.id) {
            // Older ones come first: what is not whole there takes with it what goes on from it.
            Ok(_) if parent.is_some_and(|parent| !whole.contains(&parent)) => {
                let what = format!("{} goes on from a backup that is damaged, and cannot be restored", manifest.id);
                Err(Failure::new(Exit::No, what))
            }
            Ok(_) => chain::verify(from, manifest, parent.and_then(|parent| all.whole.get(parent))).await,
            Err(why) => Err(Failure::new(Exit::No, why)),
        };
        match outcome {
            Ok(()) => whole.push(&manifest.id),
            Err(failure) if failure.exit == Exit::No => wrong.push(failure.message),
            Err(failure) => return Err(failure),
        }
    }
    if console.is_json() {
        console.json(&json!({ "whole": whole, "wrong": wrong }))?;
    } else {
        whole.iter().try_for_each(|id| console.line(format_args!("{id} is as it was written")))?;
        wrong.iter().try_for_each(|what| console.line(OneLine(what)))?;
    }
    if wrong.is_empty() {
        return Ok(Exit::Done);
    }
    Err(Failure::new(Exit::No, format!("{} are not as they were written; take a full backup", wrong.len())))
}

async fn prune(
    from: &Destination,
    keep: Keep,
    now_ms: u64,
    dry_run: bool,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let all = Catalogue::read(from, None).await?;
    let doomed = prune::doomed(&all, keep, now_ms);
    if !dry_run {
        prune::remove(from, &doomed).await?;
    }
    if console.is_json() {
        let ids: Vec<_> = doomed.iter().map(|place| &place.id).collect();
        console.json(&json!({ "removed": ids, "dry_run": dry_run }))?;
        return Ok(Exit::Done);
    }
    let does = if dry_run { "would be removed" } else { "is removed" };
    doomed
        .iter()
        .try_for_each(|place| console.line(format_args!("{} of {} {does}", place.id, OneLine(&place.node))))?;
    Ok(Exit::Done)
}

pub(super) async fn restore(args: &RestoreArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let from = Destination::open(&args.from, false)?;
    if let Some(name) = &args.new_cluster {
        crate::pki::check_cluster(name).map_err(|error| Failure::usage(format!("--new-cluster: {error}")))?;
    }
    let new_cluster = args.new_cluster.as_deref();
    let restored = crate::backup::restore::restore(&from, args.backup.as_ref(), &args.data_dir, new_cluster).await?;
    let (manifest, dir) = (&restored.manifest, args.data_dir.display());
    if console.is_json() {
        console.json(&json!({
            "id": manifest.id, "node": manifest.node, "cluster": restored.cluster, "rows": restored.rows,
            "root": manifest.root, "vector": manifest.vector,
        }))?;
        return Ok(Exit::Done);
    }
    let at = time_text(manifest.at_ms);
    let (id, rows, cluster) = (&manifest.id, restored.rows, OneLine(&restored.cluster));
    console
        .line(format_args!("{id} of {at} is restored into {dir}: {rows} rows, for a node of the cluster {cluster}"))?;
    Ok(Exit::Done)
}
