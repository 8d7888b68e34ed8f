//! What a certificate says, for people, programs and renewals.

use std::net::IpAddr;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use super::PkiError;

/// What a node's certificate binds together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// The cluster.
    pub cluster: String,
    /// The region.
    pub region: String,
    /// The node.
    pub node: String,
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// Whose it is.
    pub subject: String,
    /// Who vouches for it.
    pub issuer: String,
    /// The node that it names, if it is a node's.
    pub identity: Option<Identity>,
    /// Whether it is an authority's.
    pub is_ca: bool,
    /// DNS names.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ip: Vec<String>,
    /// URIs.
    pub uri: Vec<String>,
    /// Valid from: RFC 3339, UTC.
    pub not_before: String,
    /// Valid until: RFC 3339, UTC.
    pub not_after: String,
    /// The serial number, in hexadecimal.
    pub serial: String,
    /// SHA-256 of the certificate, in hexadecimal.
    pub fingerprint_sha256: String,
}

/// Describes the first certificate in `pem`. Its signature is not checked.
///
/// # Errors
/// `NotACertificate` when there is none.
pub fn describe(pem: &[u8]) -> Result<Description, PkiError> {
    Ok(Parsed::from_pem(pem)?.description)
}

/// A certificate's description and what issuing needs beside it.
pub(super) struct Parsed {
    pub(super) description: Description,
    pub(super) is_ca: bool,
    pub(super) organization: Option<String>,
    pub(super) not_after: OffsetDateTime,
    /// The subject's public key with its algorithm, in DER.
    pub(super) public_key: Vec<u8>,
    /// Which key this is, and which key signed it.
    pub(super) subject_key_id: Option<Vec<u8>>,
    pub(super) authority_key_id: Option<Vec<u8>>,
}

impl Parsed {
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, PkiError> {
        let refuse = |reason: String| PkiError::NotACertificate { reason };
        let der = CertificateDer::from_pem_slice(pem).map_err(|error| refuse(error.to_string()))?;
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|error| refuse(error.to_string()))?;
        let (dns, ip, uri) = alternatives(&certificate);
        let validity = certificate.validity();
        let not_after = validity.not_after.to_datetime();
        let subject = certificate.subject();
        let description = Description {
            subject: subject.to_string(),
            issuer: certificate.issuer().to_string(),
            identity: uri.iter().find_map(|uri| identity(uri)),
            is_ca: certificate.is_ca(),
            dns,
            ip,
            uri,
            not_before: rfc3339(validity.not_before.to_datetime()),
            not_after: rfc3339(not_after),
            serial: certificate.raw_serial_as_string(),
            fingerprint_sha256: hex(&Sha256::digest(&der)),
        };
        let organization = subject.iter_organization().next();
        let (mut subject_key_id, mut authority_key_id) = (None, None);
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => subject_key_id = Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    authority_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                _ => {}
            }
        }
        Ok(Self {
            subject_key_id,
            authority_key_id,
            is_ca: description.is_ca,
            organization: organization.and_then(|name| name.as_str().ok()).map(str::to_owned),
            not_after,
            public_key: certificate.public_key().raw.to_vec(),
            description,
        })
    }
}

fn alternatives(certificate: &X509Certificate<'_>) -> (Vec<String>, Vec<String>, Vec<String>) {
    let (mut dns, mut ip, mut uri) = (Vec::new(), Vec::new(), Vec::new());
    let names = certificate.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => dns.push((*name).to_owned()),
            GeneralName::URI(name) => uri.push((*name).to_owned()),
            GeneralName::IPAddress(octets) => ip.extend(address(octets)),
            _ => {}
        }
    }
    (dns, ip, uri)
}

fn address(octets: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(octets).map(IpAddr::from);
    v4.or(v6).ok().map(|address| address.to_string())
}

/// The identity in `atoll://CLUSTER/REGION/NODE`.
fn identity(uri: &str) -> Option<Identity> {
    let mut parts = uri.strip_prefix("atoll://")?.split('/').map(str::to_owned);
    let (cluster, region, node) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some(Identity { cluster, region, node })
}

fn rfc3339(moment: OffsetDateTime) -> String {
    // Fails only for years that a certificate cannot hold.
    moment.format(&Rfc3339).unwrap_or_else(|_| moment.to_string())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
