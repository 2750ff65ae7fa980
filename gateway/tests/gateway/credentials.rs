//! Which credential the upstream gets, by kind of provider.

use caracal_testing::RecordedRequest;
use caracal_wire::sts::{AuthLocation, AuthMode, Upstream};

use crate::rig::Rig;
use crate::sts::Grant;

async fn forwarded(rig: &Rig, upstream: Upstream, target: &str) -> (RecordedRequest, String) {
    rig.sts.grant(Grant::Upstream(Upstream {
        url: rig.upstream.url(),
        ..upstream
    }));
    let mandate = rig.sts.mandate();
    let request = rig
        .request("GET", target, &mandate)
        .header("x-api-key", "of the client");
    assert_eq!(rig.send(request).await.status, 200);
    let requests = rig.upstream.take_requests();
    assert_eq!(requests.len(), 1);
    let everything = format!("{} {:?}", requests[0].target, requests[0].headers);
    assert!(
        !everything.contains(&mandate),
        "the presented mandate reached the upstream: {everything}"
    );
    (requests[0].clone(), mandate)
}

#[tokio::test]
async fn each_kind_of_credential_goes_where_it_belongs() {
    let rig = Rig::start().await;
    let oauth = |scheme: Option<&str>, header: Option<&str>| Upstream {
        auth_mode: AuthMode::ProviderOauth,
        auth_scheme: scheme.map(str::to_owned),
        auth_header: header.map(str::to_owned),
        provider_token: Some("t-1".into()),
        ..Upstream::default()
    };
    let api_key = |header: &str, scheme: Option<&str>| Upstream {
        auth_mode: AuthMode::ProviderApikey,
        auth_location: Some(AuthLocation::Header),
        auth_header: Some(header.into()),
        auth_scheme: scheme.map(str::to_owned),
        provider_token: Some("k-1".into()),
        allowed_token_hosts: vec!["127.0.0.1".into()],
        ..Upstream::default()
    };
    for (upstream, authorization, api_key) in [
        (Upstream::default(), None, Some("of the client")),
        (
            oauth(Some("Bearer"), None),
            Some("Bearer t-1"),
            Some("of the client"),
        ),
        (
            oauth(Some("Basic"), None),
            Some("Basic t-1"),
            Some("of the client"),
        ),
        (oauth(None, None), Some("t-1"), Some("of the client")),
        (oauth(None, Some("X-Api-Key")), None, Some("t-1")),
        (api_key("X-Api-Key", None), None, Some("k-1")),
        (
            api_key("Authorization", Some("Token")),
            Some("Token k-1"),
            Some("of the client"),
        ),
    ] {
        let (request, _mandate) = forwarded(&rig, upstream.clone(), "/").await;
        assert_eq!(request.header("authorization"), authorization, "{upstream:?}");
        assert_eq!(request.header("x-api-key"), api_key, "{upstream:?}");
        assert_eq!(request.headers.get_all("x-api-key").iter().count(), 1);
    }
}

#[tokio::test]
async fn the_resource_mandate_is_the_credential_of_caracal_upstreams() {
    let rig = Rig::start().await;
    let upstream = Upstream {
        auth_mode: AuthMode::CaracalJwt,
        ..Upstream::default()
    };
    let (request, _mandate) = forwarded(&rig, upstream.clone(), "/").await;
    let token = request
        .header("authorization")
        .unwrap()
        .strip_prefix("Bearer ")
        .unwrap()
        .to_owned();
    assert_eq!(token.split('.').count(), 3);
    let scheme = Upstream {
        auth_scheme: Some("DPoP".into()),
        ..upstream
    };
    let (request, _mandate) = forwarded(&rig, scheme, "/").await;
    assert!(request.header("authorization").unwrap().starts_with("DPoP "));
}

#[tokio::test]
async fn a_key_in_the_query_replaces_the_clients() {
    let rig = Rig::start().await;
    let upstream = Upstream {
        auth_mode: AuthMode::ProviderApikey,
        auth_location: Some(AuthLocation::Query),
        query_param_name: Some("api_key".into()),
        provider_token: Some("k/1&x".into()),
        ..Upstream::default()
    };
    let (request, _mandate) = forwarded(&rig, upstream, "/v1?api_key=forged&a=%20").await;
    assert_eq!(request.target, "/v1?a=%20&api_key=k%2F1%26x");
    assert_eq!(request.header("authorization"), None);
}

#[tokio::test]
async fn the_identity_is_forwarded_only_where_it_was_asked_for() {
    let rig = Rig::start().await;
    for (mode, asked, expected) in [
        (AuthMode::ProviderOauth, true, true),
        (AuthMode::ProviderOauth, false, false),
        (AuthMode::CaracalJwt, true, false),
        (AuthMode::None, true, false),
    ] {
        let upstream = Upstream {
            auth_mode: mode,
            provider_token: Some("t-1".into()),
            forward_caracal_identity: asked,
            ..Upstream::default()
        };
        let (request, _mandate) = forwarded(&rig, upstream, "/").await;
        assert_eq!(
            request.header("x-caracal-identity").is_some(),
            expected,
            "{mode:?} {asked}"
        );
    }
}
