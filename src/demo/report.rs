//! What a demo found: as the contract's JSON object, and as a table for people.

use std::fmt::Write as _;
use std::time::Duration;

use atoll_geo::{RegionName, one_way_ms};
use atoll_loadgen::history::Write as Asked;
use atoll_loadgen::latency::Latency;
use atoll_loadgen::run::{Loaded, ProbeCounts, Sample};
use atoll_loadgen::wan::WanReport;
use serde::Serialize;

use super::Plan;
use super::cluster::Cluster;
use super::faults::{Fault, Faults};
use super::judgement::Judgement;

/// Bytes of a root that the table shows; the JSON has all.
const ROOT_SHOWN: usize = 16;

/// Instruments later than this, one time in a hundred, measure the machine rather than the nodes.
const LATE_US: u64 = 2_000;
const LATE_MS: f64 = 2.0;

/// The object of `atoll demo --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Contract {
    equal: bool,
    acked_writes: u64,
    lost: u64,
    duplicated: u64,
    regions: Vec<RegionLine>,
    pairs: Vec<PairLine>,
    writes_per_s: f64,
    write_p50_ms: f64,
    write_p99_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    failover: Option<Failover>,
}

/// One region of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct RegionLine {
    name: String,
    root: String,
    rows: u64,
}

/// One ordered pair of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct PairLine {
    from: String,
    to: String,
    one_way_ms: f64,
    n: u64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
}

/// How long the clients of a region that failed had nobody to write to.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Failover {
    region: String,
    gap_ms: f64,
}

/// Everything that the table tells.
pub(super) struct Report {
    contract: Contract,
    /// By region: what was found, in a word.
    verdicts: Vec<&'static str>,
    errors: Vec<(&'static str, u64)>,
    probes: ProbeCounts,
    /// Samples that a fault was in the way of: not in the pairs' figures.
    set_aside: usize,
    faults: Vec<String>,
    keys: usize,
    settled_after: Duration,
    pacer_late: Latency,
    wan: WanReport,
    violations: Vec<String>,
    clean: bool,
}

impl Report {
    pub(super) fn new(plan: &Plan, cluster: &Cluster, loaded: &Loaded, faults: &Faults, judgement: &Judgement) -> Self {
        let Judgement { settled, verdict } = judgement;
        let (pairs, set_aside) = pairs(&plan.regions, &loaded.convergence.samples, faults);
        let mut violations = verdict.explanations.clone();
        violations.extend(loaded.convergence.unseen.iter().cloned());
        if !settled.equal {
            violations
                .push(format!("the regions' digests are still not equal {} s after the load", settled.after.as_secs()));
        }
        let equal = settled.equal && verdict.differing == 0;
        let clean = equal && verdict.is_clean() && loaded.convergence.unseen.is_empty();
        let regions = settled.regions.iter().map(|region| RegionLine {
            name: region.region.to_string(),
            root: region.root.clone(),
            rows: region.rows,
        });
        let contract = Contract {
            equal,
            acked_writes: loaded.acknowledged,
            lost: verdict.lost,
            duplicated: verdict.duplicated,
            regions: regions.collect(),
            pairs,
            writes_per_s: rounded(per_second(loaded)),
            write_p50_ms: loaded.latency.ms(0.5),
            write_p99_ms: loaded.latency.ms(0.99),
            failover: faults.kill.as_ref().map(|kill| failover(plan, kill, &loaded.history)),
        };
        Self {
            verdicts: verdicts(judgement),
            errors: loaded.errors.iter().map(|(&code, &count)| (code, count)).collect(),
            probes: loaded.convergence.probes,
            set_aside,
            faults: told_faults(plan, faults, loaded),
            keys: verdict.keys,
            settled_after: settled.after,
            pacer_late: loaded.pacer_late.clone(),
            wan: cluster.wan().report(),
            violations,
            clean,
            contract,
        }
    }

    pub(super) fn contract(&self) -> &Contract {
        &self.contract
    }

    /// What is wrong, each in one line.
    pub(super) fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Whether nothing is.
    pub(super) fn is_clean(&self) -> bool {
        self.clean
    }

