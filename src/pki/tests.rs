//! The certificates, read back with another library and put to their use.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::*;

fn node(name: &str) -> Node {
    Node {
        name: name.to_owned(),
        region: "eu-west-1".to_owned(),
        sans: vec!["Atoll.Example".to_owned(), "10.0.0.7".to_owned(), "localhost".to_owned()],
        days: 90,
    }
}

/// An authority for the cluster `shop` and the certificate of its node `n1`.
fn shop() -> (tempfile::TempDir, Issued) {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path(), "shop").unwrap();
    let issued = issue(dir.path(), &node("n1")).unwrap();
    (dir, issued)
}

fn describe_file(path: &Path) -> Description {
    describe(&fs::read(path).unwrap()).unwrap()
}

fn der(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

#[test]
fn authority_may_sign_certificates_and_nothing_else() {
    let (dir, _) = shop();
    let der = der(&dir.path().join("ca.crt"));
    let (_, ca) = X509Certificate::from_der(&der).unwrap();
    let constraints = ca.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = ca.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    let organization = ca.subject().iter_organization().next().unwrap();
    assert_eq!(organization.as_str().unwrap(), "shop");
}

#[test]
fn node_certificate_binds_cluster_region_and_node_and_serves_both_ends() {
    let (_dir, issued) = shop();
    let description = describe_file(&issued.cert);
    let identity = description.identity.unwrap();
    assert_eq!(
        (identity.cluster.as_str(), identity.region.as_str(), identity.node.as_str()),
        ("shop", "eu-west-1", "n1")
    );
    assert_eq!(description.uri, ["atoll://shop/eu-west-1/n1"]);
    assert_eq!(description.dns, ["localhost", "atoll.example"]);
    assert_eq!(description.ip, ["127.0.0.1", "::1", "10.0.0.7"]);
    assert!(!description.is_ca);

    let der = der(&issued.cert);
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.any);
    assert!(certificate.key_usage().unwrap().unwrap().value.digital_signature());
    let validity = certificate.validity();
    let days = (validity.not_after.to_datetime() - time::OffsetDateTime::now_utc()).whole_days();
    assert!((89..=90).contains(&days), "{days}");
    assert!(validity.is_valid());
}

#[test]
fn two_nodes_trust_each_other_and_no_other_cluster() {
    let (ours, n1) = shop();
    let n2 = issue(ours.path(), &node("n2")).unwrap();
    assert_eq!(handshake(ours.path(), &n1, &n2, "localhost"), Ok(()));
    assert_eq!(handshake(ours.path(), &n2, &n1, "10.0.0.7"), Ok(()));
    let elsewhere = handshake(ours.path(), &n1, &n2, "10.0.0.8").unwrap_err();
    assert!(elsewhere.contains("not valid for name"), "{elsewhere}");

    let (_theirs, stranger) = shop();
    let refused = handshake(ours.path(), &n1, &stranger, "localhost").unwrap_err();
    assert!(refused.contains("server") && refused.contains("invalid peer certificate"), "{refused}");
    let refused = handshake(ours.path(), &stranger, &n1, "localhost").unwrap_err();
    assert!(refused.contains("client") && refused.contains("invalid peer certificate"), "{refused}");
}

/// A mutual TLS handshake in memory; the error begins with the side that gave up.
fn handshake(dir: &Path, server: &Issued, client: &Issued, name: &str) -> Result<(), String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(der(&dir.join("ca.crt"))).unwrap();
    let roots = Arc::new(roots);
    let chain = |issued: &Issued| vec![der(&issued.cert)];
    let key = |issued: &Issued| PrivateKeyDer::from_pem_file(&issued.key).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let server_config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain(server), key(server))
        .unwrap();
    let client_config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain(client), key(client))
        .unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client_config), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server_config)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().map_err(|error| format!("server: {error}"))?;
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets().map_err(|error| format!("client: {error}"))?;
    }
    Ok(())
}

#[test]
fn renewal_keeps_the_names_and_changes_the_key() {
    let (dir, issued) = shop();
    let before = describe_file(&issued.cert);
    let key_before = fs::read(&issued.key).unwrap();
    let again = renew(dir.path(), "n1", 30).unwrap();
    assert_eq!(again, issued);
    let after = describe_file(&issued.cert);
    assert_eq!(
        (&after.identity, &after.dns, &after.ip, &after.uri),
        (&before.identity, &before.dns, &before.ip, &before.uri)
    );
    assert_ne!(after.serial, before.serial);
    assert_ne!(after.not_after, before.not_after);
    assert_ne!(fs::read(&issued.key).unwrap(), key_before);
    assert_eq!(handshake(dir.path(), &issued, &issued, "localhost"), Ok(()));
}

