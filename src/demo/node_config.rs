//! The `node.toml` of one of the demo's nodes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;

/// What the file says, in the words of the contract.
#[derive(Debug, Serialize)]
pub(super) struct NodeConfig<'a> {
    pub(super) cluster: &'a str,
    pub(super) node: &'a str,
    pub(super) region: &'a str,
    pub(super) regions: Vec<&'a str>,
    pub(super) data_dir: &'a Path,
    pub(super) http: SocketAddr,
    pub(super) quic: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) admin: SocketAddr,
    /// The relay to each other node: what is dialled at first.
    pub(super) seeds: Vec<SocketAddr>,
    /// The relay to each other node by its name: what is dialled later.
    pub(super) peers: BTreeMap<&'a str, SocketAddr>,
    pub(super) tls: TlsFiles<'a>,
}

/// `[tls]`
#[derive(Debug, Serialize)]
pub(super) struct TlsFiles<'a> {
    pub(super) ca: &'a Path,
    pub(super) cert: &'a Path,
    pub(super) key: &'a Path,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_spelt_as_in_the_contract() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let config = NodeConfig {
            cluster: "demo",
            node: "n1",
            region: "us-east-1",
            regions: vec!["us-east-1", "eu-west-1"],
            data_dir: Path::new("/d/a \"quoted\" name"),
            http: address(1),
            quic: address(2),
            peer: address(3),
            admin: address(4),
            seeds: vec![address(5)],
            peers: BTreeMap::from([("n2", address(5))]),
            tls: TlsFiles { ca: Path::new("ca"), cert: Path::new("c"), key: Path::new("k") },
        };
        let text = toml::to_string(&config).unwrap();
        let read: toml::Table = text.parse().unwrap();
        assert_eq!(read["data_dir"].as_str(), Some("/d/a \"quoted\" name"));
        assert_eq!(read["peers"]["n2"].as_str(), Some("127.0.0.1:5"));
        assert_eq!(read["seeds"][0].as_str(), Some("127.0.0.1:5"));
        assert_eq!(read["tls"]["cert"].as_str(), Some("c"));
        assert_eq!(read["regions"].as_array().map(Vec::len), Some(2));
    }
}
