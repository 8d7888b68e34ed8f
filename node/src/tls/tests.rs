//! A CA of our own for tests, and what a node makes of its files.

use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use tempfile::TempDir;

/// A cluster's CA on disk. Two of one name differ in their keys only, as two runs of `atoll pki init` do.
pub(crate) struct Ca {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What to put into a certificate.
pub(crate) struct Request {
    pub(crate) uris: Vec<String>,
    pub(crate) host: &'static str,
    pub(crate) purposes: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) years: (i32, i32),
}

impl Request {
    pub(crate) fn node(identity: &str) -> Self {
        Self {
            uris: vec![identity.to_owned()],
            host: PEER_SERVER_NAME,
            purposes: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            years: (2020, 2120),
        }
    }
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "shop CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("ca.crt"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    pub(crate) fn issue(&self, name: &str, request: &Request) -> TlsFiles {
        let mut params = CertificateParams::new(vec![request.host.to_owned()]).unwrap();
        let uris = request.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        params.extended_key_usages.clone_from(&request.purposes);
        params.not_before = rcgen::date_time_ymd(request.years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(request.years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |end: &str| self.dir.path().join(format!("{name}.{end}"));
        std::fs::write(path("crt"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        TlsFiles { ca: self.dir.path().join("ca.crt"), cert: path("crt"), key: path("key") }
    }

    /// A node's certificate, loaded: the file's name is the node's.
    pub(crate) fn node(&self, identity: &str) -> Tls {
        let name = identity.rsplit('/').next().unwrap();
        Tls::load(&self.issue(name, &Request::node(identity))).unwrap()
    }
}

/// Believes one CA and shows a certificate of another.
pub(crate) fn mixed(believes: &Ca, shows: &Ca, identity: &str) -> Tls {
    Tls { roots: believes.node(identity).roots, ..shows.node(identity) }
}

const N1: &str = "atoll://shop/eu-west-1/n1";

fn refusal(files: &TlsFiles) -> String {
    let line = Tls::load(files).unwrap_err().to_string();
    assert!(!line.contains('\n'), "one line: {line}");
    line
}

#[test]
fn a_node_is_who_its_certificate_says() {
    let tls = Ca::new().node(N1);
    assert_eq!(tls.identity().to_string(), N1);
    assert_eq!((tls.identity().node.as_str(), tls.identity().region.as_str()), ("n1", "eu-west-1"));
    assert_eq!(date(tls.not_after_unix_s()), "2120-01-01");
}

#[test]
fn every_listener_has_its_protocols_and_only_peers_must_show_a_certificate() {
    let tls = Ca::new().node(N1);
    let names = |protocols: &[Vec<u8>]| -> Vec<String> {
        protocols.iter().map(|name| String::from_utf8(name.clone()).unwrap()).collect()
    };
    assert_eq!(names(&tls.peer_server().unwrap().alpn_protocols), ["atoll-repl/1"]);
    assert_eq!(names(&tls.peer_client().unwrap().alpn_protocols), ["atoll-repl/1"]);
    assert_eq!(names(&tls.https_server().unwrap().alpn_protocols), ["h2", "http/1.1"]);
    assert_eq!(names(&tls.quic_server().unwrap().alpn_protocols), ["atoll/1"]);
    assert!(tls.client_verifier().unwrap().client_auth_mandatory());
    assert_eq!(tls.peer_server().unwrap().send_tls13_tickets, 0, "no session is resumed");
}

#[test]
fn files_that_do_not_make_a_node_are_refused_in_one_line_that_names_the_file() {
    let ca = Ca::new();
    let good = ca.issue("n1", &Request::node(N1));
    let other = ca.issue("n2", &Request::node("atoll://shop/eu-west-1/n2"));
    assert!(refusal(&TlsFiles { key: other.key, ..good.clone() }).contains("does not belong to the certificate"));
    assert!(
        refusal(&TlsFiles { ca: Ca::new().issue("x", &Request::node(N1)).ca, ..good.clone() })
            .contains("was not issued by the CA")
    );
    assert!(refusal(&TlsFiles { cert: good.key.clone(), ..good.clone() }).contains("holds no usable certificate"));
    assert!(refusal(&TlsFiles { key: good.cert.clone(), ..good.clone() }).contains("holds no usable private key"));
    let gone = TlsFiles { key: good.key.with_extension("gone"), ..good };
    assert!(refusal(&gone).contains("n1.gone"));
}

#[test]
fn certificates_that_peers_would_refuse_are_refused_at_start() {
    let ca = Ca::new();
    let line = |change: &dyn Fn(&mut Request)| {
        let mut request = Request::node(N1);
        change(&mut request);
        refusal(&ca.issue("n1", &request))
    };
    assert!(line(&|r| r.years = (2020, 2021)).contains("not valid now (until 2021-01-01)"));
    assert!(line(&|r| r.years = (2110, 2120)).contains("not valid now"));
    assert!(line(&|r| r.purposes.truncate(1)).contains("does not serve for a node"));
    assert!(line(&|r| r.host = "n1.example").contains("does not serve for a node"));
    assert!(line(&|r| r.uris.clear()).contains("names no node"));
    assert!(line(&|r| r.uris.push("atoll://shop/eu-west-1/n2".into())).contains("more than one node"));
    for uri in ["atoll://shop/n1", "atoll://shop/eu-west-1/n1/", "atoll:///eu-west-1/n1", "atoll://shop/EU/n1"] {
        assert!(line(&|r| r.uris = vec![uri.into()]).contains("is not atoll://CLUSTER/REGION/NODE"), "{uri}");
    }
}

#[test]
fn other_names_beside_the_identity_do_no_harm() {
    let ca = Ca::new();
    let mut request = Request::node(N1);
    request.uris.insert(0, "https://example.com/n9".into());
    assert_eq!(Tls::load(&ca.issue("n1", &request)).unwrap().identity().to_string(), N1);
}

#[test]
fn a_certificate_for_another_node_than_the_configuration_says_both_names() {
    let ca = Ca::new();
    let files = ca.issue("n1", &Request::node(N1));
    let tls = Tls::load(&files).unwrap();
    assert!(tls.check_is(&N1.parse().unwrap(), &files).is_ok());
    let line = tls.check_is(&"atoll://shop/eu-west-1/n2".parse().unwrap(), &files).unwrap_err().to_string();
    assert!(
        line.contains("is for atoll://shop/eu-west-1/n1, the configuration says atoll://shop/eu-west-1/n2"),
        "{line}"
    );
}

#[test]
fn the_key_is_in_no_debug_output() {
    let ca = Ca::new();
    let files = ca.issue("n1", &Request::node(N1));
    let key = PrivateKeyDer::from_pem_slice(&std::fs::read(&files.key).unwrap()).unwrap();
    let shown = format!("{:?}", Tls::load(&files).unwrap());
    let bytes = format!("{:?}", &key.secret_der()[..8]);
    assert!(shown.contains("n1") && !shown.contains(bytes.trim_matches(['[', ']'])), "{shown}");
}
