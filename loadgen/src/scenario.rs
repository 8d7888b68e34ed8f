//! A run as somebody wrote it down: a scenario file's contents, checked into a workload.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use atoll_client::Endpoint;
use atoll_client::api::{Namespace, Rejection, parse_duration};
use atoll_geo::{RegionName, RegionNameError};
use serde::{Deserialize, Serialize};

use crate::latency::Quantiles;
use crate::run::{Loaded, Target};
use crate::workload::{Mix, Pace, Spread, Workload, WorkloadError};

/// A scenario, unchecked. Unknown keys are errors: a misspelt one would be ignored in silence.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The regions to load, at least one.
    pub region: Vec<ScenarioRegion>,
    /// How long, as in `30s`.
    pub duration: String,
    /// Requests in flight in each region. In a closed loop it is always this many, in an open one
    /// never more.
    #[serde(default = "in_flight")]
    pub in_flight: u16,
    /// Writes a second over all regions. With it the loop is open; without, closed.
    pub rate: Option<f64>,
    /// How an open loop's writes are spread.
    #[serde(default)]
    pub spread: Spread,
    /// Where the keys are.
    #[serde(default = "namespace")]
    pub namespace: String,
    /// Where all randomness comes from.
    #[serde(default)]
    pub seed: u64,
    /// Which types, in which proportion.
    #[serde(default)]
    pub mix: Mix,
    /// Keys of each type that all sessions share.
    #[serde(default = "keys")]
    pub keys: u32,
    /// Keys of each type that each session has to itself.
    #[serde(default)]
    pub own_keys: u32,
    /// The size of a register's value.
    #[serde(default = "value_bytes")]
    pub value_bytes: usize,
    /// Whether each session carries its token.
    #[serde(default)]
    pub tokens: bool,
    /// The cluster's CA certificate, in PEM.
    pub ca: Option<PathBuf>,
    /// A file whose first line is the bearer token.
    pub bearer_file: Option<PathBuf>,
}

/// A region of a scenario.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioRegion {
    /// Its name.
    pub name: String,
    /// Its client listener: `quic://…`, `https://…` or `http://…`.
    pub endpoint: String,
}

const fn in_flight() -> u16 {
    64
}

fn namespace() -> String {
    "load".to_owned()
}

const fn keys() -> u32 {
    10_000
}

const fn value_bytes() -> usize {
    100
}

/// What is wrong with a scenario: its author's fault. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// A name, an address or a duration.
    #[error("{field}: {source}")]
    Field {
        /// Which key.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: Rejection,
    },
    /// A region's name.
    #[error("region.name: {0}")]
    Region(#[from] RegionNameError),
    /// A number out of its range.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
}

impl Scenario {
    /// The workload that this asks for.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn workload(&self) -> Result<Workload, ScenarioError> {
        let field = |field| move |source| ScenarioError::Field { field, source };
        let duration: Duration = parse_duration(&self.duration).map_err(field("duration"))?;
        let workload = Workload {
            namespace: Namespace::new(&self.namespace).map_err(field("namespace"))?,
            seed: self.seed,
            mix: self.mix,
            shared_keys: self.keys,
            own_keys: self.own_keys,
            value_bytes: self.value_bytes,
            sessions_per_region: self.in_flight,
            pace: match self.rate {
                Some(per_second) => Pace::Open { per_second, spread: self.spread },
                None => Pace::Closed,
            },
            duration,
            tokens: self.tokens,
            probe_share: 0.0,
            record: false,
        };
        workload.check()?;
        Ok(workload)
    }

    /// The regions that this names.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn targets(&self) -> Result<Vec<Target>, ScenarioError> {
        let target = |region: &ScenarioRegion| {
            let endpoint: Endpoint =
                region.endpoint.parse().map_err(|source| ScenarioError::Field { field: "region.endpoint", source })?;
            Ok(Target { region: RegionName::new(&region.name)?, endpoint, health: None })
        };
        self.region.iter().map(target).collect()
    }
}

/// What a scenario's run did, as JSON shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoadReport {
    /// Writes that were acknowledged.
    pub acked_writes: u64,
    /// The same by the second.
    pub writes_per_s: f64,
    /// How long they took.
    pub write: Quantiles,
    /// The same by type.
    pub by_type: BTreeMap<&'static str, Quantiles>,
    /// Writes that were not acknowledged, by code.
    pub errors: BTreeMap<&'static str, u64>,
    /// How much later than due the generator itself was; absent in a closed loop.
    pub generator_late: Option<Quantiles>,
    /// How long the run took, in seconds.
    pub seconds: f64,
}

impl From<&Loaded> for LoadReport {
    fn from(loaded: &Loaded) -> Self {
        let seconds = loaded.took.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a count of writes, far below 2^52")]
        let writes_per_s = loaded.acknowledged as f64 / seconds.max(f64::MIN_POSITIVE);
        Self {
            acked_writes: loaded.acknowledged,
            writes_per_s,
            write: (&loaded.latency).into(),
            by_type: loaded.latency_by_type.iter().map(|(name, one)| (*name, one.into())).collect(),
            errors: loaded.errors.clone(),
            generator_late: (loaded.pacer_late.n() > 0).then(|| (&loaded.pacer_late).into()),
            seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scenario(extra: &serde_json::Value) -> Result<Scenario, serde_json::Error> {
        let mut all = json!({
            "region": [{"name": "us-east-1", "endpoint": "quic://127.0.0.1:7602"}],
            "duration": "10s",
        });
        all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(all)
    }

    #[test]
    fn scenario_without_a_rate_is_a_closed_loop_and_with_one_an_open() {
        let closed = scenario(&json!({})).unwrap().workload().unwrap();
        assert_eq!((closed.pace, closed.sessions_per_region), (Pace::Closed, 64));
        let open = scenario(&json!({"rate": 50.0, "spread": "constant"})).unwrap();
        assert_eq!(open.workload().unwrap().pace, Pace::Open { per_second: 50.0, spread: Spread::Constant });
        assert_eq!(open.targets().unwrap()[0].endpoint.port(), 7602);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(scenario(&json!({"durration": "1s"})).unwrap_err().to_string().contains("durration"));
        assert!(scenario(&json!({"mix": {"register": 1}})).is_err());
        let why = |extra: serde_json::Value| scenario(&extra).unwrap().workload().unwrap_err().to_string();
        assert!(why(json!({"duration": "10"})).starts_with("duration: "));
        assert!(why(json!({"namespace": "NO"})).starts_with("namespace: "));
        assert!(why(json!({"in_flight": 0})).contains("sessions_per_region"));
        let odd = scenario(&json!({"region": [{"name": "x", "endpoint": "127.0.0.1"}]})).unwrap();
        assert!(odd.targets().unwrap_err().to_string().starts_with("region.endpoint: "));
    }
}