    /// The report for people.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let Contract { acked_writes, writes_per_s, write_p50_ms, write_p99_ms, .. } = self.contract;
        writeln!(
            text,
            "{acked_writes} writes acknowledged, {writes_per_s:.0} a second; a write took {write_p50_ms:.2} ms (p50), {write_p99_ms:.2} ms (p99)"
        )?;
        if !self.errors.is_empty() {
            let errors: Vec<_> = self.errors.iter().map(|(code, count)| format!("{code} {count}")).collect();
            writeln!(text, "not acknowledged: {}", errors.join(", "))?;
        }
        self.write_pairs(text)?;
        for fault in &self.faults {
            writeln!(text, "{fault}")?;
        }
        self.write_regions(text)?;
        self.write_instruments(text)?;
        let Contract { equal, lost, duplicated, .. } = self.contract;
        let verdict = if self.clean { "OK" } else { "FAILED" };
        let equal = if equal { "equal" } else { "NOT EQUAL" };
        writeln!(text, "\n{verdict}: every region is {equal}, {lost} acknowledged writes lost, {duplicated} duplicated")
    }

    fn write_pairs(&self, text: &mut String) -> std::fmt::Result {
        if self.contract.pairs.is_empty() {
            return Ok(());
        }
        let probes = self.probes;
        writeln!(
            text,
            "\nConvergence in ms: acknowledged in one region to readable in another (1 write in {} read back)\n\
             {:<16}{:<16}{:>8}{:>9}{:>9}{:>9}{:>10}{:>8}",
            probes.one_in, "FROM", "TO", "ONE WAY", "P50", "P99", "P99.9", "P50 OVER", "N"
        )?;
        for pair in &self.contract.pairs {
            let PairLine { from, to, one_way_ms, n, p50_ms, p99_ms, p999_ms } = pair;
            write!(text, "{from:<16}{to:<16}{one_way_ms:>8.1}")?;
            if *n == 0 {
                writeln!(text, "{:>9}{:>9}{:>9}{:>10}{n:>8}", "-", "-", "-", "-")?;
                continue;
            }
            let over = p50_ms - one_way_ms;
            writeln!(text, "{p50_ms:>9.2}{p99_ms:>9.2}{p999_ms:>9.2}{over:>+10.2}{n:>8}")?;
        }
        let ProbeCounts { skipped, behind, failed, .. } = probes;
        let set_aside = self.set_aside;
        if set_aside > 0 || skipped + behind + failed > 0 {
            writeln!(
                text,
                "beside these: {set_aside} met a fault, {failed} failed, {behind} not seen within 30 s, {skipped} not sent for want of room"
            )?;
        }
        Ok(())
    }

    fn write_regions(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "\n{:<16}{:<20}{:>9}  VERDICT", "REGION", "ROOT", "ROWS")?;
        for (region, verdict) in self.contract.regions.iter().zip(&self.verdicts) {
            let RegionLine { name, root, rows } = region;
            let root: String = root.chars().take(ROOT_SHOWN).collect();
            writeln!(text, "{name:<16}{root:<20}{rows:>9}  {verdict}")?;
        }
        let after = self.settled_after.as_secs_f64();
        writeln!(
            text,
            "{} keys read in full in every region and compared; digests were equal after {after:.1} s",
            self.keys
        )
    }

    fn write_instruments(&self, text: &mut String) -> std::fmt::Result {
        let late = self.wan.delay_error.histogram_us();
        let us = |quantile| late.value_at_quantile(quantile);
        writeln!(
            text,
            "\nInstruments: WAN emulator late by {} us (p50), {} us (p99), {} us (max) over {} packets; load generator by {:.2} ms (p50), {:.2} ms (p99)",
            us(0.5),
            us(0.99),
            late.max(),
            late.len(),
            self.pacer_late.ms(0.5),
            self.pacer_late.ms(0.99),
        )?;
        if self.pacer_late.ms(0.99) > LATE_MS || late.value_at_quantile(0.99) > LATE_US {
            writeln!(
                text,
                "This machine was too busy to measure on: its processors kept even these waiting, and every figure above has that wait in it."
            )?;
        }
        let full: u64 = self.wan.directions.iter().map(|one| one.counters.emulator_full).sum();
        if full > 0 {
            writeln!(text, "the emulator dropped {full} packets for want of room, which no ocean does")?;
        }
        Ok(())
    }
}

