//! Every rule of the configuration, broken once.

use super::*;

const LEAST: &str = "cluster = \"shop\"\nnode = \"n1\"\nregion = \"eu-west-1\"\ndata_dir = \"/d\"\n";

fn load(more: &str) -> Result<Config, ConfigError> {
    Config::load(&format!("{LEAST}{more}"), &[])
}

fn refusal(more: &str) -> String {
    load(more).unwrap_err().to_string()
}

#[test]
fn four_keys_are_enough_and_the_rest_is_as_the_table_says() {
    let config = load("").unwrap();
    assert_eq!(config.regions, std::slice::from_ref(&config.region));
    assert_eq!(config.http, "127.0.0.1:7601".parse().unwrap());
    assert_eq!((config.sync, config.weight), (Sync::Always, 100));
    assert_eq!(config.cache_bytes, 256 << 20);
    assert_eq!(config.log.retain_max, Duration::from_secs(72 * 3600));
    assert_eq!(config.limits, Limits::default());
}

#[test]
fn every_key_of_the_contract_reads() {
    let text = r#"
        cluster = "shop"
        node = "n1"
        region = "eu-west-1"
        regions = ["us-east-1", "eu-west-1", "ap-southeast-1"]
        data_dir = "/var/lib/atoll"
        http = "0.0.0.0:7601"
        quic = "0.0.0.0:7602"
        peer = "0.0.0.0:7603"
        admin = "127.0.0.1:7604"
        seeds = ["10.0.0.1:7603", "n2.example.org:7603"]
        weight = 50
        [advertise]
        http = "n1.example.org:7601"
        quic = "n1.example.org:7602"
        peer = "[2001:db8::1]:7603"
        [peers]
        n2 = "127.0.0.1:9002"
        [tls]
        ca = "ca.crt"
        cert = "n1.crt"
        key = "n1.key"
        [auth]
        tokens_file = "tokens"
        [location]
        lat = 53.3
        lon = -6
        [durability]
        sync = "interval"
        interval_ms = 20
        [log]
        retain_min = "2h"
        retain_max = "48h"
        retain_max_bytes = "1GiB"
        [scrub]
        interval = "24h"
        [cache]
        bytes = "64 MiB"
        [limits]
        connections = 10
    "#;
    let config = Config::load(text, &[]).unwrap();
    assert_eq!(config.seeds[1].host(), "n2.example.org");
    assert_eq!(config.advertise.peer.as_ref().unwrap().to_string(), "[2001:db8::1]:7603");
    assert_eq!(config.peers.values().next().unwrap().port(), 9002);
    assert_eq!(config.tls.as_ref().unwrap().key, PathBuf::from("n1.key"));
    assert_eq!(config.location, Some(Location { lat: 53.3, lon: -6.0 }));
    assert_eq!(config.scrub_every, Some(Duration::from_secs(24 * 3600)));
    let unscrubbed = Config::load(&text.replace("\"24h\"", "\"0s\""), &[]).unwrap();
    assert_eq!(unscrubbed.scrub_every, None);
    assert_eq!(config.sync, Sync::Interval(Duration::from_millis(20)));
    assert_eq!((config.cache_bytes, config.limits.connections), (64 << 20, 10));
}

#[test]
fn what_comes_later_wins_and_every_key_can_be_a_flag() {
    let overrides = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<Vec<_>>();
    let config = Config::load(
        LEAST,
        &overrides(&[
            ("node", "n7"),
            ("regions", "eu-west-1, us-east-1"),
            ("limits.scans", "3"),
            ("limits.drain_grace", "0s"),
            ("limits.reconcile_memory", "2MiB"),
            ("limits.reconcile_disk", "1GiB"),
            ("limits.disk_reserve", "1GiB"),
            ("tls.ca", "a"),
            ("tls.cert", "b"),
            ("tls.key", "c"),
            ("seeds", "10.0.0.1:1,10.0.0.2:2"),
            ("peers", "n2=127.0.0.1:9002,n3=h:1"),
            ("location.lat", "1"),
            ("location.lon", "2.5"),
            ("node", "n8"),
        ]),
    )
    .unwrap();
    assert_eq!((config.node.as_str(), config.regions.len(), config.limits.scans), ("n8", 2, 3));
    assert_eq!((config.limits.reconcile_memory, config.limits.reconcile_disk), (2 << 20, 1 << 30));
    assert_eq!((config.limits.disk_reserve, config.limits.drain_grace), (1 << 30, None));
    assert_eq!((config.seeds.len(), config.peers.len()), (2, 2));
    // A value of the table's kind for every key: each gets as far as its rule.
    for key in Config::KEYS {
        let text = key.default.filter(|text| !text.is_empty()).unwrap_or(match key.kind {
            Kind::Number => "1.5",
            Kind::Hosts | Kind::Host | Kind::Address => "127.0.0.1:1",
            Kind::Peers => "n2=127.0.0.1:1",
            _ => "x",
        });
        match Config::load(LEAST, &overrides(&[(key.name, text)])) {
            Ok(_) | Err(ConfigError::Rule { .. } | ConfigError::Missing { .. }) => {}
            Err(other) => panic!("{}: {other}", key.name),
        }
    }
    let unreadable = Config::load(LEAST, &overrides(&[("weight", "heavy")])).unwrap_err().to_string();
    assert!(unreadable.contains("weight") && unreadable.contains("whole number"), "{unreadable}");
}

