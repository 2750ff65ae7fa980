//! Upstreams that speak TLS are verified by name, against the machine's authorities and the extra ones.

use std::sync::Arc;

use caracal_testing::wait_until;
use pingora_core::tls::{ServerConfig, TlsAcceptor, load_certs_and_key_files, version};
use rustls::ServerConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::rig::{Rig, SOON, mandate_upstream};
use crate::sts::Grant;

/// Signed by `tls/ca.pem` for `localhost` and 127.0.0.1 until the year 2125; made with the script in `tls/README.md`.
pub(crate) fn file(name: &str) -> String {
    format!("{}/tests/gateway/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Accepts TLS with that certificate.
pub(crate) fn acceptor() -> TlsAcceptor {
    let (chain, key) = load_certs_and_key_files(&file("server.pem"), &file("server.key"))
        .unwrap()
        .unwrap();
    let config = ServerConfig::builder_with_protocol_versions(&[&version::TLS13])
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// An upstream over TLS that answers every request with 200 and what `answer` says about the connection.
pub(crate) async fn answering(
    acceptor: TlsAcceptor,
    answer: impl Fn(&ServerConnection) -> String + Clone + Send + 'static,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _peer) = listener.accept().await.unwrap();
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                // A gateway that does not believe us goes away here.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let body = answer(stream.get_ref().1);
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let mut buffer = [0; 8_192];
                while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    port
}

/// One with the usual certificate.
async fn tls_upstream() -> u16 {
    answering(acceptor(), |_connection| "secret".to_owned()).await
}

#[tokio::test]
async fn an_extra_authority_is_trusted_and_names_are_checked() {
    let rig = Rig::with(&[("CARACAL_TLS_EXTRA_CA_FILE", &file("ca.pem"))]).await;
    let port = tls_upstream().await;
    for (host, trusted) in [("localhost", true), ("127.0.0.1", true), ("127.0.0.2", false)] {
        rig.sts.grant(Grant::Upstream(mandate_upstream(format!(
            "https://{host}:{port}"
        ))));
        let answer = rig.send(rig.get("/")).await;
        if trusted {
            assert_eq!((answer.status, &answer.body[..]), (200, &b"secret"[..]), "{host}");
        } else {
            assert_eq!(
                answer.refusal().2,
                "upstream unreachable",
                "{host} is not in the certificate"
            );
        }
    }
}

#[tokio::test]
async fn an_unknown_authority_is_not_trusted() {
    let rig = Rig::start().await;
    let port = tls_upstream().await;
    rig.sts.grant(Grant::Upstream(mandate_upstream(format!(
        "https://localhost:{port}"
    ))));
    assert_eq!(rig.send(rig.get("/")).await.refusal().2, "upstream unreachable");
}

#[tokio::test]
async fn the_gateway_itself_speaks_tls() {
    let (certificate, key) = (file("server.pem"), file("server.key"));
    let rig = Rig::with(&[("TLS_CERT_FILE", &certificate), ("TLS_KEY_FILE", &key)]).await;
    let mut roots = rustls::RootCertStore::empty();
    pingora_core::tls::load_ca_file_into_store(file("ca.pem"), &mut roots).unwrap();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = pingora_core::tls::TlsConnector::from(Arc::new(config));
    let stream = tokio::net::TcpStream::connect(rig.gateway.addresses.main)
        .await
        .unwrap();
    let name = pingora_core::tls::ServerName::try_from("localhost").unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\nx-caracal-resource: resource://crm\r\n\r\n",
        rig.sts.mandate()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The end of the stream, with or without a close notification.
    let _closed = stream.read_to_end(&mut answer).await;
    assert!(
        answer.starts_with(b"HTTP/1.1 200 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    wait_until(SOON, async || rig.upstream.requests().len() == 1).await;
    assert_eq!(
        rig.upstream.requests()[0].header("x-forwarded-proto"),
        Some("https")
    );
}
