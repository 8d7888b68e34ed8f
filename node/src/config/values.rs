//! Values by key, before any rule is checked: a file's and, over them, those of flags and variables.

use super::keys::{KEYS, Key, Kind, RESERVED};
use super::{ConfigError, rules};
use atoll_client::api::parse_duration;
use atoll_replication::NodeName;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;
use toml::Value;

/// A host name or IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    /// The host: a name, or an IP address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

/// The text is no host and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a host and port such as 10.0.0.1:7603, [::1]:7603 or n1.example.org:7603")]
pub struct HostPortError;

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(address.into());
        }
        let (host, port) = text.rsplit_once(':').ok_or(HostPortError)?;
        let is_name = (1..=253).contains(&host.len())
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        let port = port.parse().map_err(|_| HostPortError)?;
        if is_name { Ok(Self { host: host.to_owned(), port }) } else { Err(HostPortError) }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Values by dotted key. Only keys of the table get in (C2).
#[derive(Debug, Default)]
pub(super) struct Values {
    by_key: BTreeMap<&'static str, Value>,
}

impl Values {
    /// The values of a file.
    pub(super) fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let table: toml::Table = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start).min(text.len());
            let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            ConfigError::Syntax { line, why: error.message().replace('\n', ", ") }
        })?;
        let mut values = Self::default();
        values.take("", table)?;
        Ok(values)
    }

    fn take(&mut self, section: &str, table: toml::Table) -> Result<(), ConfigError> {
        for (name, value) in table {
            let name = if section.is_empty() { name } else { format!("{section}.{name}") };
            match value {
                Value::Table(table) if name != "peers" && !is_known(&name) => {
                    if table.is_empty() && !is_section(&name) {
                        return Err(unknown(&name));
                    }
                    self.take(&name, table)?;
                }
                value => {
                    let key = find(&name)?;
                    self.by_key.insert(key.name, value);
                }
            }
        }
        Ok(())
    }

    /// Sets a key from text, as flags and variables do.
    pub(super) fn set(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let key = find(name)?;
        let value = from_text(key, text)?;
        self.by_key.insert(key.name, value);
        Ok(())
    }

    /// A key's value, or its default.
    fn get(&self, name: &'static str) -> Result<Option<Value>, ConfigError> {
        if let Some(value) = self.by_key.get(name) {
            return Ok(Some(value.clone()));
        }
        let key = find(name)?;
        key.default.map(|text| from_text(key, text)).transpose()
    }

    pub(super) fn text(&self, name: &'static str) -> Result<Option<String>, ConfigError> {
        match self.get(name)? {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(other) => Err(wrong(name, &other)),
        }
    }

    pub(super) fn required(&self, name: &'static str, fix: &'static str) -> Result<String, ConfigError> {
        self.text(name)?.ok_or(ConfigError::Missing { key: name, fix })
    }

    fn with_default<T: FromStr>(&self, name: &'static str) -> Result<T, ConfigError> {
        let text = self.text(name)?.ok_or(ConfigError::Missing { key: name, fix: "it has no default" })?;
        text.parse().map_err(|_| wrong(name, &Value::String(text)))
    }

    pub(super) fn address(&self, name: &'static str) -> Result<SocketAddr, ConfigError> {
        self.with_default(name)
    }

    pub(super) fn host(&self, name: &'static str) -> Result<Option<HostPort>, ConfigError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| wrong(name, &Value::String(text)))
    }

    pub(super) fn list(&self, name: &'static str) -> Result<Option<Vec<String>>, ConfigError> {
        let Some(value) = self.get(name)? else { return Ok(None) };
        let items = value.as_array().ok_or_else(|| wrong(name, &value))?;
        let text = |item: &Value| item.as_str().map(str::to_owned).ok_or_else(|| wrong(name, item));
        items.iter().map(text).collect::<Result<_, _>>().map(Some)
    }

    pub(super) fn hosts(&self, name: &'static str) -> Result<Vec<HostPort>, ConfigError> {
        let items = self.list(name)?.unwrap_or_default();
        items.into_iter().map(|text| text.parse().map_err(|_| wrong(name, &Value::String(text)))).collect()
    }

    pub(super) fn peers(&self) -> Result<BTreeMap<NodeName, HostPort>, ConfigError> {
        let Some(value) = self.get("peers")? else { return Ok(BTreeMap::new()) };
        let table = value.as_table().ok_or_else(|| wrong("peers", &value))?;
        let mut peers = BTreeMap::new();
        for (name, value) in table {
            let host = value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| wrong("peers", value))?;
            peers.insert(rules::node("peers", name)?, host);
        }
        Ok(peers)
    }

    pub(super) fn integer(&self, name: &'static str, range: RangeInclusive<u32>) -> Result<u32, ConfigError> {
        let value = self.get(name)?.unwrap_or(Value::Integer(0));
        let number = value.as_integer().ok_or_else(|| wrong(name, &value))?;
        u32::try_from(number).ok().filter(|number| range.contains(number)).ok_or_else(|| ConfigError::Value {
            key: name.to_owned(),
            found: number.to_string(),
            expected: format!("from {} to {}", range.start(), range.end()),
        })
    }

    pub(super) fn number(&self, name: &'static str) -> Result<Option<f64>, ConfigError> {
        match self.get(name)? {
            None => Ok(None),
            Some(Value::Float(number)) if number.is_finite() => Ok(Some(number)),
            Some(Value::Integer(number)) => Ok(Some(number as f64)),
            Some(other) => Err(wrong(name, &other)),
        }
    }

    pub(super) fn bytes(&self, name: &'static str, min: u64) -> Result<u64, ConfigError> {
        let text = self.text(name)?.unwrap_or_default();
        let bytes = parse_bytes(&text).ok_or_else(|| wrong(name, &Value::String(text.clone())))?;
        if bytes < min {
            let expected = format!("at least {}MiB", min >> 20);
            return Err(ConfigError::Value { key: name.to_owned(), found: text, expected });
        }
        Ok(bytes)
    }

    pub(super) fn duration(&self, name: &'static str) -> Result<Duration, ConfigError> {
        let text = self.text(name)?.unwrap_or_default();
        self.duration_or_none(name)?.ok_or_else(|| wrong(name, &Value::String(text)))
    }

    /// A duration, of which zero says "not at all".
    pub(super) fn duration_or_none(&self, name: &'static str) -> Result<Option<Duration>, ConfigError> {
        let text = self.text(name)?.unwrap_or_default();
        let duration = parse_duration(&text).map_err(|_| wrong(name, &Value::String(text)))?;
        Ok((!duration.is_zero()).then_some(duration))
    }
}