#[test]
fn unknown_key_names_the_nearest_known_one() {
    for (text, unknown, nearest) in [
        ("regoins = [\"a\"]", "regoins", "regions"),
        ("[tls]\ncret = \"x\"", "tls.cret", "tls.cert"),
        ("[tsl]\ncert = \"x\"", "tsl.cert", "tls.cert"),
        ("data-dir = \"x\"", "data-dir", "data_dir"),
        ("[limits]\nconnection = 1", "limits.connection", "limits.connections"),
    ] {
        let error = refusal(text);
        assert!(error.contains(&format!("`{unknown}`")), "{error}");
        assert!(error.contains(&format!("`{nearest}`")), "{error}");
    }
    assert!(refusal("[http]\nport = 1").contains("`http` is { port = 1 }"), "a section in place of a value");
    assert!(refusal("[tsl]").contains("`tls`"), "an empty unknown section");
    assert!(Config::load(LEAST, &[("nod".into(), "x".into())]).unwrap_err().to_string().contains("`node`"));
}

#[test]
fn reserved_sections_say_that_they_are_reserved() {
    assert_eq!(refusal("[dns]\nzone = \"x\""), "[dns] is not supported yet; remove the section");
    assert_eq!(refusal("[telemetry]\nendpoint = \"x\""), "[telemetry] is not supported yet; remove the section");
    assert_eq!(refusal("[dns]"), "[dns] is not supported yet; remove the section");
}

