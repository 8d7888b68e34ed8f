//! Plays simulated worlds: `sim run --seed S [--trace]`, `sim soak --seeds N [--from S] [--json]`.

use anyhow::{Context, bail};
use atoll_tests::sim::{Options, Report, Trace, World};
use std::io::Write;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| -> anyhow::Result<Option<u64>> {
        let Some(at) = arguments.iter().position(|argument| argument == name) else { return Ok(None) };
        let text = arguments.get(at + 1).with_context(|| format!("{name} needs a number"))?;
        Ok(Some(text.parse().with_context(|| format!("{name} {text}: not a number"))?))
    };
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let mut out = std::io::stdout();
    match arguments.first().map(String::as_str) {
        Some("run") => {
            let seed = value("--seed")?.context("run needs --seed S")?;
            let options = Options::draw(seed);
            writeln!(out, "{options:?}")?;
            let trace: Option<Trace> = has("--trace").then(|| Box::new(tell) as Trace);
            match World::traced(options, trace) {
                Ok(report) => writeln!(out, "{report:?}")?,
                Err(what) => bail!(what),
            }
        }
        Some("soak") => {
            let (from, seeds) = (value("--from")?.unwrap_or(0), value("--seeds")?.unwrap_or(1_000));
            let mut total = Report::default();
            for seed in from..from + seeds {
                let report = World::run(Options::draw(seed)).map_err(anyhow::Error::msg)?;
                total.add(&report);
            }
            if has("--json") {
                let (simulated_s, reached) = (total.simulated_us / 1_000_000, &total.reached);
                let (events, records) = (total.events, total.records);
                let sum = serde_json::json!({
                    "seeds": seeds, "from": from, "events": events, "records": records,
                    "simulated_s": simulated_s, "reached": reached,
                });
                writeln!(out, "{sum}")?;
                return Ok(());
            }
            writeln!(
                out,
                "{seeds} seeds, {} events, {} records, {} simulated seconds",
                total.events,
                total.records,
                total.simulated_us / 1_000_000
            )?;
            for (what, count) in total.reached {
                writeln!(out, "{count:>10} {what}")?;
            }
        }
        _ => bail!("usage: sim run --seed S [--trace] | sim soak --seeds N [--from S] [--json]"),
    }
    Ok(())
}

/// One line of a trace; a message's rows can be long.
fn tell(event: &str) {
    let line: String = event.chars().take(400).collect();
    // Whoever reads it may have seen enough.
    let _ = writeln!(std::io::stdout(), "{line}");
}