fn per_second(loaded: &Loaded) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a count of writes, far below 2^52")]
    let acknowledged = loaded.acknowledged as f64;
    acknowledged / loaded.took.as_secs_f64().max(f64::MIN_POSITIVE)
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Convergence of every ordered pair from the samples that no fault was in the way of, and how
/// many were set aside.
fn pairs(regions: &[RegionName], samples: &[Sample], faults: &Faults) -> (Vec<PairLine>, usize) {
    let faults: Vec<_> = [&faults.cut, &faults.kill].into_iter().flatten().collect();
    let (disturbed, whole): (Vec<&Sample>, Vec<&Sample>) =
        samples.iter().partition(|sample| faults.iter().any(|fault| meets(sample, fault)));
    let mut pairs = Vec::new();
    for (from, from_name) in regions.iter().enumerate() {
        for (to, to_name) in regions.iter().enumerate().filter(|&(to, _)| to != from) {
            let of_pair = whole.iter().filter(|sample| (sample.from, sample.to) == (from, to));
            let latency: Latency = of_pair.map(|sample| sample.readable.since(sample.acknowledged)).collect();
            pairs.push(PairLine {
                from: from_name.to_string(),
                to: to_name.to_string(),
                one_way_ms: one_way_ms(from_name, to_name).unwrap_or(0.0),
                n: latency.n(),
                p50_ms: latency.ms(0.5),
                p99_ms: latency.ms(0.99),
                p999_ms: latency.ms(0.999),
            });
        }
    }
    (pairs, disturbed.len())
}

/// Whether a fault of one of its two regions, or the recovery from it, fell into a sample's time.
fn meets(sample: &Sample, fault: &Fault) -> bool {
    (sample.from == fault.region || sample.to == fault.region)
        && sample.readable >= fault.began
        && sample.acknowledged <= fault.over()
}

/// From the kill to the first write of the region's clients that another region acknowledged.
fn failover(plan: &Plan, kill: &Fault, history: &[Asked]) -> Failover {
    let took_over = history
        .iter()
        .filter(|write| write.is_acknowledged() && write.home == kill.region)
        .filter(|write| write.region != kill.region && write.answered > kill.began)
        .map(|write| write.answered)
        .min();
    // If nobody took over, they waited for the restart.
    let gap = took_over.unwrap_or(kill.ended).since(kill.began);
    Failover { region: plan.regions[kill.region].to_string(), gap_ms: rounded(gap.as_secs_f64() * 1e3) }
}

fn verdicts(judgement: &Judgement) -> Vec<&'static str> {
    let Judgement { settled, verdict } = judgement;
    let findings = verdict.regions.iter().map(|findings| {
        if findings.lost > 0 {
            "acknowledged writes are lost"
        } else if findings.duplicated > 0 {
            "writes are duplicated"
        } else if findings.foreign > 0 {
            "shows what nobody wrote"
        } else if verdict.differing > 0 || !settled.equal {
            "differs"
        } else {
            "equal; nothing lost, nothing duplicated"
        }
    });
    findings.collect()
}

/// The faults in words.
fn told_faults(plan: &Plan, faults: &Faults, loaded: &Loaded) -> Vec<String> {
    let mut told = Vec::new();
    let lasted = |fault: &Fault| fault.ended.since(fault.began).as_secs_f64();
    if let Some(cut) = &faults.cut {
        let (during, otherwise) = writes_of(cut, &loaded.history);
        told.push(format!(
            "\n{} was cut off for {:.1} s; {:.2} s after the heal every region had what the others held.\n\
             Its own writes meanwhile: {} acknowledged, {:.2} ms (p50), {:.2} ms (p99); at other times {:.2} ms, {:.2} ms",
            plan.regions[cut.region],
            lasted(cut),
            cut.caught_up_after.as_secs_f64(),
            during.n(),
            during.ms(0.5),
            during.ms(0.99),
            otherwise.ms(0.5),
            otherwise.ms(0.99),
        ));
    }
    if let Some(kill) = &faults.kill {
        let Failover { region, gap_ms } = failover(plan, kill, &loaded.history);
        told.push(format!(
            "\n{region} was killed; {gap_ms:.0} ms later its clients wrote elsewhere. It was ready again after {:.1} s, \
             and {:.2} s later every region had what the others held",
            lasted(kill),
            kill.caught_up_after.as_secs_f64(),
        ));
    }
    told
}