#[test]
fn every_rule_names_the_key_the_reason_and_the_fix() {
    const TLS: &str = "[tls]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"\n";
    for (text, parts) in [
        ("seeds = [\"10.0.0.1:7603\"]".to_owned(), ["`seeds`", "no peers", "[tls]"]),
        ("[peers]\nn2 = \"h:1\"".into(), ["`peers`", "no peers", "[tls]"]),
        ("http = \"0.0.0.0:7601\"".into(), ["`http`", "loopback only", "127.0.0.1"]),
        ("admin = \"10.0.0.1:7604\"".into(), ["`admin`", "loopback only", "[tls]"]),
        (format!("http = \"0.0.0.0:7601\"\n{TLS}"), ["`http`", "anybody", "tokens_file"]),
        (format!("quic = \"10.1.1.1:7602\"\n{TLS}"), ["`quic`", "anybody", "tokens_file"]),
        (format!("admin = \"[::]:7604\"\n{TLS}"), ["`admin`", "anybody", "tokens_file"]),
        ("regions = [\"us-east-1\"]".into(), ["`region`", "not one of `regions`", "add it"]),
        ("regions = [\"eu-west-1\", \"eu-west-1\"]".into(), ["`regions`", "twice", "once"]),
        ("regions = [\"EU\"]".into(), ["`regions`", "a-z", "eu-west-1"]),
        ("[tls]\nca = \"a\"".into(), ["`tls.cert`", "not set", "ca, cert and key"]),
        ("[location]\nlat = 1".into(), ["`location.lon`", "not set", "lat and lon"]),
        ("[location]\nlat = 91\nlon = 0".into(), ["`location.lat`", "91", "-90 to 90"]),
        ("[durability]\nsync = \"never\"".into(), ["`durability.sync`", "never", "always"]),
        ("[durability]\ninterval_ms = 0".into(), ["`durability.interval_ms`", "0", "from 1"]),
        ("[log]\nretain_min = \"100h\"".into(), ["`log.retain_min`", "longer", "shorter"]),
        ("[log]\nretain_max = \"1d\"".into(), ["`log.retain_max`", "1d", "72h"]),
        ("[cache]\nbytes = \"256MB\"".into(), ["`cache.bytes`", "256MB", "MiB"]),
        ("[cache]\nbytes = \"1KiB\"".into(), ["`cache.bytes`", "1KiB", "at least 1MiB"]),
        ("[cache]\nbytes = 5".into(), ["`cache.bytes`", "5", "MiB"]),
        ("weight = -1".into(), ["`weight`", "-1", "from 0"]),
        ("http = \"localhost:7601\"".into(), ["`http`", "localhost", "127.0.0.1:7601"]),
        ("http = 7601".into(), ["`http`", "7601", "IP address"]),
        ("admin = \"127.0.0.1:7601\"".into(), ["`admin`", "`http`", "own"]),
        (format!("seeds = [\"nope\"]\n{TLS}"), ["`seeds`", "nope", "host"]),
        (format!("{TLS}[peers]\nn1 = \"h:1\""), ["`peers`", "itself", "other nodes"]),
        (format!("{TLS}[peers]\nN2 = \"h:1\""), ["`peers`", "a-z", "n1"]),
    ] {
        let error = refusal(&text);
        for part in parts {
            assert!(error.contains(part), "{text}\n{error}\nlacks {part}");
        }
        assert!(!error.contains('\n'), "{error}");
    }
    for key in ["cluster", "node", "region", "data_dir"] {
        let text: String =
            LEAST.lines().filter(|line| !line.starts_with(&format!("{key} "))).map(|l| format!("{l}\n")).collect();
        let error = Config::load(&text, &[]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{key}` is not set: ")), "{error}");
    }
}

#[test]
fn tls_and_tokens_let_a_node_listen_everywhere() {
    let text = "http = \"0.0.0.0:7601\"\nseeds = [\"h:1\"]\n[tls]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"\n[auth]\ntokens_file = \"t\"";
    assert!(load(text).is_ok());
    // Peers prove who they are with certificates.
    assert!(load("peer = \"0.0.0.0:7603\"\n[tls]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"").is_ok());
}

#[test]
fn text_that_is_no_toml_is_refused_in_one_line_that_says_where() {
    let error = refusal("http = \n");
    assert!(error.starts_with("line 5: ") && !error.contains('\n'), "{error}");
    let error = refusal("node = \"n2\"\n");
    assert!(error.contains("duplicate"), "{error}");
}

#[test]
fn flags_and_variables_are_spelt_as_the_contract_says() {
    let key = Config::KEYS.iter().find(|key| key.name == "tls.cert").unwrap();
    assert_eq!((key.flag().as_str(), key.variable().as_str()), ("--tls-cert", "ATOLL_TLS_CERT"));
    let mut flags: Vec<_> = Config::KEYS.iter().map(Key::flag).collect();
    flags.sort();
    flags.dedup();
    assert_eq!(flags.len(), Config::KEYS.len());
}

/// Set to write the table of keys in the documentation anew.
const WRITE: &str = "ATOLL_WRITE_DOCS";

#[test]
fn documentation_has_every_key_as_the_table_says() {
    let mut table = String::from("| key | takes | default | what it does |\n| --- | --- | --- | --- |\n");
    for key in Config::KEYS {
        let default = match key.default {
            None => "none".to_owned(),
            Some("") => "empty".to_owned(),
            Some(text) => format!("`{text}`"),
        };
        let kind = key.kind.describe().replace('|', "\\|");
        table.push_str(&format!("| `{}` | {kind} | {default} | {} |\n", key.name, key.doc));
    }
    let dirs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut files = dirs.map(|dir| dir.join("docs/configuration.md"));
    let file = files.find(|file| file.is_file()).expect("docs/configuration.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let (begin, end) = ("<!-- keys -->\n", "<!-- /keys -->");
    let (before, rest) = text.split_once(begin).expect("a place for the table");
    let (published, after) = rest.split_once(end).expect("an end of the table");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&file, format!("{before}{begin}{table}{end}{after}")).unwrap();
        return;
    }
    assert!(published == table, "{} differs from the table of keys; {WRITE}=1 writes it anew", file.display());
}
