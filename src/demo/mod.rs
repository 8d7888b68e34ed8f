//! `atoll demo`: the main job on real input, on one machine.
//!
//! *How it goes.* A fresh authority and one real process per region, every link between them
//! through the WAN emulator with published delays. Clients write in every region; a script cuts
//! one region off or kills one, if that was asked. Then: wait until all regions hold the same,
//! read everything everywhere, and judge it.
//!
//! *What always holds.* D1: it ends with 0 only if every region ended equal and nothing that was
//! acknowledged was lost or counted twice. D2: no process outlives it. D3: what the processes said
//! is kept if anything went wrong, and where is told. D4: it waits for conditions with a deadline,
//! never for a time.
//!
//! *What is not here.* Measuring and judging: the load generator's.

mod cluster;
mod faults;
mod judgement;
mod node_config;
mod progress;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use atoll_client::api::Namespace;
use atoll_geo::RegionName;
use atoll_loadgen::clock::Clock;
use atoll_loadgen::run::LoadRun;
use atoll_loadgen::workload::Workload;
use clap::Args;

use crate::console::Console;
use crate::exit::{Exit, Failure};

use cluster::Cluster;
use faults::Script;
use judgement::Judgement;
use progress::Progress;

/// Where the demo's keys are.
const NAMESPACE: &str = "demo";

/// Most regions: each is a process of this machine.
const REGIONS_MAX: u8 = 9;
const DURATION_MIN: Duration = Duration::from_secs(1);
const DURATION_MAX: Duration = Duration::from_secs(3_600);

/// How long probes may go on after the load: as long as a read may wait.
const PROBE_PATIENCE: Duration = Duration::from_secs(35);

/// `atoll demo`
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How many regions, from the built-in table
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=i64::from(REGIONS_MAX)))]
    regions: u8,
    /// How long to write
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = load_duration)]
    duration: Duration,
    /// Writes a second, over all regions
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Cut the last region off from the others for the middle third
    #[arg(long)]
    partition: bool,
    /// Kill this region's process after a third, and start it again after two
    #[arg(long, value_name = "REGION")]
    fail: Option<String>,
    /// Leave the nodes running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

fn load_duration(text: &str) -> Result<Duration, String> {
    match crate::cli::duration(text) {
        Ok(duration) if (DURATION_MIN..=DURATION_MAX).contains(&duration) => Ok(duration),
        Ok(_) => Err("it is 1s to 1h".to_owned()),
        Err(rejection) => Err(rejection.detail),
    }
}

/// What was asked, checked.
struct Plan {
    regions: Vec<RegionName>,
    duration: Duration,
    per_second: f64,
    /// The region that is cut off, by its place.
    cut: Option<usize>,
    /// The region that is killed, by its place.
    kill: Option<usize>,
}

impl Plan {
    fn new(args: &DemoArgs) -> Result<Self, Failure> {
        let regions: Vec<_> =
            atoll_geo::built_in_regions().iter().take(args.regions.into()).map(atoll_geo::CloudRegion::name).collect();
        let last = regions.len() - 1;
        if last == 0 && (args.partition || args.fail.is_some()) {
            return Err(Failure::usage(
                "with one region there is no other to cut it from or fail over to; give --regions 2 or more",
            ));
        }
        let kill = args.fail.as_ref().map(|name| {
            regions.iter().position(|region| region.as_str() == name).ok_or_else(|| {
                let known: Vec<_> = regions.iter().map(RegionName::as_str).collect();
                Failure::usage(format!("--fail {name}: the demo's regions are {}", known.join(", ")))
            })
        });
        Ok(Self {
            cut: args.partition.then_some(last),
            kill: kill.transpose()?,
            regions,
            duration: args.duration,
            per_second: f64::from(args.rate),
        })
    }

    fn workload(&self) -> Result<Workload, Failure> {
        let namespace = Namespace::new(NAMESPACE)?;
        let workload = Workload::mixed(namespace, self.per_second, self.duration);
        workload.check().map_err(|error| Failure::usage(error.to_string()))?;
        Ok(workload)
    }
}

