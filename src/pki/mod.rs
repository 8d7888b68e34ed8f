//! A cluster's certificates: one authority, and one certificate for each node.
//!
//! *How it goes.* [`init`] makes the authority. [`issue`] makes a node's certificate, [`renew`]
//! replaces it, [`describe()`] shows one.
//!
//! *What always holds.* K1: a node's certificate names cluster, region and node in one URI,
//! `atoll://CLUSTER/REGION/NODE`; the cluster is the authority's, read from its certificate, so a
//! node cannot be issued into another cluster by a slip. K2: loopback names are always included,
//! and both uses, server and client: a node is both. K3: an existing file is never overwritten,
//! except by [`renew`], which replaces. K4: a key is readable by its owner alone from its first
//! byte. K5: a certificate never outlives its authority.
//!
//! *What is not here.* Who is admitted on the strength of a certificate: nodes decide. Revocation:
//! a node is removed from the roster instead.

mod certificate;
mod describe;
mod files;

pub use describe::{Description, Identity, describe};

use std::path::{Path, PathBuf};

use certificate::Authority;

/// Days that an authority is valid for.
pub const AUTHORITY_DAYS: u32 = 3650;
/// Days that a node's certificate is valid for, unless it is said.
pub const NODE_DAYS: u32 = 365;
/// Most days that may be asked for.
pub const DAYS_MAX: u32 = AUTHORITY_DAYS;

/// Where a certificate and its key were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate, in PEM.
    pub cert: PathBuf,
    /// Its key, in PEM, readable by its owner alone.
    pub key: PathBuf,
}

/// What a node's certificate shall say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The node's name, unique in the cluster.
    pub name: String,
    /// The node's region.
    pub region: String,
    /// DNS names and IP addresses beyond loopback, under which others reach it.
    pub sans: Vec<String>,
    /// Days that it is valid for, at most as long as the authority.
    pub days: u32,
}

/// Why there is no certificate. No file was changed, except where it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The caller's fault.
    #[error("{what} '{text}': a name is 1 to 63 of a-z, 0-9, '.' and '-', the first a letter or a digit")]
    BadName {
        /// Whose name.
        what: &'static str,
        /// What was given.
        text: String,
    },
    /// The caller's fault.
    #[error("'{text}' is neither a DNS name nor an IP address")]
    BadAlternative {
        /// What was given.
        text: String,
    },
    /// The caller's fault.
    #[error("more than {max} names beyond loopback")]
    TooManyAlternatives {
        /// The bound.
        max: usize,
    },
    /// The caller's fault, or its luck.
    #[error("{} exists and is not overwritten; choose another place, or renew a node's", path.display())]
    Exists {
        /// The file that exists.
        path: PathBuf,
    },
    /// The caller's fault: a file that is needed is not there or not to be read.
    #[error("{} cannot be read: {source}; does --dir name the authority's directory?", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The environment's fault. What was written before it stays.
    #[error("{} cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The caller's fault: bytes that are no certificate in PEM.
    #[error("this is no certificate in PEM: {reason}")]
    NotACertificate {
        /// Why not.
        reason: String,
    },
    /// The caller's fault: a certificate or key that cannot issue others.
    #[error("{} cannot issue certificates: {reason}", path.display())]
    NotAnAuthority {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The caller's fault: a certificate that is not a node's of this cluster.
    #[error("{} is not renewed: {reason}", path.display())]
    NotANode {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Our fault, or the system's source of randomness.
    #[error("the certificate cannot be made: {0}")]
    Generate(#[from] rcgen::Error),
}

/// Makes the authority of the cluster called `cluster`: `ca.crt` and `ca.key` in `dir`, which is
/// made if need be.
///
/// # Errors
/// When the name breaks the rule, a file exists, or the files cannot be written.
pub fn init(dir: &Path, cluster: &str) -> Result<Issued, PkiError> {
    check_name("cluster", cluster)?;
    let issued = place(dir, "ca");
    files::refuse_existing(&issued)?; // K3
    let (certificate_pem, key_pem) = certificate::authority(cluster)?;
    files::make_directory(dir)?;
    files::create(&issued, &certificate_pem, &key_pem)?;
    Ok(issued)
}

/// Makes a node's certificate, `NODE.crt`, and key, `NODE.key`, beside the authority in `dir`.
///
/// # Errors
/// When a name breaks the rule, there is no authority, a file exists, or one cannot be written.
pub fn issue(dir: &Path, node: &Node) -> Result<Issued, PkiError> {
    check_node_name(&node.name)?;
    check_name("region", &node.region)?;
    let issued = place(dir, &node.name);
    files::refuse_existing(&issued)?; // K3
    let authority = Authority::read(&place(dir, "ca"))?;
    let (certificate_pem, key_pem) = authority.issue(node)?;
    files::create(&issued, &certificate_pem, &key_pem)?;
    Ok(issued)
}

/// Replaces the certificate and the key of the node called `name` by new ones for the same node,
/// region and names, valid for `days` from now.
///
/// The key is replaced before the certificate. Should the process die in between, they do not fit;
/// renewing again mends that.
///
/// # Errors
/// When there is no authority or no such certificate of its cluster, or files cannot be written.
pub fn renew(dir: &Path, name: &str, days: u32) -> Result<Issued, PkiError> {
    check_node_name(name)?;
    let authority = Authority::read(&place(dir, "ca"))?;
    let issued = place(dir, name);
    let node = authority.read_node(&issued.cert, days)?;
    let (certificate_pem, key_pem) = authority.issue(&node)?;
    files::replace(&issued, &certificate_pem, &key_pem)?;
    Ok(issued)
}

fn place(dir: &Path, name: &str) -> Issued {
    Issued { cert: dir.join(format!("{name}.crt")), key: dir.join(format!("{name}.key")) }
}

fn check_node_name(name: &str) -> Result<(), PkiError> {
    check_name("node", name)?;
    // Its files would be the authority's.
    if name == "ca" {
        return Err(PkiError::BadName { what: "node", text: name.to_owned() });
    }
    Ok(())
}

/// Whether a cluster may be called so.
pub(crate) fn check_cluster(name: &str) -> Result<(), PkiError> {
    check_name("cluster", name)
}

/// Names go into a URI and into file names, so the rule is narrow: `[a-z0-9][a-z0-9.-]{0,62}`.
fn check_name(what: &'static str, text: &str) -> Result<(), PkiError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let good = bytes.first().is_some_and(|&first| plain(first))
        && bytes.len() <= 63
        && bytes.iter().all(|&byte| plain(byte) || matches!(byte, b'.' | b'-'));
    if good { Ok(()) } else { Err(PkiError::BadName { what, text: text.to_owned() }) }
}

#[cfg(test)]
mod tests;
