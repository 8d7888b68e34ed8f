//! What the certificates say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType,
};
use rustls_pki_types::DnsName;
use time::{Duration, OffsetDateTime};

use super::describe::{Identity, Parsed};
use super::{AUTHORITY_DAYS, Issued, Node, PkiError, check_name, files};

/// Certificates are valid from a little before they are made, for those whose clocks are behind.
const CLOCK_ALLOWANCE: Duration = Duration::hours(1);

/// Most names beyond loopback: a certificate travels in every handshake.
const ALTERNATIVES_MAX: usize = 100;

/// Makes an authority's certificate and key, both in PEM.
pub(super) fn authority(cluster: &str) -> Result<(String, String), PkiError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(cluster, &format!("{cluster} certificate authority"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, AUTHORITY_DAYS, None);
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// An authority that was read from its files.
pub(super) struct Authority {
    cluster: String,
    not_after: OffsetDateTime,
    key_id: Option<Vec<u8>>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn read(files: &Issued) -> Result<Self, PkiError> {
        let refuse =
            |path: &std::path::Path, reason: String| PkiError::NotAnAuthority { path: path.to_owned(), reason };
        let certificate_pem = files::read(&files.cert)?;
        let parsed =
            Parsed::from_pem(certificate_pem.as_bytes()).map_err(|error| refuse(&files.cert, error.to_string()))?;
        if !parsed.is_ca {
            return Err(refuse(&files.cert, "it is not an authority's certificate".to_owned()));
        }
        let Some(cluster) = parsed.organization else {
            return Err(refuse(&files.cert, "it does not name a cluster".to_owned()));
        };
        // An authority of another making must not smuggle a slash into a URI. K1
        check_name("cluster", &cluster)?;
        let key =
            KeyPair::from_pem(&files::read(&files.key)?).map_err(|error| refuse(&files.key, error.to_string()))?;
        if key.subject_public_key_info() != parsed.public_key {
            return Err(refuse(&files.key, "it is not the key of ca.crt".to_owned()));
        }
        let issuer =
            Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(|error| refuse(&files.cert, error.to_string()))?;
        Ok(Self { cluster, not_after: parsed.not_after, key_id: parsed.subject_key_id, issuer })
    }

    /// Makes a node's certificate and key, both in PEM.
    pub(super) fn issue(&self, node: &Node) -> Result<(String, String), PkiError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(&self.cluster, &node.name);
        params.subject_alt_names = self.alternatives(node)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]; // K2
        params.use_authority_key_identifier_extension = true;
        valid_for(&mut params, node.days, Some(self.not_after));
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// What the certificate in `path` says, to be said again.
    pub(super) fn read_node(&self, path: &std::path::Path, days: u32) -> Result<Node, PkiError> {
        let refuse = |reason: String| PkiError::NotANode { path: path.to_owned(), reason };
        let parsed = Parsed::from_pem(files::read(path)?.as_bytes()).map_err(|error| refuse(error.to_string()))?;
        let description = parsed.description;
        let Some(Identity { cluster, region, node }) = description.identity else {
            return Err(refuse("it names no node".to_owned()));
        };
        // Two authorities may be for clusters of one name, so the key decides. The signature itself
        // need not be checked: whoever can write this file can read the authority's key beside it.
        if cluster != self.cluster || parsed.authority_key_id != self.key_id {
            return Err(refuse(format!("it is of another authority, for cluster {cluster}")));
        }
        let sans = description.dns.into_iter().chain(description.ip).collect();
        Ok(Node { name: node, region, sans, days })
    }

    fn alternatives(&self, node: &Node) -> Result<Vec<SanType>, PkiError> {
        let identity = format!("atoll://{}/{}/{}", self.cluster, node.region, node.name); // K1
        let mut names = vec![
            SanType::URI(identity.try_into()?),
            SanType::DnsName("localhost".try_into()?), // K2
            SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
            SanType::IpAddress(Ipv6Addr::LOCALHOST.into()),
        ];
        if node.sans.len() > ALTERNATIVES_MAX {
            return Err(PkiError::TooManyAlternatives { max: ALTERNATIVES_MAX });
        }
        for text in &node.sans {
            let name = alternative(text)?;
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }
}

fn alternative(text: &str) -> Result<SanType, PkiError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let bad = || PkiError::BadAlternative { text: text.to_owned() };
    let name = DnsName::try_from(text).map_err(|_| bad())?;
    Ok(SanType::DnsName(name.to_lowercase_owned().as_ref().try_into().map_err(|_| bad())?))
}

fn subject(cluster: &str, name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, cluster);
    subject.push(DnType::CommonName, name);
    subject
}

/// Sets the validity, never beyond `bound`. K5
fn valid_for(params: &mut CertificateParams, days: u32, bound: Option<OffsetDateTime>) {
    let now = OffsetDateTime::now_utc();
    let end = now + Duration::days(days.into());
    params.not_before = now - CLOCK_ALLOWANCE;
    params.not_after = bound.map_or(end, |bound| end.min(bound));
}
