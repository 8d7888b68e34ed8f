//! `atoll verify`: whether all regions hold the same, while writes go on.

use std::time::{Duration, Instant};

use atoll_client::api::{DifferingRow, Verdict, VerifyReport};
use atoll_client::{Admin, Error};

use super::admin_failure;
use crate::cli::{ClientArgs, VerifyArgs};
use crate::connect::admin_client;
use crate::console::{Console, OneLine};
use crate::exit::{Exit, Failure};
use crate::table::{Align, table};

/// Between two looks at how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(super) async fn run(args: &VerifyArgs, client: &ClientArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let client = admin_client(&args.admin, client)?;
    let admin = Admin::new(client.clone());
    let outcome = report(&admin, args.timeout).await;
    client.close().await;
    let report = outcome?;
    if console.is_json() {
        console.json(&with_verdict(&report))?;
    } else {
        console.text(&text(&report))?;
    }
    judged(&report)
}

/// Begins a verification and waits for its end.
async fn report(admin: &Admin, timeout: Duration) -> Result<VerifyReport, Failure> {
    let deadline = Instant::now() + timeout;
    let before = match admin.verify_report().await {
        Ok(report) => report.count,
        Err(Error::Refused { .. }) => 0,
        Err(error) => return Err(admin_failure(error)),
    };
    loop {
        match admin.verify_report().await {
            Ok(report) if report.running.is_some() => {}
            Ok(report) if report.count > before => return Ok(report),
            // One that ran already may have begun before what is asked about was written: this one follows it.
            Ok(_) | Err(Error::Refused { .. }) => admin.begin_verify().await.map_err(admin_failure)?,
            Err(error) => return Err(admin_failure(error)),
        }
        tokio::time::sleep(LOOK_EVERY).await;
        if Instant::now() >= deadline {
            return Err(Failure::new(
                Exit::No,
                "the comparison has not ended; it goes on, ask again or raise --timeout",
            ));
        }
    }
}

fn is_equal(peer: &Verdict) -> bool {
    peer.compared && peer.differing == 0
}

/// The report, with its answer first.
fn with_verdict(report: &VerifyReport) -> serde_json::Value {
    let mut value = serde_json::json!({ "equal": report.peers.iter().all(is_equal) });
    if let (Some(all), Ok(serde_json::Value::Object(told))) = (value.as_object_mut(), serde_json::to_value(report)) {
        all.extend(told);
    }
    value
}

fn judged(report: &VerifyReport) -> Result<Exit, Failure> {
    if report.peers.iter().any(|peer| peer.differing > 0) {
        let what = "regions hold rows that cannot both be right; the rows are named above";
        return Err(Failure::new(Exit::No, format!("{what}; keep the disks, and see atoll_divergence_total")));
    }
    if let Some(peer) = report.peers.iter().find(|peer| !peer.compared) {
        let why = peer.why.as_deref().unwrap_or("it did not answer");
        let (node, why) = (OneLine(&peer.node), OneLine(why));
        return Err(Failure::new(
            Exit::Unreachable,
            format!("{node} was not compared: {why}; ask again when it is back"),
        ));
    }
    Ok(Exit::Done)
}

fn text(report: &VerifyReport) -> String {
    let head = ["MEMBER", "REGION", "EQUAL", "DIFFERING ROWS"].map(str::to_owned);
    let asked = [OneLine(&report.node).to_string(), OneLine(&report.region).to_string(), "(asked)".into(), "-".into()];
    let peers = report.peers.iter().map(|peer| {
        let equal = if !peer.compared {
            "?"
        } else if peer.differing == 0 {
            "yes"
        } else {
            "no"
        };
        let differing = if peer.compared { peer.differing.to_string() } else { "-".to_owned() };
        [OneLine(&peer.node).to_string(), OneLine(&peer.region).to_string(), equal.to_owned(), differing]
    });
    let align = [Align::Left, Align::Left, Align::Left, Align::Right];
    let records: u64 = report.vector.values().fold(0, |sum, seq| sum.saturating_add(*seq));
    let mut text = table([head, asked].into_iter().chain(peers), align);
    text.push_str(&format!("\nroot {} at {} records\n", OneLine(&report.root), records));
    for peer in &report.peers {
        for row in &peer.rows {
            text.push_str(&format!("{}: {}\n", OneLine(&peer.node), described(row)));
        }
    }
    text
}

fn described(row: &DifferingRow) -> String {
    let DifferingRow { namespace, data_type, key, path, here, there, contents } = row;
    let path = path.as_deref().map(|path| format!(" {}", OneLine(path))).unwrap_or_default();
    let what = if *contents {
        "the same entries with different contents".to_owned()
    } else {
        format!("{here} entries only at the node asked, {there} only there")
    };
    format!("{} {}/{}{path}: {what}", OneLine(data_type), OneLine(namespace), OneLine(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(node: &str, compared: bool, rows: Vec<DifferingRow>) -> Verdict {
        let why = (!compared).then(|| "not connected".to_owned());
        Verdict { node: node.into(), region: "r".into(), compared, why, differing: rows.len() as u64, rows }
    }

    fn report(peers: Vec<Verdict>) -> VerifyReport {
        let (node, region, root) = ("n0".into(), "r".into(), "00".into());
        VerifyReport { count: 1, running: None, node, region, root, vector: [("a".into(), 3)].into(), peers }
    }

    #[test]
    fn any_row_that_differs_is_a_no_and_whoever_was_not_compared_leaves_it_open() {
        let row = DifferingRow {
            namespace: "shop".into(),
            data_type: "sets".into(),
            key: "cart".into(),
            path: Some("milk".into()),
            here: 1,
            there: 0,
            contents: false,
        };
        let bad = report(vec![peer("n1", true, vec![row]), peer("n2", false, vec![])]);
        assert_eq!(judged(&bad).unwrap_err().exit, Exit::No);
        let text = text(&bad);
        assert!(text.contains("sets shop/cart milk: 1 entries only at the node asked, 0 only there"), "{text}");
        assert!(text.contains("root 00 at 3 records"), "{text}");
        assert_eq!(judged(&report(vec![peer("n2", false, vec![])])).unwrap_err().exit, Exit::Unreachable);
        let good = report(vec![peer("n1", true, vec![])]);
        assert_eq!(judged(&good), Ok(Exit::Done));
        assert_eq!(with_verdict(&good)["equal"], true);
    }
}
