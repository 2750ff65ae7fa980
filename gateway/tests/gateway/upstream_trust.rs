//! Whom the gateway believes to be an upstream, and as whom it presents itself there.

use std::sync::Arc;

use rcgen::{CertificateParams, date_time_ymd};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use crate::listener_tls::{Authority, Issued};
use crate::rig::{Rig, mandate_upstream};
use crate::sts::Grant;
use crate::tls_upstream::answering;

/// An upstream that shows `server`, asks for certificates of `clients` if there is one, and answers every request with the
/// number of certificates it was shown.
async fn upstream(server: &Issued, clients: Option<&Authority>) -> u16 {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der.clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build();
            config.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let key = PrivateKeyDer::try_from(server.key.serialize_der()).unwrap();
    let config = config.with_single_cert(vec![server.der.clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let shown = |connection: &ServerConnection| connection.peer_certificates().map_or(0, <[_]>::len);
    answering(acceptor, move |connection| shown(connection).to_string()).await
}

/// A gateway that believes `authority`.
async fn rig(folder: &TempDir, authority: &Authority, more: &[(&str, &str)]) -> Rig {
    let file = folder.path().join("authority.pem");
    std::fs::write(&file, &authority.pem).unwrap();
    let mut settings = vec![("CARACAL_TLS_EXTRA_CA_FILE", file.to_str().unwrap())];
    settings.extend(more);
    Rig::with(&settings).await
}

/// Calls `https://localhost` at the port.
async fn call(rig: &Rig, host: &str, port: u16) -> Result<String, String> {
    let url = format!("https://{host}:{port}");
    rig.sts.grant(Grant::Upstream(mandate_upstream(url)));
    let answer = rig.send(rig.get("/")).await;
    if answer.status == 200 {
        return Ok(String::from_utf8(answer.body.to_vec()).unwrap());
    }
    Err(answer.refusal().2)
}

fn valid(from: i32, to: i32) -> CertificateParams {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    params
}

#[tokio::test]
async fn only_a_valid_certificate_of_a_trusted_authority_for_the_name_is_believed() {
    let folder = TempDir::new().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let rig = rig(&folder, &authority, &[]).await;
    for (what, certificate, is_believed) in [
        ("all is well", authority.issue(&["localhost"]), true),
        (
            "one of several names",
            authority.issue(&["a.test", "localhost"]),
            true,
        ),
        ("expired", authority.issue_as(&valid(2000, 2001)), false),
        ("not valid yet", authority.issue_as(&valid(2100, 2101)), false),
        ("another name", authority.issue(&["other.test"]), false),
        ("a name below", authority.issue(&["*.localhost"]), false),
        ("no name", authority.issue(&[]), false),
        ("signed by itself", Issued::self_signed("localhost"), false),
        ("a stranger's", stranger.issue(&["localhost"]), false),
    ] {
        let port = upstream(&certificate, None).await;
        let expected = if is_believed {
            Ok("0".to_owned())
        } else {
            Err("upstream unreachable".to_owned())
        };
        assert_eq!(call(&rig, "localhost", port).await, expected, "{what}");
    }
}

#[tokio::test]
async fn the_gateways_certificate_is_shown_to_listed_hosts_that_ask_and_to_no_other() {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new();
    let (certificate, key) = authority.issue(&["gateway"]).write(folder.path(), "client");
    let settings = [
        ("UPSTREAM_CLIENT_CERT_FILE", certificate.to_str().unwrap()),
        ("UPSTREAM_CLIENT_KEY_FILE", key.to_str().unwrap()),
        ("UPSTREAM_CLIENT_CERT_HOSTS", "LocalHost"),
    ];
    let rig = rig(&folder, &authority, &settings).await;
    let server = authority.issue(&["localhost", "127.0.0.1"]);
    let (asking, indifferent) = (
        upstream(&server, Some(&authority)).await,
        upstream(&server, None).await,
    );
    for (host, port, shown) in [
        ("localhost", asking, "1"),
        ("localhost", indifferent, "0"),
        ("127.0.0.1", asking, "0"),
    ] {
        assert_eq!(
            call(&rig, host, port).await,
            Ok(shown.to_owned()),
            "{host}:{port}"
        );
    }
}