/// Runs the demo.
pub(crate) async fn run(args: &DemoArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let plan = Plan::new(args)?;
    let workload = plan.workload()?;
    let directory = tempfile::Builder::new()
        .prefix("atoll-demo-")
        .tempdir()
        .map_err(|error| cannot_start(format!("no temporary directory: {error}")))?;
    let mut cluster = Cluster::prepare(directory.path().to_owned(), &plan.regions)?;
    let outcome = tokio::select! {
        outcome = drive(&plan, workload, &mut cluster, console) => outcome,
        () = interrupted() => Err(Failure::new(Exit::No, "interrupted before there was a verdict")),
    };
    let outcome = match outcome {
        Ok(exit) if args.keep => tell_where(&cluster, console).map(|()| exit),
        outcome => outcome,
    };
    if args.keep && outcome.is_ok() {
        interrupted().await;
    }
    cluster.stop().await; // D2
    match outcome {
        Ok(Exit::Done) => Ok(Exit::Done),
        outcome => {
            let kept: PathBuf = directory.keep(); // D3
            console.complain(&format!("data and output of the nodes are kept in {}", kept.display()));
            outcome
        }
    }
}

async fn drive(
    plan: &Plan,
    workload: Workload,
    cluster: &mut Cluster,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let progress = Progress::new(plan.duration);
    progress.phase("starting");
    cluster.start().await?;
    let (targets, access) = (cluster.targets(), cluster.access().clone());
    let clock = Clock::start();
    let namespace = workload.namespace.clone();
    let spec = workload.clone();
    let load = LoadRun::start(workload, &targets, &access, clock).map_err(|error| cannot_start(error.to_string()))?;
    let script = Script { plan, clock, targets: &targets, access: &access, namespace: &namespace };
    let observer = load.observer();
    let (loaded, faults) =
        progress.watch(&observer, async { tokio::join!(load.finish(PROBE_PATIENCE), script.play(cluster)) }).await;
    cluster.check_alive()?;
    let faults = faults?;
    progress.phase("waiting until every region holds the same");
    let judgement = Judgement::reach(cluster, &spec, &loaded).await?;
    progress.end();
    let report = report::Report::new(plan, cluster, &loaded, &faults, &judgement);
    if console.is_json() {
        console.json(&report.contract())?;
    } else {
        console.text(&report.table())?;
    }
    for violation in report.violations() {
        console.complain(violation);
    }
    Ok(if report.is_clean() { Exit::Done } else { Exit::No }) // D1
}

/// How to go on by hand.
fn tell_where(cluster: &Cluster, console: &mut Console<'_>) -> Result<(), Failure> {
    let text = cluster.manual(NAMESPACE);
    if console.is_json() {
        // Standard output is the report and nothing else.
        console.complain_in_full(&text);
    } else {
        console.text(&text)?;
    }
    console.flush()
}

/// Returns when somebody wants the process to end.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            return;
        }
    }
    // Where signals cannot be listened to, they end the process by themselves.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn cannot_start(message: String) -> Failure {
    Failure::new(Exit::CannotStart, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> DemoArgs {
        DemoArgs {
            regions: 3,
            duration: Duration::from_secs(30),
            rate: 2_000,
            partition: false,
            fail: None,
            keep: false,
        }
    }

    #[test]
    fn demo_takes_the_first_regions_of_the_table_and_cuts_the_last() {
        let plan = Plan::new(&DemoArgs { partition: true, ..args() }).unwrap();
        let names: Vec<_> = plan.regions.iter().map(RegionName::as_str).collect();
        assert_eq!(names, ["us-east-1", "eu-west-1", "ap-southeast-1"]);
        assert_eq!((plan.cut, plan.kill), (Some(2), None));
    }

    #[test]
    fn region_that_is_to_fail_must_be_there_and_have_another() {
        let fail = |name: &str, regions| {
            Plan::new(&DemoArgs { fail: Some(name.to_owned()), regions, ..args() }).map(|plan| plan.kill)
        };
        assert_eq!(fail("eu-west-1", 3), Ok(Some(1)));
        let failure = fail("eu-north-1", 3).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("us-east-1, eu-west-1"), "{}", failure.message);
        assert_eq!(fail("us-east-1", 1).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn more_than_a_history_can_hold_is_a_usage_error() {
        let args = DemoArgs { rate: 100_000, duration: Duration::from_secs(3_600), ..args() };
        let failure = Plan::new(&args).unwrap().workload().unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
    }
}
