//! How long a region and the others need to catch up with each other, while load goes on.
//!
//! Digests are never equal under load. But a read's token covers all that its region held, and a
//! read elsewhere that carries it waits for just that: when the last of these has its answer,
//! everything that was held when the first was sent is everywhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_client::api::{Namespace, limits};
use atoll_client::{Error, KeysQuery, Options, Page, Session};
use atoll_geo::RegionName;
use tokio::task::JoinSet;

use super::{Access, Target};

/// Why it is not known: a read failed.
#[derive(Debug, thiserror::Error)]
#[error("{region} does not tell: {source}")]
pub struct CatchUpError {
    /// Which region was read.
    pub region: RegionName,
    /// Why it failed; `session_behind` if it did not catch up within 30 s.
    #[source]
    pub source: Error,
}

/// Waits until everything that `region` holds now is in every other region, and the other way
/// round. Returns how long that took.
///
/// # Errors
/// When a region cannot be read, or does not catch up within 30 s.
pub async fn catch_up(
    targets: &[Target],
    access: &Access,
    namespace: &Namespace,
    region: usize,
) -> Result<Duration, CatchUpError> {
    let started = Instant::now();
    let namespace = Arc::new(namespace.clone());
    let mut waits = JoinSet::new();
    let (before, rest) = targets.split_at(region);
    for other in before.iter().chain(rest.iter().skip(1)) {
        for (from, to) in [(&targets[region], other), (other, &targets[region])] {
            waits.spawn(wait(from.clone(), to.clone(), access.clone(), namespace.clone()));
        }
    }
    while let Some(waited) = waits.join_next().await {
        waited.expect("a read does not panic")?;
    }
    Ok(started.elapsed())
}

/// Returns when `to` has what `from` holds.
async fn wait(from: Target, to: Target, access: Access, namespace: Arc<Namespace>) -> Result<(), CatchUpError> {
    let failed = |target: &Target| {
        let region = target.region.clone();
        move |source| CatchUpError { region, source }
    };
    let source = access.client(&from.endpoint).map_err(failed(&from))?;
    let session = source.session();
    glance(&session, &namespace).await.map_err(failed(&from))?;
    let Some(token) = session.token() else { return Ok(()) };
    // A connection of its own: no other answer is in front of this one.
    let target = access.client(&to.endpoint).map_err(failed(&to))?;
    let options = Options { wait: Some(limits::WAIT_MAX), ..Options::default() };
    let session = target.resume(&token).with_options(options);
    glance(&session, &namespace).await.map_err(failed(&to))?;
    source.close().await;
    target.close().await;
    Ok(())
}

/// The least read that there is.
async fn glance(session: &Session, namespace: &Namespace) -> Result<(), Error> {
    let page = Page { limit: Some(1), after: None };
    let query = KeysQuery { page, ..KeysQuery::default() };
    session.keys(namespace, &query).await.map(|_| ())
}
