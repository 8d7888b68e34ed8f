//! What is done to the cluster while it is under load, and how long it needs to recover.

use std::time::Duration;

use atoll_client::api::Namespace;
use atoll_loadgen::clock::{Clock, Moment};
use atoll_loadgen::run::{Access, Target, catch_up};
use tokio::time::sleep_until;

use super::Plan;
use super::cluster::Cluster;
use crate::exit::{Exit, Failure};

/// What happens when: the faults of a plan last from the first third of the run to the second.
pub(super) struct Script<'a> {
    pub(super) plan: &'a Plan,
    pub(super) clock: Clock,
    pub(super) targets: &'a [Target],
    pub(super) access: &'a Access,
    pub(super) namespace: &'a Namespace,
}

/// What happened.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    pub(super) cut: Option<Fault>,
    pub(super) kill: Option<Fault>,
}

/// One fault.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    /// The region, by its place.
    pub(super) region: usize,
    /// When it began.
    pub(super) began: Moment,
    /// When its cause was taken away: the links were healed, the restarted process was ready.
    pub(super) ended: Moment,
    /// How long it took from then until every region had what the others held at that moment.
    pub(super) caught_up_after: Duration,
}

impl Fault {
    pub(super) fn new(region: usize, began: Moment, ended: Moment) -> Self {
        Self { region, began, ended, caught_up_after: Duration::ZERO }
    }

    /// When its effects were over.
    pub(super) fn over(&self) -> Moment {
        Moment::after_start(Duration::from_micros(self.ended.us()) + self.caught_up_after)
    }
}

impl Script<'_> {
    /// Does what the plan says, when it says. The effects of a fault are over when this returns.
    pub(super) async fn play(&self, cluster: &mut Cluster) -> Result<Faults, Failure> {
        let mut faults = Faults::default();
        let (began, ended) = (self.plan.duration / 3, self.plan.duration * 2 / 3);
        if self.plan.cut.is_none() && self.plan.kill.is_none() {
            return Ok(faults);
        }
        self.wait_for(began).await;
        let began = self.clock.now();
        if let Some(region) = self.plan.cut {
            cluster.wan().cut_region(&self.plan.regions[region]);
        }
        if let Some(region) = self.plan.kill {
            cluster.kill(region).await?;
        }
        self.wait_for(ended).await;
        if let Some(region) = self.plan.cut {
            cluster.wan().heal_region(&self.plan.regions[region]);
            let healed = self.clock.now();
            faults.cut = Some(Fault::new(region, began, healed));
        }
        if let Some(region) = self.plan.kill {
            cluster.restart(region).await?;
            faults.kill = Some(Fault::new(region, began, self.clock.now()));
        }
        for fault in [&mut faults.cut, &mut faults.kill].into_iter().flatten() {
            self.wait_for_recovery(fault).await?;
        }
        Ok(faults)
    }

    async fn wait_for(&self, after_start: Duration) {
        let at = self.clock.instant(Moment::after_start(after_start));
        sleep_until(at.into()).await;
    }

    async fn wait_for_recovery(&self, fault: &mut Fault) -> Result<(), Failure> {
        catch_up(self.targets, self.access, self.namespace, fault.region)
            .await
            .map_err(|error| Failure::new(Exit::No, format!("after the fault: {error}")))?;
        fault.caught_up_after = self.clock.now().since(fault.ended);
        Ok(())
    }
}
