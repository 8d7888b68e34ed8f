//! The rules between values.

use super::values::Values;
use super::{Config, ConfigError, Location, Sync, TlsPaths};
use atoll_replication::{NodeName, RegionName};
use std::time::Duration;

/// Regions of one cluster: a write level is a small number, and every read's staleness looks at each.
const REGIONS_MAX: usize = 64;
const SEEDS_MAX: usize = 256;
const CLUSTER_BYTES_MAX: usize = 63;

pub(super) fn node(key: &'static str, name: &str) -> Result<NodeName, ConfigError> {
    NodeName::new(name).map_err(|error| rule(key, error.to_string(), "choose a name such as \"n1\""))
}

pub(super) fn region(key: &'static str, name: &str) -> Result<RegionName, ConfigError> {
    RegionName::new(name).map_err(|error| rule(key, error.to_string(), "choose a name such as \"eu-west-1\""))
}

/// All three files or none.
pub(super) fn tls(values: &Values) -> Result<Option<TlsPaths>, ConfigError> {
    const FIX: &str = "[tls] needs ca, cert and key; `atoll pki issue` writes all three";
    let (ca, cert, key) = (values.text("tls.ca")?, values.text("tls.cert")?, values.text("tls.key")?);
    if ca.is_none() && cert.is_none() && key.is_none() {
        return Ok(None);
    }
    let needed = |name, path: Option<String>| path.map(Into::into).ok_or(ConfigError::Missing { key: name, fix: FIX });
    Ok(Some(TlsPaths { ca: needed("tls.ca", ca)?, cert: needed("tls.cert", cert)?, key: needed("tls.key", key)? }))
}

pub(super) fn location(values: &Values) -> Result<Option<Location>, ConfigError> {
    const FIX: &str = "[location] needs lat and lon";
    let (lat, lon) = match (values.number("location.lat")?, values.number("location.lon")?) {
        (None, None) => return Ok(None),
        (Some(lat), Some(lon)) => (lat, lon),
        (None, Some(_)) => return Err(ConfigError::Missing { key: "location.lat", fix: FIX }),
        (Some(_), None) => return Err(ConfigError::Missing { key: "location.lon", fix: FIX }),
    };
    if !(-90.0..=90.0).contains(&lat) {
        return Err(rule("location.lat", format!("{lat} is no latitude"), "write degrees from -90 to 90"));
    }
    if !(-180.0..=180.0).contains(&lon) {
        return Err(rule("location.lon", format!("{lon} is no longitude"), "write degrees from -180 to 180"));
    }
    Ok(Some(Location { lat, lon }))
}

pub(super) fn sync(values: &Values) -> Result<Sync, ConfigError> {
    let interval_ms = values.integer("durability.interval_ms", 1..=10_000)?;
    match values.text("durability.sync")?.as_deref() {
        Some("always") | None => Ok(Sync::Always),
        Some("interval") => Ok(Sync::Interval(Duration::from_millis(interval_ms.into()))),
        Some(other) => {
            Err(rule("durability.sync", format!("there is no {other:?}"), "write \"always\" or \"interval\""))
        }
    }
}

/// C1: what no single value can tell.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    check_names(config)?;
    check_without_tls(config)?;
    check_authentication(config)?;
    if config.log.retain_min > config.log.retain_max {
        return Err(rule(
            "log.retain_min",
            "it is longer than log.retain_max".into(),
            "make it the shorter of the two",
        ));
    }
    if config.peers.contains_key(&config.node) {
        return Err(rule("peers", format!("{} is this node itself", config.node), "name other nodes only"));
    }
    for (at, (key, address)) in config.listeners().into_iter().enumerate() {
        let taken = |(_, other): &(&str, std::net::SocketAddr)| *other == address && address.port() != 0;
        // TCP and UDP ports are apart: http and admin are TCP, quic and peer are UDP.
        let is_udp = |key: &str| matches!(key, "quic" | "peer");
        if let Some((other, _)) =
            config.listeners()[..at].iter().filter(|(o, _)| is_udp(o) == is_udp(key)).find(|l| taken(l))
        {
            return Err(rule(
                key,
                format!("it is the address of `{other}` too"),
                "give each listener a port of its own",
            ));
        }
    }
    Ok(())
}

fn check_names(config: &Config) -> Result<(), ConfigError> {
    let cluster = config.cluster.as_bytes();
    // A certificate carries the name in a URI: what is allowed there is allowed here.
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if cluster.len() > CLUSTER_BYTES_MAX || !cluster.iter().all(plain) {
        let why = "a cluster's name is 1 to 63 of a-z, A-Z, 0-9, '.', '_' and '-'".into();
        return Err(rule("cluster", why, "choose a name such as \"shop\""));
    }
    if !config.regions.contains(&config.region) {
        let why = format!("{} is not one of `regions`", config.region);
        return Err(rule("region", why, "add it to `regions`, which is the same on every node"));
    }
    let mut sorted = config.regions.clone();
    sorted.sort_unstable();
    if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(rule("regions", format!("{} is named twice", twice[0]), "name each region once"));
    }
    if config.regions.len() > REGIONS_MAX {
        return Err(rule("regions", format!("{} regions", config.regions.len()), "name at most 64"));
    }
    if config.seeds.len() > SEEDS_MAX {
        return Err(rule("seeds", format!("{} seeds", config.seeds.len()), "name at most 256; a few are enough"));
    }
    Ok(())
}

fn check_without_tls(config: &Config) -> Result<(), ConfigError> {
    const FIX: &str = "set [tls] ca, cert and key (`atoll pki issue` writes them), or remove it";
    if config.tls.is_some() {
        return Ok(());
    }
    let why = "without [tls] a node has no peers";
    if !config.seeds.is_empty() {
        return Err(rule("seeds", why.into(), FIX));
    }
    if !config.peers.is_empty() {
        return Err(rule("peers", why.into(), FIX));
    }
    for (key, address) in config.listeners() {
        if !address.ip().is_loopback() {
            let why = format!("{address} is not loopback, and without [tls] a node listens on loopback only");
            return Err(rule(key, why, "set [tls] ca, cert and key, or listen on 127.0.0.1"));
        }
    }
    Ok(())
}

fn check_authentication(config: &Config) -> Result<(), ConfigError> {
    if config.tokens_file.is_some() {
        return Ok(());
    }
    // Peers prove who they are with certificates.
    match config.listeners().into_iter().find(|(key, address)| *key != "peer" && !address.ip().is_loopback()) {
        None => Ok(()),
        Some((key, address)) => {
            let why = format!("{address} is not loopback, and anybody who reaches it could write");
            Err(rule(key, why, "set [auth] tokens_file, or listen on 127.0.0.1"))
        }
    }
}

fn rule(key: &'static str, why: String, fix: &'static str) -> ConfigError {
    ConfigError::Rule { key, why, fix }
}
