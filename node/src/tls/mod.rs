//! A node's certificate, and the TLS settings made from it.
//!
//! **How it goes.** [`Tls::load`] reads the three files of `[tls]`, checks that they belong together and are valid now,
//! and reads who this node is from its certificate. Each listener and dialler then asks for its settings.
//!
//! **What always holds.** T1: a peer connection stands only between two holders of certificates that the cluster's CA
//! issued, each for exactly one node: [`PeerIdentity`]. T2: the crypto provider is passed to every builder, never taken
//! from the process. T3: key material reaches no log: it is in no `Debug` and no error. T4: peers never resume a session:
//! every connection verifies both certificates anew.
//!
//! **What is not here.** Whether a peer's identity is welcome: the cluster's name is compared by [`crate::peer`].
//! Issuing certificates: `atoll pki`.
//!
//! **Why the host name proves nothing between nodes.** A node is reached by addresses that change, through relays and
//! tunnels, and "the right host" is not what a dialler needs to know. It needs to know *which member* answers, and that
//! is the URI name `atoll://CLUSTER/REGION/NODE`, which only the CA can put into a certificate. So a dialler runs the
//! standard verifier (chain, validity, purpose) with the name `localhost`, which every node's certificate carries, and
//! takes the identity from the URI. A verifier of our own that skips the host name would do the same with more to get
//! wrong.

mod identity;
#[cfg(test)]
pub(crate) mod tests;

pub use identity::{IdentityError, PeerIdentity};

use rustls::client::Resumption;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The protocol name of QUIC clients.
pub const CLIENT_ALPN: &[u8] = b"atoll/1";
/// The name that every node's certificate carries beside its identity, and that diallers of peers verify.
pub const PEER_SERVER_NAME: &str = "localhost";

/// Bytes of a PEM file that are read; a chain with its key is a few kilobytes.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// The files of `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The cluster's CA.
    pub ca: PathBuf,
    /// This node's certificate, followed by intermediates if there are any.
    pub cert: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

/// Why the TLS files cannot be used. The operator corrects the files or the configuration; nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file does not open.
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what its key of the configuration says.
    #[error("{} holds no usable {what}; `atoll pki issue` writes files that do", file.display())]
    Content {
        /// Which.
        file: PathBuf,
        /// What should be in it.
        what: &'static str,
    },
    /// The key is another certificate's.
    #[error("the key {} does not belong to the certificate {}", key.display(), cert.display())]
    Key {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        cert: PathBuf,
    },
    /// Another CA issued the certificate.
    #[error("the certificate {} was not issued by the CA {}; use the files of one `atoll pki` directory", cert.display(), ca.display())]
    OtherCa {
        /// The certificate's file.
        cert: PathBuf,
        /// The CA's file.
        ca: PathBuf,
    },
    /// The certificate has run out, or is of the future.
    #[error("the certificate {} is not valid now (until {not_after}); renew it, or correct this machine's clock", cert.display())]
    Validity {
        /// The certificate's file.
        cert: PathBuf,
        /// When it ends.
        not_after: String,
    },
    /// A node's certificate needs something that this one lacks.
    #[error("the certificate {} does not serve for a node: {detail}; issue it with `atoll pki issue`", cert.display())]
    Purpose {
        /// The certificate's file.
        cert: PathBuf,
        /// What the verifier says.
        detail: String,
    },
    /// The certificate names no node.
    #[error("the certificate {}: {source}; issue it with `atoll pki issue`", cert.display())]
    Identity {
        /// The certificate's file.
        cert: PathBuf,
        /// Why.
        source: IdentityError,
    },
    /// The certificate names another node than the configuration.
    #[error("the certificate {} is for {}, the configuration says {}", cert.display(), names.0, names.1)]
    Other {
        /// The certificate's file.
        cert: PathBuf,
        /// Who it is for, and who the configuration says.
        names: Box<(PeerIdentity, PeerIdentity)>,
    },
    /// The TLS library refused our settings: a fault of this program.
    #[error("TLS settings: {0}")]
    Settings(#[from] rustls::Error),
}

/// What this node shows to others, and whom it believes.
#[derive(Clone)]
pub struct Tls {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    ca: CertificateDer<'static>,
    own: Arc<CertifiedKey>,
    key: Arc<PrivateKeyDer<'static>>,
    identity: PeerIdentity,
    not_after_unix_s: i64,
}