fn is_known(name: &str) -> bool {
    KEYS.iter().any(|key| key.name == name)
}

fn is_section(name: &str) -> bool {
    KEYS.iter().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

fn find(name: &str) -> Result<&'static Key, ConfigError> {
    KEYS.iter().find(|key| key.name == name).ok_or_else(|| unknown(name))
}

/// C2
fn unknown(name: &str) -> ConfigError {
    let section = name.split('.').next().unwrap_or_default();
    if let Some(section) = RESERVED.iter().find(|reserved| **reserved == section) {
        return ConfigError::NotSupported { section };
    }
    let sections = KEYS.iter().filter_map(|key| key.name.split_once('.')).map(|(section, _)| section);
    let known = KEYS.iter().map(|key| key.name).chain(sections);
    let nearest = known.min_by_key(|known| edit_distance(name, known)).unwrap_or_default();
    ConfigError::Unknown { key: shortened(name), nearest }
}

fn wrong(name: &str, value: &Value) -> ConfigError {
    let found = shortened(&value.to_string());
    let expected = find(name).map_or("known", |key| key.kind.describe()).to_owned();
    ConfigError::Value { key: name.to_owned(), found, expected }
}

/// Enough of a text to recognise it in one line.
fn shortened(text: &str) -> String {
    let line = text.replace('\n', " ");
    if line.chars().count() > 80 { line.chars().take(77).chain("...".chars()).collect() } else { line }
}

/// What a flag or variable says, as the file would.
fn from_text(key: &Key, text: &str) -> Result<Value, ConfigError> {
    let refuse = || wrong(key.name, &Value::String(text.to_owned()));
    let items = || text.split(',').map(str::trim).filter(|item| !item.is_empty());
    Ok(match key.kind {
        Kind::Text | Kind::Path | Kind::Address | Kind::Host | Kind::Bytes | Kind::Duration => {
            Value::String(text.to_owned())
        }
        Kind::List | Kind::Hosts => Value::Array(items().map(|item| Value::String(item.to_owned())).collect()),
        Kind::Integer => Value::Integer(text.parse().map_err(|_| refuse())?),
        Kind::Number => Value::Float(text.parse().map_err(|_| refuse())?),
        Kind::Peers => {
            let pairs = items().map(|item| {
                let (name, host) = item.split_once('=').ok_or_else(refuse)?;
                Ok((name.trim().to_owned(), Value::String(host.trim().to_owned())))
            });
            Value::Table(pairs.collect::<Result<_, ConfigError>>()?)
        }
    })
}

/// A whole number and a unit of 1,024.
fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start() {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Insertions, deletions, replacements and swaps of neighbours between two names.
fn edit_distance(a: &str, b: &str) -> usize {
    // Bounded: a key's name from outside may be as long as a file.
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
