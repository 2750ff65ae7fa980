use std::io;
use std::net::IpAddr;

use async_trait::async_trait;
use caracal_testing::{Behaviour, Upstream, test_authority};

use super::*;
use crate::Blocked;

/// Every name leads here.
#[derive(Debug)]
struct Everywhere(&'static str);

#[async_trait]
impl Resolve for Everywhere {
    async fn resolve(&self, _host: &str) -> io::Result<Vec<IpAddr>> {
        Ok(vec![self.0.parse().unwrap()])
    }
}

fn client(settings: &Settings) -> Client {
    Client::new(Arc::new(Everywhere("127.0.0.1")), settings).unwrap()
}

fn development() -> Settings {
    Settings {
        allow_loopback: true,
        extra_ca_file: Some(test_authority()),
        ..Settings::default()
    }
}

fn url(server: &Upstream, host: &str, path: &str) -> Url {
    Url::parse(&format!("https://{host}:{}{path}", server.address().port())).unwrap()
}

#[tokio::test]
async fn a_trusted_provider_is_called_by_name_at_the_checked_address() {
    let server = Upstream::start_tls(Behaviour::Echo).await;
    let url = url(&server, "idp.caracal.test", "/token?x=%2F");
    let hosts = ["IDP.caracal.test".to_owned()];
    let request = Request::post_form(&url, "a=b").only_to(&hosts);
    let answer = client(&development()).send(request).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    let arrived = &server.requests()[0];
    assert_eq!(
        (arrived.method.as_str(), arrived.target.as_str()),
        ("POST", "/token?x=%2F")
    );
    assert_eq!(arrived.body, "a=b");
    assert_eq!(
        arrived.header("host"),
        Some(format!("idp.caracal.test:{}", server.address().port()).as_str())
    );
    assert_eq!(
        arrived.header("content-type"),
        Some("application/x-www-form-urlencoded")
    );
}

#[tokio::test]
async fn what_the_rules_forbid_is_never_connected_to() {
    let server = Upstream::start_tls(Behaviour::Echo).await;
    let client_in_production = client(&Settings {
        extra_ca_file: Some(test_authority()),
        private_hosts: vec!["idp.caracal.test".to_owned()],
        ..Settings::default()
    });
    let loopback = url(&server, "idp.caracal.test", "/");
    let refused = client_in_production
        .send(Request::get(&loopback))
        .await
        .unwrap_err();
    assert!(
        matches!(
            refused,
            ClientError::Refused(EgressError::Address(Blocked::Loopback))
        ),
        "{refused:?}"
    );
    let client = client(&development());
    let other = ["other.caracal.test".to_owned()];
    for hosts in [&other[..], &[]] {
        let refused = client
            .send(Request::get(&loopback).only_to(hosts))
            .await
            .unwrap_err();
        assert!(matches!(refused, ClientError::Refused(EgressError::Host)) && refused.is_unsent());
    }
    for text in [
        "http://idp.caracal.test/",
        "https://user@idp.caracal.test/",
        "https://user:secret@idp.caracal.test/",
    ] {
        let url = Url::parse(text).unwrap();
        let refused = client.send(Request::get(&url)).await.unwrap_err();
        assert!(
            matches!(refused, ClientError::Refused(EgressError::Url)),
            "{text}"
        );
    }
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_server_of_another_name_or_authority_is_not_believed() {
    let server = Upstream::start_tls(Behaviour::Echo).await;
    let wrong_name = url(&server, "idp.example", "/");
    let refused = client(&development()).send(Request::get(&wrong_name)).await;
    assert!(matches!(refused, Err(ClientError::Connect(_))), "{refused:?}");
    let stranger = Settings {
        extra_ca_file: None,
        ..development()
    };
    let right_name = url(&server, "idp.caracal.test", "/");
    let refused = client(&stranger).send(Request::get(&right_name)).await;
    assert!(matches!(refused, Err(ClientError::Connect(_))), "{refused:?}");
}

#[tokio::test]
async fn an_answer_is_limited_in_size_and_time_and_leads_nowhere_else() {
    let server = Upstream::start_tls(Behaviour::Status(StatusCode::OK, vec![b'x'; 2_000].into())).await;
    let client = client(&development());
    let url = url(&server, "idp.caracal.test", "/");
    let whole = client.send(Request::get(&url).at_most(2_000)).await.unwrap();
    assert_eq!(whole.body.len(), 2_000);
    let cut = client.send(Request::get(&url).at_most(1_999)).await;
    assert!(matches!(cut, Err(ClientError::TooLarge(1_999))), "{cut:?}");
    server.set(Behaviour::Held);
    let late = client
        .send(Request::get(&url).within(Duration::from_millis(50)))
        .await;
    assert!(matches!(late, Err(ClientError::Timeout(_))), "{late:?}");
    server.set(Behaviour::Custom(Arc::new(|_request| {
        http::Response::builder()
            .status(StatusCode::FOUND)
            .header("location", "https://169.254.169.254/")
            .body(Bytes::new())
            .unwrap()
    })));
    let moved = client.send(Request::get(&url)).await.unwrap();
    assert_eq!(moved.status, StatusCode::FOUND, "redirects are answers");
}

#[test]
fn nothing_secret_is_printed() {
    let url = Url::parse("https://idp.example/").unwrap();
    let mut secret = HeaderValue::from_static("Basic c2VjcmV0");
    secret.set_sensitive(true);
    let request =
        Request::post_form(&url, "client_secret=hidden").header(http::header::AUTHORIZATION, secret);
    let printed = format!("{request:?}");
    assert!(
        !printed.contains("hidden") && !printed.contains("c2VjcmV0"),
        "{printed}"
    );
    let response = Response {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"hidden"),
    };
    assert!(!format!("{response:?}").contains("hidden"));
}
