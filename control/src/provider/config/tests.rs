//! Accept and reject vectors of every kind.

use serde_json::json;

use super::*;

fn checked(kind: &str, config: &Value, secrets: Secrets) -> Result<ProviderConfig, String> {
    let kind = Kind::parse(kind).unwrap();
    check(kind, config.as_object().unwrap(), secrets).map_err(Cow::into_owned)
}

use std::borrow::Cow;

const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIG\n-----END PRIVATE KEY-----";

fn oauth(extra: &Value) -> Value {
    merge(
        &json!({ "token_endpoint": "https://idp.example/token", "client_id": "c", "client_secret": "s3cret" }),
        extra,
    )
}

fn code(extra: &Value) -> Value {
    merge(
        &json!({
            "authorization_endpoint": "https://idp.example/authorize",
            "token_endpoint": "https://idp.example/token",
            "redirect_uri": "https://api.example/callback",
            "client_id": "c",
            "client_secret": "s3cret",
        }),
        extra,
    )
}

/// Members of `extra` win; a `null` there removes the member.
fn merge(base: &Value, extra: &Value) -> Value {
    let mut merged = base.as_object().unwrap().clone();
    for (name, value) in extra.as_object().unwrap() {
        if value.is_null() {
            merged.remove(name);
        } else {
            merged.insert(name.clone(), value.clone());
        }
    }
    Value::Object(merged)
}

#[test]
fn good_configurations_are_accepted() {
    let good = [
        ("none", json!({})),
        ("caracal_mandate", json!({})),
        ("api_key", json!({ "header_name": "X-Api-Key", "api_key": "k" })),
        (
            "api_key",
            json!({ "header_name": "Authorization", "auth_scheme": "Token", "api_key": "k" }),
        ),
        (
            "api_key",
            json!({ "auth_location": "query", "query_param_name": "key", "api_key": "k" }),
        ),
        (
            "bearer_token",
            json!({ "bearer_token": "t", "allowed_token_hosts": ["API.example"] }),
        ),
        ("http_basic", json!({ "username": "u", "password": "p:q" })),
        ("oauth2_client_credentials", oauth(&json!({}))),
        (
            "oauth2_client_credentials",
            oauth(&json!({ "client_auth_method": "none", "client_secret": null })),
        ),
        (
            "oauth2_client_credentials",
            oauth(
                &json!({ "client_auth_method": "private_key_jwt", "client_secret": null,
                "private_key": KEY, "key_id": "k1" }),
            ),
        ),
        (
            "oauth2_client_credentials",
            oauth(
                &json!({ "grant_type": "jwt_bearer", "client_secret": null, "private_key": KEY,
                "assertion_subject": "svc@example" }),
            ),
        ),
        ("oauth2_authorization_code", code(&json!({}))),
        (
            "oauth2_authorization_code",
            code(&json!({ "client_auth_method": "none", "client_secret": null,
                "revocation_endpoint": "https://idp.example/revoke",
                "authorization_params": { "prompt": "consent" } })),
        ),
    ];
    for (kind, config) in good {
        checked(kind, &config, Secrets::Complete).unwrap_or_else(|fault| panic!("{kind} {config}: {fault}"));
    }
}

