//! The end of a demo: waiting for equality, reading everything everywhere, judging it.

use std::time::Duration;

use atoll_geo::RegionName;
use atoll_loadgen::run::Loaded;
use atoll_loadgen::verify::{Settled, Unreadable, Verdict, dump, judge, settle};
use atoll_loadgen::workload::Workload;

use super::cluster::Cluster;
use crate::exit::{Exit, Failure};

/// How long the regions may take to become equal after the load.
const SETTLE_PATIENCE: Duration = Duration::from_secs(60);

/// What came of it.
pub(super) struct Judgement {
    pub(super) settled: Settled,
    pub(super) verdict: Verdict,
}

impl Judgement {
    pub(super) async fn reach(cluster: &Cluster, workload: &Workload, loaded: &Loaded) -> Result<Self, Failure> {
        let unreadable = |error: Unreadable| Failure::new(Exit::No, error.to_string());
        let settled = settle(&cluster.admins()?, SETTLE_PATIENCE).await.map_err(unreadable)?;
        let targets = cluster.targets();
        let mut dumps = Vec::with_capacity(targets.len());
        for target in &targets {
            let client = cluster.access().client(&target.endpoint)?;
            let read = dump(&client, &workload.namespace).await;
            client.close().await;
            let region = target.region.clone();
            dumps.push(read.map_err(|source| unreadable(Unreadable { region, source }))?);
        }
        let regions: Vec<RegionName> = targets.into_iter().map(|target| target.region).collect();
        let verdict = judge(workload, &regions, &loaded.history, &dumps);
        Ok(Self { settled, verdict })
    }
}