/// How long acknowledged writes took in the region of a fault, while it lasted and otherwise.
fn writes_of(fault: &Fault, history: &[Asked]) -> (Latency, Latency) {
    let (during, otherwise): (Vec<&Asked>, Vec<&Asked>) = history
        .iter()
        .filter(|write| write.is_acknowledged() && write.region == fault.region)
        .partition(|write| write.intended >= fault.began && write.intended < fault.ended);
    let latency = |writes: Vec<&Asked>| -> Latency {
        writes.into_iter().map(|write| write.answered.since(write.intended)).collect()
    };
    (latency(during), latency(otherwise))
}

#[cfg(test)]
mod tests {
    use atoll_loadgen::clock::Moment;

    use super::*;

    fn ms(ms: u64) -> Moment {
        Moment::from_us(ms * 1_000)
    }

    fn fault(region: usize) -> Fault {
        let mut fault = Fault::new(region, ms(1_000), ms(2_000));
        fault.caught_up_after = Duration::from_millis(500);
        fault
    }

    fn sample(from: usize, to: usize, acknowledged: u64, readable: u64) -> Sample {
        Sample { from, to, acknowledged: ms(acknowledged), readable: ms(readable) }
    }

    #[test]
    fn samples_that_met_a_fault_of_their_regions_are_set_aside_and_no_others() {
        let regions: Vec<_> =
            ["us-east-1", "eu-west-1", "ap-southeast-1"].map(|name| RegionName::new(name).unwrap()).into();
        let samples = [
            sample(0, 2, 100, 210),     // before
            sample(0, 2, 950, 2_100),   // held up by it
            sample(2, 0, 2_499, 2_700), // in its backlog
            sample(2, 0, 2_501, 2_611), // after
            sample(0, 1, 1_500, 1_535), // elsewhere
        ];
        let faults = Faults { cut: Some(fault(2)), kill: None };
        let (pairs, set_aside) = pairs(&regions, &samples, &faults);
        assert_eq!((pairs.len(), set_aside), (6, 2));
        let of = |from: &str, to: &str| pairs.iter().find(|pair| pair.from == from && pair.to == to).unwrap();
        let ocean = of("us-east-1", "ap-southeast-1");
        assert_eq!((ocean.n, ocean.one_way_ms), (1, 110.0));
        assert!((ocean.p50_ms - 110.0).abs() < 0.2, "{}", ocean.p50_ms);
        assert_eq!(of("ap-southeast-1", "us-east-1").n, 1);
        assert_eq!(of("us-east-1", "eu-west-1").n, 1);
    }

    #[test]
    fn object_has_the_members_of_the_contract_and_no_others() {
        let line = PairLine {
            from: "a".into(),
            to: "b".into(),
            one_way_ms: 35.0,
            n: 1,
            p50_ms: 36.0,
            p99_ms: 36.0,
            p999_ms: 36.0,
        };
        let mut contract = Contract {
            equal: true,
            acked_writes: 1,
            lost: 0,
            duplicated: 0,
            regions: vec![RegionLine { name: "a".into(), root: "ff".into(), rows: 1 }],
            pairs: vec![line],
            writes_per_s: 1.0,
            write_p50_ms: 1.0,
            write_p99_ms: 2.0,
            failover: None,
        };
        let members = |contract: &Contract| -> Vec<String> {
            let json = serde_json::to_value(contract).unwrap();
            json.as_object().unwrap().keys().cloned().collect()
        };
        let mut expected = [
            "equal",
            "acked_writes",
            "lost",
            "duplicated",
            "regions",
            "pairs",
            "writes_per_s",
            "write_p50_ms",
            "write_p99_ms",
        ];
        expected.sort_unstable();
        let mut told = members(&contract);
        told.sort_unstable();
        assert_eq!(told, expected);
        contract.failover = Some(Failover { region: "a".into(), gap_ms: 1.0 });
        assert_eq!(members(&contract).len(), expected.len() + 1);
        let json = serde_json::to_value(&contract).unwrap();
        assert_eq!(json["pairs"][0]["one_way_ms"], 35.0);
        assert_eq!(json["failover"]["gap_ms"], 1.0);
    }
}