#[test]
fn certificate_of_another_authority_is_not_renewed() {
    let (ours, _) = shop();
    for cluster in ["shop2", "shop"] {
        let theirs = tempfile::tempdir().unwrap();
        init(theirs.path(), cluster).unwrap();
        let stranger = issue(theirs.path(), &node("n9")).unwrap();
        fs::copy(&stranger.cert, ours.path().join("n9.crt")).unwrap();
        let refused = renew(ours.path(), "n9", 30).unwrap_err();
        assert!(matches!(refused, PkiError::NotANode { .. }), "{refused}");
    }
    fs::copy(ours.path().join("ca.crt"), ours.path().join("n8.crt")).unwrap();
    assert!(matches!(renew(ours.path(), "n8", 30), Err(PkiError::NotANode { .. })));
    assert!(matches!(renew(ours.path(), "n7", 30), Err(PkiError::Read { .. })));
}

#[test]
fn nothing_that_exists_is_overwritten() {
    let (dir, issued) = shop();
    let before = fs::read(&issued.key).unwrap();
    assert!(matches!(init(dir.path(), "shop"), Err(PkiError::Exists { .. })));
    assert!(matches!(issue(dir.path(), &node("n1")), Err(PkiError::Exists { .. })));
    // Either file alone is enough to refuse, and nothing is left behind.
    fs::remove_file(&issued.cert).unwrap();
    assert!(matches!(issue(dir.path(), &node("n1")), Err(PkiError::Exists { .. })));
    assert!(!issued.cert.exists());
    assert_eq!(fs::read(&issued.key).unwrap(), before);
}

#[cfg(unix)]
#[test]
fn keys_are_readable_by_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let (dir, issued) = shop();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&issued.key), mode(&dir.path().join("ca.key"))), (0o600, 0o600));
    renew(dir.path(), "n1", 30).unwrap();
    assert_eq!((mode(&issued.key), mode(&issued.cert)), (0o600, 0o644));
}

#[test]
fn certificate_never_outlives_its_authority() {
    let (dir, _) = shop();
    let long = issue(dir.path(), &Node { days: DAYS_MAX + 100, ..node("n2") }).unwrap();
    let ca = describe_file(&dir.path().join("ca.crt"));
    assert_eq!(describe_file(&long.cert).not_after, ca.not_after);
}

#[test]
fn names_that_would_change_a_uri_or_a_path_are_refused() {
    let (dir, _) = shop();
    let long = "x".repeat(64);
    for bad in ["", "N1", "a/b", "../x", "a_b", "-a", ".a", "a b", "é", long.as_str()] {
        let named = issue(dir.path(), &node(bad));
        assert!(matches!(named, Err(PkiError::BadName { what: "node", .. })), "{bad}");
        let region = issue(dir.path(), &Node { region: bad.to_owned(), ..node("n3") });
        assert!(matches!(region, Err(PkiError::BadName { what: "region", .. })), "{bad}");
        let elsewhere = tempfile::tempdir().unwrap();
        assert!(matches!(init(elsewhere.path(), bad), Err(PkiError::BadName { .. })), "{bad}");
    }
    assert!(matches!(issue(dir.path(), &node("ca")), Err(PkiError::BadName { .. })));
    assert!(matches!(renew(dir.path(), "ca", 30), Err(PkiError::BadName { .. })));
    for bad in ["", "a b", "*.example", "http://x", "exa\u{308}mple"] {
        let node = Node { sans: vec![bad.to_owned()], ..node("n3") };
        let refused = issue(dir.path(), &node);
        assert!(matches!(refused, Err(PkiError::BadAlternative { .. })), "{bad}");
    }
    let many = Node { sans: vec!["10.0.0.1".to_owned(); 101], ..node("n3") };
    assert!(matches!(issue(dir.path(), &many), Err(PkiError::TooManyAlternatives { .. })));
    assert!(!dir.path().join("n3.key").exists());
}

#[test]
fn directory_without_a_whole_authority_issues_nothing() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(issue(dir.path(), &node("n1")), Err(PkiError::Read { .. })));

    let (ours, n1) = shop();
    let (theirs, _) = shop();
    let put = |name: &str, from: &Path| fs::copy(from, dir.path().join(name)).unwrap();
    // A key of another authority.
    put("ca.crt", &ours.path().join("ca.crt"));
    put("ca.key", &theirs.path().join("ca.key"));
    assert!(matches!(issue(dir.path(), &node("n1")), Err(PkiError::NotAnAuthority { .. })));
    // A node's certificate, which may not sign.
    put("ca.crt", &n1.cert);
    put("ca.key", &n1.key);
    assert!(matches!(issue(dir.path(), &node("n1")), Err(PkiError::NotAnAuthority { .. })));
    fs::write(dir.path().join("ca.crt"), "nonsense").unwrap();
    assert!(matches!(issue(dir.path(), &node("n1")), Err(PkiError::NotAnAuthority { .. })));
    assert!(!dir.path().join("n1.key").exists());
}

#[test]
fn bytes_that_are_no_certificate_are_said_to_be_none() {
    let truncated = {
        let (_dir, issued) = shop();
        let pem = fs::read_to_string(&issued.cert).unwrap();
        let lines: Vec<_> = pem.lines().collect();
        [lines[0], lines[1], lines[lines.len() - 1]].join("\n")
    };
    for bad in ["", "text", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &truncated] {
        assert!(matches!(describe(bad.as_bytes()), Err(PkiError::NotACertificate { .. })), "{bad}");
    }
}
