//! `atoll doctor`: what is in a stopped node's directory, what of it is damaged, and what to do.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use atoll_node::config::Config;
use atoll_node::doctor::Doctor;
use atoll_node::store::{ClocksReport, DoctorError, Examination, Finding, JournalReport, RowsReport, Step, Verdict};
use clap::Args;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::console::{Console, OneLine};
use crate::exit::{Exit, Failure};

/// Names that are shown of a list; `--json` has all.
const NAMES_SHOWN: usize = 20;

/// Which directory.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The data directory of a node that is stopped
    #[arg(
        long,
        env = "ATOLL_DATA_DIR",
        value_name = "DIR",
        required_unless_present = "doctor.config",
        hide_env_values = true
    )]
    data_dir: Option<PathBuf>,
    /// The node's configuration: with it rows are compared with their digests too, and a start is rehearsed
    #[arg(id = "doctor.config", long = "config", env = "ATOLL_CONFIG", value_name = "FILE", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Where to open a likeness of the directory [default: beside it, where most files are linked, not copied]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

pub(super) fn run(args: &DoctorArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let doctor = doctor(args)?.with_scratch(args.scratch.clone());
    let line = Line::new();
    let outcome = doctor.examine(&mut |step| line.show(step));
    line.bar.finish_and_clear();
    let found = outcome.map_err(|error| failure(&error))?;
    if console.is_json() {
        console.json(&found)?;
    } else {
        console.text(&text(&found))?;
    }
    Ok(if found.verdict == Verdict::Healthy { Exit::Done } else { Exit::No })
}

fn doctor(args: &DoctorArgs) -> Result<Doctor, Failure> {
    let Some(file) = &args.config else {
        return Ok(Doctor::of_directory(args.data_dir.as_deref().unwrap_or(".".as_ref())));
    };
    let wrong = |what: &dyn std::fmt::Display| Failure::usage(format!("{}: {what}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(&error))?;
    let dir = args.data_dir.iter().map(|dir| ("data_dir".to_owned(), dir.display().to_string()));
    let config = Config::load(&text, &dir.collect::<Vec<_>>()).map_err(|error| wrong(&error))?;
    Doctor::of_node(&config).map_err(|error| wrong(&format_args!("{error}; leave --config out to do without digests")))
}

fn failure(error: &DoctorError) -> Failure {
    let exit = match error {
        DoctorError::NoDirectory { .. } => Exit::Usage,
        DoctorError::InUse { .. } => Exit::Refused,
        DoctorError::NoRoom { .. } | DoctorError::Io { .. } => Exit::CannotStart,
    };
    Failure::new(exit, error.to_string())
}

/// How far it is, on a terminal.
struct Line {
    bar: ProgressBar,
}

impl Line {
    fn new() -> Self {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        // A template of ours that does not parse leaves the default's look.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {bar:30} {percent}% {msg}") {
            bar.set_style(style);
        }
        Self { bar }
    }

    fn show(&self, step: Step) {
        let (what, done, all) = match step {
            Step::Likeness(done, all) => ("linking and copying files", done, all),
            Step::Rows(done, all) => ("reading rows", done, all),
            Step::Journal(done, all) => ("reading the journal", done, all),
            Step::Start => ("rehearsing a start", 0, 1),
        };
        self.bar.set_message(what);
        self.bar.set_length(all.max(1));
        self.bar.set_position(done.min(all));
    }
}

fn text(found: &Examination) -> String {
    let mut lines = vec![format!(
        "directory  {}, format {}",
        OneLine(&found.data_dir.display().to_string()),
        OneLine(found.format.as_deref().unwrap_or("not known"))
    )];
    if found.format.is_some() {
        lines.push(format!("journal    {}", journal(&found.journal)));
        lines.push(format!("rows       {}", found.rows.as_ref().map_or_else(|| "cannot be opened".to_owned(), rows)));
        lines.push(format!("sketch     {}", found.sketch));
        lines.extend(found.clocks.as_ref().map(|report| format!("clocks     {}", clocks(report))));
    }
    let bytes = [found.bytes.journal, found.bytes.rows, found.bytes.sketch, found.bytes.other].map(HumanBytes);
    lines.push(format!("size       journal {}, rows {}, sketch {}, other {}", bytes[0], bytes[1], bytes[2], bytes[3]));
    if let Some(report) = &found.rows {
        let holes = if report.rows_after_start.is_some() { &report.holes } else { &report.damaged };
        lines.extend(holes.iter().take(NAMES_SHOWN).map(|name| format!("damaged    {}", OneLine(name))));
        if holes.len() > NAMES_SHOWN {
            lines.push(format!("damaged    and {} more, see --json", holes.len() - NAMES_SHOWN));
        }
    }
    lines.extend(found.findings.iter().map(finding));
    lines.push(format!("\n{}", found.verdict.in_words()));
    lines.join("\n") + "\n"
}

fn journal(report: &JournalReport) -> String {
    let JournalReport { segments, indexes, first, last, entries, records, unfinished_bytes } = report;
    let unfinished =
        if *unfinished_bytes > 0 { format!(", {unfinished_bytes} bytes unfinished") } else { String::new() };
    format!(
        "{segments} segments, {indexes} indexes; entries {first} to {last}, {entries} of them whole, {records} records{unfinished}"
    )
}

fn rows(report: &RowsReport) -> String {
    let with = if report.with_digests { "checksums and digests" } else { "checksums alone (digests need --config)" };
    let mut text = format!("{} at entry {}, compared with {with}", report.rows, report.checkpoint);
    text.push_str(&format!("; {} damaged", report.damaged.len()));
    match report.rows_after_start {
        Some(rows) => text.push_str(&format!("; after a start {rows}, of which {} are not known", report.holes.len())),
        None if report.with_digests => text.push_str("; a start did not come up"),
        None => text.push_str("; no start was rehearsed"),
    }
    if report.clears_pending > 0 {
        text.push_str(&format!("; {} deletes of many rows to be seen through", report.clears_pending));
    }
    if let Some(layer) = report.layer_being_moved {
        text.push_str(&format!("; layer {layer} is being moved"));
    }
    text
}

fn clocks(report: &ClocksReport) -> String {
    let actor = report.actor.as_deref().unwrap_or("none");
    let founded = if report.founded_ms.is_some() { "" } else { "; it never finished joining" };
    format!(
        "{} processes ran here, the last as {actor} with {} records; {} records of {} actors were seen; stamps up to {}{founded}",
        report.starts,
        report.own_records,
        report.records_seen,
        report.actors,
        time_of(report.ceiling_ms),
    )
}

/// RFC 3339, as far as years go.
fn time_of(ms: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(ms)).map(time::OffsetDateTime::from);
    let text = time.and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok());
    text.unwrap_or_else(|| format!("{ms} ms"))
}

fn finding(finding: &Finding) -> String {
    let Finding { means, what, file, byte, lost, todo } = finding;
    let head = match means {
        Verdict::Healthy => "note",
        Verdict::RepairsItself => "repaired by peers",
        Verdict::NeedsAttention => "needs you",
        Verdict::RefusesToStart => "refuses to start",
    };
    let mut lines = vec![format!("\n{head}: {}", OneLine(what))];
    if let Some(file) = file {
        let byte = byte.map(|byte| format!(", byte {byte}")).unwrap_or_default();
        lines.push(format!("  where               {}{byte}", OneLine(&file.display().to_string())));
    }
    lines.extend(lost.iter().map(|lost| format!("  lost without peers  {lost}")));
    lines.push(format!("  what to do          {todo}"));
    lines.join("\n")
}