// T3
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("identity", &self.identity)
            .field("not_after_unix_s", &self.not_after_unix_s)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// A file does not read, or the three do not make a node of one cluster that is valid now.
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        let cas = certificates(&files.ca)?;
        let ca = cas[0].clone();
        for ca in cas {
            roots.add(ca).map_err(|_| content(&files.ca, "CA certificate"))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&files.cert)?;
        let (identity, not_after_unix_s) = PeerIdentity::of_certificate(&chain[0])
            .map_err(|source| TlsError::Identity { cert: files.cert.clone(), source })?;
        let pem = read(&files.key)?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| content(&files.key, "private key"))?;
        let signer = provider.key_provider.load_private_key(key.clone_key());
        let own = CertifiedKey::new(chain, signer.map_err(|_| content(&files.key, "private key"))?);
        own.keys_match().map_err(|_| TlsError::Key { key: files.key.clone(), cert: files.cert.clone() })?;
        let tls = Self { provider, roots, ca, own: Arc::new(own), key: Arc::new(key), identity, not_after_unix_s };
        tls.check_own_certificate(files)?;
        Ok(tls)
    }

    /// Who this node is, by its certificate.
    #[must_use]
    pub fn identity(&self) -> &PeerIdentity {
        &self.identity
    }

    /// When this node's certificate runs out, in seconds since 1970.
    #[must_use]
    pub fn not_after_unix_s(&self) -> i64 {
        self.not_after_unix_s
    }

    /// The cluster's CA; of several, the first in the file.
    #[must_use]
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// This node's certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.own.cert[0]
    }

    /// Whether the certificate is for the node that the configuration describes.
    ///
    /// # Errors
    /// It is for another one.
    pub fn check_is(&self, configured: &PeerIdentity, files: &TlsFiles) -> Result<(), TlsError> {
        if self.identity == *configured {
            return Ok(());
        }
        let names = Box::new((self.identity.clone(), configured.clone()));
        Err(TlsError::Other { cert: files.cert.clone(), names })
    }

    /// For the peer port: clients without a certificate of the CA get no connection.
    ///
    /// # Errors
    /// The library refused the settings.
    pub fn peer_server(&self) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(self.client_verifier()?)
            .with_single_cert(self.own.cert.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![atoll_replication::wire::ALPN.to_vec()];
        // T4
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }

    /// For dialling peers.
    ///
    /// # Errors
    /// The library refused the settings.
    pub fn peer_client(&self) -> Result<ClientConfig, TlsError> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_webpki_verifier(self.server_verifier()?)
            .with_client_auth_cert(self.own.cert.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![atoll_replication::wire::ALPN.to_vec()];
        // T4
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// For HTTPS clients, who prove who they are with a bearer token.
    ///
    /// # Errors
    /// The library refused the settings.
    pub fn https_server(&self) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(self.own.cert.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// For QUIC clients, who prove who they are with a bearer token.
    ///
    /// # Errors
    /// The library refused the settings.
    pub fn quic_server(&self) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(self.own.cert.clone(), self.key.clone_key())?;
        config.alpn_protocols = vec![CLIENT_ALPN.to_vec()];
        Ok(config)
    }

    fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()).into())
    }

    fn server_verifier(&self) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
        WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()).into())
    }

    /// Asks now what every peer would ask of this certificate, so that the answer is one line at start and not a
    /// refused connection later.
    fn check_own_certificate(&self, files: &TlsFiles) -> Result<(), TlsError> {
        let (leaf, rest) = (&self.own.cert[0], &self.own.cert[1..]);
        let name = ServerName::try_from(PEER_SERVER_NAME).expect("a constant host name");
        let now = UnixTime::now();
        let as_server = self.server_verifier()?.verify_server_cert(leaf, rest, &name, &[], now).map(|_| ());
        let as_client = self.client_verifier()?.verify_client_cert(leaf, rest, now).map(|_| ());
        as_server.and(as_client).map_err(|error| self.explain(&error, files))
    }

    fn explain(&self, error: &rustls::Error, files: &TlsFiles) -> TlsError {
        use CertificateError as C;
        let cert = files.cert.clone();
        match error {
            rustls::Error::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => {
                TlsError::OtherCa { cert, ca: files.ca.clone() }
            }
            rustls::Error::InvalidCertificate(
                C::Expired | C::ExpiredContext { .. } | C::NotValidYet | C::NotValidYetContext { .. },
            ) => TlsError::Validity { cert, not_after: date(self.not_after_unix_s) },
            other => TlsError::Purpose { cert, detail: other.to_string() },
        }
    }
}

fn date(unix_s: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(unix_s).map_or_else(|_| unix_s.to_string(), |at| at.date().to_string())
}

fn content(file: &Path, what: &'static str) -> TlsError {
    TlsError::Content { file: file.to_owned(), what }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read as _;
    let unreadable = |source| TlsError::Unreadable { file: file.to_owned(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(file).map_err(unreadable)?.take(PEM_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// The certificates of a file, at least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(file)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or_else(|| content(file, "certificate"))
}