#[test]
fn bad_configurations_are_refused_by_the_member_at_fault() {
    let bad = [
        (
            "none",
            json!({ "header_name": "x" }),
            "header_name is not a member",
        ),
        (
            "caracal_mandate",
            json!({ "api_key": "k" }),
            "api_key is not a member",
        ),
        ("api_key", json!({ "api_key": "k" }), "header_name is required"),
        (
            "api_key",
            json!({ "header_name": "X-Key" }),
            "api_key is required",
        ),
        (
            "api_key",
            json!({ "header_name": "X-Key", "api_key": "  " }),
            "api_key: expected 1 to",
        ),
        (
            "api_key",
            json!({ "header_name": "X-Key", "api_key": "a\nb" }),
            "no control characters",
        ),
        (
            "api_key",
            json!({ "header_name": "X Key", "api_key": "k" }),
            "an HTTP field name",
        ),
        (
            "api_key",
            json!({ "header_name": "Host", "api_key": "k" }),
            "not reserved",
        ),
        (
            "api_key",
            json!({ "header_name": "X-Caracal-Zone", "api_key": "k" }),
            "not reserved",
        ),
        (
            "api_key",
            json!({ "header_name": "X-Forwarded-For", "api_key": "k" }),
            "not reserved",
        ),
        (
            "api_key",
            json!({ "auth_location": "query", "query_param_name": "k y", "api_key": "k" }),
            "query_param_name",
        ),
        (
            "api_key",
            json!({ "auth_location": "query", "query_param_name": "k", "auth_scheme": "Token", "api_key": "k" }),
            "auth_scheme cannot be used",
        ),
        (
            "api_key",
            json!({ "header_name": "Authorization", "auth_scheme": "Token", "api_key": "token abc" }),
            "must not begin with its scheme",
        ),
        (
            "bearer_token",
            json!({ "bearer_token": "Bearer abc" }),
            "must not begin with its scheme",
        ),
        (
            "bearer_token",
            json!({ "bearer_token": "t", "auth_scheme": "1x" }),
            "auth_scheme",
        ),
        (
            "bearer_token",
            json!({ "bearer_token": "t", "allowed_token_hosts": ["a..b"] }),
            "host names",
        ),
        (
            "bearer_token",
            json!({ "bearer_token": "t", "allowed_token_hosts": ["https://a"] }),
            "host names",
        ),
        ("http_basic", json!({ "password": "p" }), "username is required"),
        (
            "http_basic",
            json!({ "username": "a:b", "password": "p" }),
            "colon",
        ),
        (
            "oauth2_client_credentials",
            oauth(&json!({ "token_endpoint": "http://idp.example/token" })),
            "https",
        ),
        (
            "oauth2_client_credentials",
            oauth(&json!({ "token_endpoint": "https://u:p@idp.example/token" })),
            "user information",
        ),
        (
            "oauth2_client_credentials",
            oauth(&json!({ "client_secret": null })),
            "client_secret is required",
        ),
        (
            "oauth2_client_credentials",
            oauth(&json!({ "private_key": KEY })),
            "private_key cannot be used",
        ),
        (
            "oauth2_client_credentials",
            oauth(&json!({ "key_id": "k" })),
            "key_id cannot be used",
        ),
        (
            "oauth2_client_credentials",
            oauth(&json!({ "assertion_subject": "x" })),
            "assertion_subject cannot",
        ),
        (
            "oauth2_client_credentials",
            oauth(&json!({ "client_auth_method": "private_key_jwt", "private_key": KEY })),
            "client_secret cannot be used",
        ),
        (
            "oauth2_client_credentials",
            oauth(
                &json!({ "grant_type": "jwt_bearer", "client_auth_method": "private_key_jwt",
                "client_secret": null, "private_key": KEY }),
            ),
            "cannot be used with jwt_bearer",
        ),
        (
            "oauth2_client_credentials",
            oauth(
                &json!({ "grant_type": "jwt_bearer", "client_secret": null, "private_key": KEY,
                "audience": "a" }),
            ),
            "audience cannot be used",
        ),
        (
            "oauth2_client_credentials",
            oauth(&json!({ "token_params": { "scope": "x" } })),
            "set by the protocol",
        ),
        (
            "oauth2_client_credentials",
            oauth(&json!({ "token_params": { "x": 1 } })),
            "object of strings",
        ),
        (
            "oauth2_authorization_code",
            code(&json!({ "redirect_uri": "callback" })),
            "absolute URI",
        ),
        (
            "oauth2_authorization_code",
            code(&json!({ "client_auth_method": "private_key_jwt" })),
            "not available for this kind",
        ),
        (
            "oauth2_authorization_code",
            code(&json!({ "revocation_endpoint": "https://other.example/revoke" })),
            "allowed_token_hosts",
        ),
        (
            "oauth2_authorization_code",
            code(&json!({ "authorization_params": { "state": "x" } })),
            "set by the protocol",
        ),
    ];
    for (kind, config, part) in bad {
        let fault = checked(kind, &config, Secrets::Complete).expect_err(&format!("{kind} {config}"));
        assert!(
            fault.contains(part),
            "{kind} {config}: {fault} does not say {part}"
        );
    }
}

#[test]
fn secrets_never_stay_in_the_public_part() {
    let config = checked("oauth2_client_credentials", &oauth(&json!({})), Secrets::Complete).unwrap();
    assert!(
        !Value::Object(config.public.clone())
            .to_string()
            .contains("s3cret")
    );
    assert_eq!(
        config.secret.keys().copied().collect::<Vec<_>>(),
        ["client_secret"]
    );
    assert_eq!(
        config.public["allowed_token_hosts"],
        json!(["idp.example"]),
        "the default host list"
    );
}

#[test]
fn a_message_never_repeats_a_value() {
    let bad = json!({ "header_name": "Bearer topsecret", "api_key": "k" });
    let fault = checked("api_key", &bad, Secrets::Complete).unwrap_err();
    assert!(!fault.contains("topsecret"), "{fault}");
}

#[test]
fn stored_secrets_are_kept_when_none_is_sent() {
    let public_only = json!({ "header_name": "X-Key" });
    assert!(
        checked("api_key", &public_only, Secrets::MayBeKept)
            .unwrap()
            .secret
            .is_empty()
    );
    assert!(checked("api_key", &public_only, Secrets::Complete).is_err());
}
