//! Which region serves the clients of another: their own while it can be reached, else the next.

use std::time::Duration;

use atoll_client::{Client, Error};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{Access, Target};

/// How often a region is asked whether it is ready.
const CHECK_EVERY: Duration = Duration::from_millis(200);
/// How long it may take to answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// How many answers in a row may be missing. A refused connection counts at once.
const MISSED_MAX: u32 = 3;

/// The regions, and whether each can be reached.
pub(super) struct Router {
    regions: Vec<Option<watch::Sender<bool>>>,
}

impl Router {
    /// A router whose checks run in `tasks`.
    pub(super) fn new(targets: &[Target], access: &Access, tasks: &mut JoinSet<()>) -> Result<Self, Error> {
        let regions = targets.iter().map(|target| {
            let Some(health) = &target.health else { return Ok(None) };
            let client = access.client(health)?;
            let up = watch::Sender::new(true);
            tasks.spawn(check(client, up.clone()));
            Ok(Some(up))
        });
        Ok(Self { regions: regions.collect::<Result<_, Error>>()? })
    }

    pub(super) fn is_up(&self, region: usize) -> bool {
        self.regions[region].as_ref().is_none_or(|up| *up.borrow())
    }

    /// Where the clients of `home` go: to the first region from their own that is up, and to their
    /// own when none is.
    pub(super) fn serving(&self, home: usize) -> usize {
        let count = self.regions.len();
        (home..home + count).map(|at| at % count).find(|&at| self.is_up(at)).unwrap_or(home)
    }

    /// Returns when `region` cannot be reached; never, where nobody checks.
    pub(super) async fn lost(&self, region: usize) {
        self.becomes(region, false).await;
    }

    /// Returns when `region` can be reached; never, where nobody checks.
    pub(super) async fn found(&self, region: usize) {
        self.becomes(region, true).await;
    }

    async fn becomes(&self, region: usize, wanted: bool) {
        let Some(up) = &self.regions[region] else { return std::future::pending().await };
        // The sender lives as long as the router.
        let _ = up.subscribe().wait_for(|&up| up == wanted).await;
    }
}

/// Keeps `up` true while the node answers. One that was lost is up again when it says that it is
/// ready; one that says it is not was reached all the same.
async fn check(client: Client, up: watch::Sender<bool>) {
    let mut ticks = interval(CHECK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut missed = 0;
    loop {
        ticks.tick().await;
        let now_up = match timeout(CHECK_TIMEOUT, client.readiness(None)).await {
            Ok(Ok(readiness)) => {
                missed = 0;
                *up.borrow() || readiness.ready
            }
            Ok(Err(Error::Unreachable { .. })) => false,
            Ok(Err(_)) | Err(_) => {
                missed += 1;
                missed < MISSED_MAX && *up.borrow()
            }
        };
        up.send_if_modified(|up| std::mem::replace(up, now_up) != now_up);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(up: &[bool]) -> Router {
        Router { regions: up.iter().map(|&up| Some(watch::Sender::new(up))).collect() }
    }

    #[test]
    fn clients_go_to_their_own_region_then_to_the_next_that_is_up() {
        let serving = |up: &[bool]| [0, 1, 2].map(|home| router(up).serving(home));
        assert_eq!(serving(&[true, true, true]), [0, 1, 2]);
        assert_eq!(serving(&[true, false, true]), [0, 2, 2]);
        assert_eq!(serving(&[true, true, false]), [0, 1, 0]);
        assert_eq!(serving(&[false, false, false]), [0, 1, 2]);
    }

    #[tokio::test]
    async fn loss_is_told_to_those_who_wait_and_to_those_who_come_later() {
        let router = router(&[true, true]);
        let change = async { router.regions[0].as_ref().unwrap().send_replace(false) };
        let ((), _) = tokio::join!(router.lost(0), change);
        router.lost(0).await;
        assert!(timeout(Duration::ZERO, router.lost(1)).await.is_err());
    }

    #[tokio::test]
    async fn region_whose_port_is_closed_is_lost() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let endpoint: atoll_client::Endpoint = format!("http://{closed}").parse().unwrap();
        let target = Target {
            region: atoll_geo::RegionName::new("eu-west-1").unwrap(),
            endpoint: endpoint.clone(),
            health: Some(endpoint),
        };
        let mut tasks = JoinSet::new();
        let router = Router::new(&[target], &Access::default(), &mut tasks).unwrap();
        timeout(Duration::from_secs(5), router.lost(0)).await.unwrap();
    }
}
