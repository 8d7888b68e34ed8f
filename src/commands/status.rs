//! `atoll status`: one node's view, as a table or as the admin listener's own JSON.

use std::fmt::Write as _;

use atoll_client::Admin;
use atoll_client::api::{PeerStatus, Status};

use crate::cli::{ClientArgs, StatusArgs};
use crate::connect::admin_client;
use crate::console::{Console, OneLine};
use crate::exit::{Exit, Failure};

pub(super) async fn run(args: &StatusArgs, client: &ClientArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let client = admin_client(&args.admin, client)?;
    let outcome = Admin::new(client.clone()).status().await;
    client.close().await;
    let status = outcome.map_err(|error| {
        let Failure { exit, message } = Failure::from(error);
        Failure::new(exit, message.replace("--endpoint names its client", "--admin names its admin"))
    })?;
    if console.is_json() {
        console.json(&status)?;
    } else {
        console.text(&table(&status))?;
    }
    Ok(Exit::Done)
}

/// The status for people.
fn table(status: &Status) -> String {
    let Status { version, cluster, node, region, actor, rows, root, .. } = status;
    let mut text = String::new();
    // Writing to a string does not fail.
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<8}{}", OneLine(&value));
    };
    row("node", format!("{node} in {region}, cluster {cluster}"));
    row("version", version.clone());
    row("actor", actor.clone());
    row("rows", rows.to_string());
    row("root", root.clone());
    row("vector", format!("{} actors, {} records", status.vector.len(), sum(status.vector.values())));
    row("durable", format!("{} records", sum(status.durable.values())));
    if let Some(skew) = status.clock_skew_ms {
        row("clock", format!("{skew:+.1} ms from its peers' median"));
    }
    text.push('\n');
    if status.peers.is_empty() {
        text.push_str("no peers\n");
    } else {
        text.push_str(&peers(&status.peers));
    }
    text
}

fn sum<'a>(counts: impl Iterator<Item = &'a u64>) -> u64 {
    counts.fold(0, |sum, &count| sum.saturating_add(count))
}

/// The peers in columns as wide as their widest cell.
fn peers(peers: &[PeerStatus]) -> String {
    let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
    let mut rows = vec![["PEER", "REGION", "STATE", "RTT MS", "LAG MS", "LAG RECORDS"].map(str::to_owned)];
    rows.extend(peers.iter().map(|peer| {
        [
            OneLine(&peer.node).to_string(),
            OneLine(&peer.region).to_string(),
            peer.state.to_string(),
            ms(peer.rtt_ms),
            ms(peer.lag_ms),
            peer.lag_records.map_or_else(|| "-".to_owned(), |records| records.to_string()),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths = [0, 1, 2, 3, 4, 5].map(|column| width(column).unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            // Words to the left, numbers to the right.
            if column < 3 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use atoll_client::api::PeerState;

    use super::*;

    #[test]
    fn table_lines_up_and_shows_what_is_unknown_as_a_dash() {
        let peer = |node: &str, state, ms| PeerStatus {
            node: node.to_owned(),
            region: "eu-west-1".to_owned(),
            state,
            rtt_ms: ms,
            lag_ms: ms,
            lag_records: ms.map(|_| 12),
        };
        let text = peers(&[peer("n2", PeerState::Live, Some(80.25)), peer("node-3\u{1b}", PeerState::Down, None)]);
        assert_eq!(
            text,
            "PEER          REGION     STATE  RTT MS  LAG MS  LAG RECORDS\n\
             n2            eu-west-1  live     80.2    80.2           12\n\
             node-3\\u{1b}  eu-west-1  down        -       -            -\n"
        );
    }
}
