//! Who a certificate is for: `atoll://CLUSTER/REGION/NODE`.

use atoll_replication::{NodeName, RegionName};
use rustls_pki_types::CertificateDer;
use std::fmt;
use std::str::FromStr;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

const SCHEME: &str = "atoll://";
const CLUSTER_BYTES_MAX: usize = 63;

/// A node of a cluster, as a certificate names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerIdentity {
    /// The cluster.
    pub cluster: String,
    /// The node's region.
    pub region: RegionName,
    /// The node.
    pub node: NodeName,
}

/// Why a certificate names no node. Whoever issued it is at fault; its holder is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not X.509, or with alternative names that do not read.
    #[error("it does not read as X.509")]
    Unreadable,
    /// No URI name of the scheme.
    #[error("it names no node (no atoll:// URI)")]
    Missing,
    /// Several: which one is meant is not for us to choose.
    #[error("it names more than one node")]
    Ambiguous,
    /// A URI that names no node.
    #[error("its atoll:// URI is not atoll://CLUSTER/REGION/NODE")]
    Malformed,
}

impl PeerIdentity {
    /// Reads a certificate that was verified: who it is for, and when it ends in seconds since 1970.
    ///
    /// # Errors
    /// It names no node, or more than one.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<(Self, i64), IdentityError> {
        let (_, x509) = X509Certificate::from_der(certificate).map_err(|_| IdentityError::Unreadable)?;
        let names = x509.subject_alternative_name().map_err(|_| IdentityError::Unreadable)?;
        let mut uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
            _ => None,
        });
        let identity = uris.next().ok_or(IdentityError::Missing)?.parse()?;
        if uris.next().is_some() {
            return Err(IdentityError::Ambiguous);
        }
        Ok((identity, x509.validity().not_after.timestamp()))
    }
}

impl FromStr for PeerIdentity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let path = uri.strip_prefix(SCHEME).ok_or(IdentityError::Missing)?;
        let mut parts = path.split('/');
        let (Some(cluster), Some(region), Some(node), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(IdentityError::Malformed);
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if cluster.is_empty() || cluster.len() > CLUSTER_BYTES_MAX || !cluster.bytes().all(plain) {
            return Err(IdentityError::Malformed);
        }
        Ok(Self {
            cluster: cluster.to_owned(),
            region: RegionName::new(region).map_err(|_| IdentityError::Malformed)?,
            node: NodeName::new(node).map_err(|_| IdentityError::Malformed)?,
        })
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", self.cluster, self.region, self.node)
    }
}
