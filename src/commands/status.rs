//! `atoll status`: one node's view, as a table or as the admin listener's own JSON.

use std::fmt::Write as _;

use atoll_client::Admin;
use atoll_client::api::{PeerStatus, Status};

use super::admin_failure;
use crate::cli::{ClientArgs, StatusArgs};
use crate::connect::admin_client;
use crate::console::{Console, OneLine};
use crate::exit::{Exit, Failure};
use crate::table::{Align, table as table_of};

pub(super) async fn run(args: &StatusArgs, client: &ClientArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let client = admin_client(&args.admin, client)?;
    let outcome = Admin::new(client.clone()).status().await;
    client.close().await;
    let status = outcome.map_err(admin_failure)?;
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

/// The peers, one a line.
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
    let (words, numbers) = (Align::Left, Align::Right);
    table_of(rows, [words, words, words, numbers, numbers, numbers])
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
