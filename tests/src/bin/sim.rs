//! Plays simulated worlds: `sim run --seed S [--trace]`, `sim soak --seeds N [--from S] [--threads T] [--json]`.

use anyhow::{Context, bail};
use atoll_tests::sim::soak::{never_reached, soak, sums};
use atoll_tests::sim::{Options, Trace, World};
use std::io::Write;
use std::time::Instant;

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
            let threads = value("--threads")?.unwrap_or(1).max(1) as usize;
            let begun = Instant::now();
            let total = soak(from, seeds, threads).map_err(anyhow::Error::msg)?;
            let missing = never_reached(seeds, &total);
            if has("--json") {
                let sum = serde_json::json!({
                    "seeds": seeds, "from": from, "events": total.events, "records": total.records,
                    "faults": total.faults, "simulated_s": total.simulated_us / 1_000_000,
                    "wall_s": begun.elapsed().as_secs_f64(), "reached": total.reached, "never_reached": missing,
                });
                writeln!(out, "{sum}")?;
            } else {
                let rate = total.events as f64 / begun.elapsed().as_secs_f64();
                writeln!(out, "{}; {rate:.0} events a second", sums(seeds, &total))?;
                for (what, count) in &total.reached {
                    writeln!(out, "{count:>10} {what}")?;
                }
            }
            if !missing.is_empty() {
                bail!("{seeds} seeds never reached: {}", missing.join(", "));
            }
        }
        _ => bail!("usage: sim run --seed S [--trace] | sim soak --seeds N [--from S] [--threads T] [--json]"),
    }
    Ok(())
}

/// One line of a trace; a message's rows can be long.
fn tell(event: &str) {
    let line: String = event.chars().take(400).collect();
    // Whoever reads it may have seen enough.
    let _ = writeln!(std::io::stdout(), "{line}");
}
