//! Whom the client trusts and who it says it is: one rustls configuration for both transports.
//!
//! The crypto provider is named here and passed on explicitly. The process default is never read:
//! another library in the same process may have installed another, or none, and then the first
//! handshake would panic.

use std::fmt;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::{Error, chain};

/// The certificate authorities whose nodes a client talks to.
#[derive(Clone)]
pub struct Trust(Arc<RootCertStore>);

impl Trust {
    /// Trusts the authorities in `pem`, and no others.
    ///
    /// # Errors
    /// `BadInput` when there is no usable certificate in it.
    pub fn from_pem(pem: &[u8]) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem, "the CA file")? {
            roots.add(certificate).map_err(|error| bad("the CA file", &error))?;
        }
        Ok(Self(Arc::new(roots)))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust({} authorities)", self.0.len())
    }
}

/// A client's own certificate and key, for listeners that ask for one.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// The certificate chain and the key in two PEM texts.
    ///
    /// # Errors
    /// `BadInput` when either is missing or unusable.
    pub fn from_pem(certificate_pem: &[u8], key_pem: &[u8]) -> Result<Self, Error> {
        let chain = certificates(certificate_pem, "the certificate file")?;
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| bad("the key file", &error))?;
        Ok(Self { chain, key })
    }
}

impl fmt::Debug for Identity {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({} certificates)", self.chain.len())
    }
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates =
        CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|error| bad(what, &error))?;
    if certificates.is_empty() {
        return Err(Error::bad_input(format!("{what} holds no certificate in PEM")));
    }
    Ok(certificates)
}

fn bad(what: &str, error: &dyn std::error::Error) -> Error {
    Error::bad_input(format!("{what} cannot be used: {}", chain(error)))
}

/// The configuration of every TLS connection, without ALPN, which is the transport's.
pub(crate) fn client_config(trust: Option<&Trust>, identity: Option<&Identity>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = trust.map_or_else(|| Arc::new(RootCertStore::empty()), |trust| trust.0.clone());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad("TLS", &error))?
        .with_root_certificates(roots);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(|error| bad("the client certificate", &error)),
    }
}
