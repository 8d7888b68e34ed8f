//! `atoll load run`: a scenario file against nodes that run already.

use std::path::{Path, PathBuf};
use std::time::Duration;

use atoll_client::Trust;
use atoll_loadgen::clock::Clock;
use atoll_loadgen::run::{Access, LoadRun};
use atoll_loadgen::scenario::{LoadReport, Scenario};

use clap::Subcommand;
use clap::builder::{PathBufValueParser, TypedValueParser};

use crate::cli::Json;
use crate::connect::read;
use crate::console::Console;
use crate::exit::{Exit, Failure};

/// `atoll load …`
#[derive(Debug, Subcommand)]
pub(crate) enum LoadCommand {
    /// Run a scenario and show throughput and latency
    Run {
        /// The scenario, in TOML
        #[arg(value_name = "SCENARIO.toml")]
        scenario: PathBuf,
        /// Write the report to this file, too
        #[arg(id = "json", long = "json", value_name = "FILE", value_parser = json_file())]
        json: Option<Json>,
    },
}

fn json_file() -> impl TypedValueParser<Value = Json> {
    PathBufValueParser::new().map(Json::File)
}

/// Runs the scenario in a file.
pub(crate) async fn run(command: LoadCommand, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let LoadCommand::Run { scenario: path, json } = command;
    let scenario = parse(&path)?;
    let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
    let workload = scenario.workload().map_err(|error| wrong(&error))?;
    let targets = scenario.targets().map_err(|error| wrong(&error))?;
    let access = access(&scenario, &path)?;
    for target in &targets {
        // A run against nobody would be a report full of errors.
        let client = access.client(&target.endpoint)?;
        client.is_healthy().await?;
        client.close().await;
    }
    let run = LoadRun::start(workload, &targets, &access, Clock::start())
        .map_err(|error| Failure::new(Exit::CannotStart, error.to_string()))?;
    let report = LoadReport::from(&run.finish(Duration::ZERO).await);
    if let Some(Json::File(file)) = &json {
        write(file, &report)?;
    }
    if console.is_json() && !matches!(json, Some(Json::File(_))) {
        console.json(&report)?;
    } else {
        console.text(&table(&report))?;
    }
    let failed = report.acked_writes == 0 || !report.errors.is_empty();
    Ok(if failed { Exit::No } else { Exit::Done })
}

fn parse(path: &Path) -> Result<Scenario, Failure> {
    let bytes = read(path, "SCENARIO")?;
    let text = String::from_utf8(bytes).map_err(|_| Failure::usage(format!("{} is not UTF-8", path.display())))?;
    toml::from_str(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// Paths in a scenario are relative to its file.
fn access(scenario: &Scenario, path: &Path) -> Result<Access, Failure> {
    let beside = |file: &PathBuf| path.parent().unwrap_or(Path::new("")).join(file);
    let trust = match &scenario.ca {
        Some(ca) => Some(Trust::from_pem(&read(&beside(ca), "ca")?)?),
        None => None,
    };
    let bearer = match &scenario.bearer_file {
        Some(file) => Some(crate::connect::bearer(&beside(file), "bearer_file")?),
        None => None,
    };
    Ok(Access { trust, bearer })
}

fn write(file: &Path, report: &LoadReport) -> Result<(), Failure> {
    let mut bytes = serde_json::to_vec(report).unwrap_or_default();
    bytes.push(b'\n');
    std::fs::write(file, bytes)
        .map_err(|error| Failure::new(Exit::CannotStart, format!("{} cannot be written: {error}", file.display())))
}

/// The report for people.
fn table(report: &LoadReport) -> String {
    use std::fmt::Write as _;
    let LoadReport { acked_writes, writes_per_s, seconds, .. } = report;
    let mut text = format!("{acked_writes} writes acknowledged in {seconds:.1} s, {writes_per_s:.0} a second\n\n");
    // Writing to a string does not fail.
    let _ = writeln!(text, "{:<12}{:>10}{:>9}{:>9}{:>9}{:>9}", "MS", "N", "P50", "P99", "P99.9", "MAX");
    let rows = report.by_type.iter().map(|(name, one)| (*name, one));
    let rows = rows.chain([("all", &report.write)]);
    for (name, one) in rows.chain(report.generator_late.iter().map(|late| ("(late)", late))) {
        let _ = writeln!(
            text,
            "{name:<12}{:>10}{:>9.2}{:>9.2}{:>9.2}{:>9.2}",
            one.n, one.p50_ms, one.p99_ms, one.p999_ms, one.max_ms
        );
    }
    if !report.errors.is_empty() {
        let errors: Vec<_> = report.errors.iter().map(|(code, count)| format!("{code} {count}")).collect();
        let _ = writeln!(text, "\nnot acknowledged: {}", errors.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_scenario_reads_and_a_misspelt_key_is_named() {
        let example = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/loadgen/scenarios/durable-writes.toml"));
        let scenario = parse(example).unwrap();
        let workload = scenario.workload().unwrap();
        assert_eq!((workload.sessions_per_region, workload.value_bytes), (64, 100));
        assert_eq!(scenario.targets().unwrap().len(), 1);

        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.toml");
        std::fs::write(
            &path,
            "duration = \"1s\"\nin_fligth = 3\n[[region]]\nname = \"a\"\nendpoint = \"http://localhost\"\n",
        )
        .unwrap();
        let failure = parse(&path).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("in_fligth"), "{}", failure.message);
    }

    #[test]
    fn files_of_a_scenario_are_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("b"), "secret\n").unwrap();
        let path = directory.path().join("s.toml");
        std::fs::write(
            &path,
            "duration = \"1s\"\nbearer_file = \"b\"\n[[region]]\nname = \"a\"\nendpoint = \"https://localhost\"\n",
        )
        .unwrap();
        let scenario = parse(&path).unwrap();
        assert_eq!(access(&scenario, &path).unwrap().bearer.as_deref(), Some("secret"));
        let lost = Scenario { ca: Some("nowhere".into()), ..scenario };
        assert_eq!(access(&lost, &path).unwrap_err().exit, Exit::Usage);
    }
}
