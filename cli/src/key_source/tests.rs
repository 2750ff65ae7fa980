use bytes::Bytes;
use caracal_testing::{Behaviour, RecordedRequest, Upstream, test_authority};
use http::StatusCode;
use serde_json::{Value, json};

use super::*;

const KEK: &str = "8f3d9a712c45e6b0d18f2a4c6e9b3d57a1c4f8020e6a9c3d5b7f1a2c4e6d8b90";

fn answer(document: &Value) -> Behaviour {
    Behaviour::Status(StatusCode::OK, Bytes::from(document.to_string()))
}

/// What a setting says once references are followed.
async fn read(vault: Option<&Upstream>, reference: &str, more: &[(&str, &str)]) -> Result<String, String> {
    let address = vault.map(Upstream::url);
    let mut pairs = vec![("SECRET_STORE_KEK", reference)];
    if let Some(address) = &address {
        pairs.extend([
            ("VAULT_ADDR", address.as_str()),
            ("VAULT_TOKEN", "hvs.token-of-a-test"),
        ]);
    }
    pairs.extend(more);
    let source = resolve(Source::from_pairs(pairs))
        .await
        .map_err(|error| error.to_string())?;
    let mut reader = Reader::new(&source);
    Ok(reader.secret("SECRET_STORE_KEK").expose().clone())
}

fn asked(vault: &Upstream) -> (String, String, Bytes) {
    let requests = vault.take_requests();
    let [request]: [RecordedRequest; 1] = Vec::try_into(requests).unwrap();
    assert_eq!(request.header("x-vault-token"), Some("hvs.token-of-a-test"));
    assert_eq!(request.header("x-vault-request"), Some("true"));
    (
        request.method.to_string(),
        request.target.clone(),
        request.body.clone(),
    )
}

#[tokio::test]
async fn a_value_that_is_no_reference_stays_as_it_is() {
    assert_eq!(read(None, KEK, &[]).await.unwrap(), KEK);
}

#[tokio::test]
async fn a_kv_store_gives_the_named_member_of_the_latest_version() {
    let vault = Upstream::start(answer(
        &json!({"data": {"data": {"kek": KEK}, "metadata": {"version": 3}}}),
    ))
    .await;
    let value = read(Some(&vault), "vault-kv:secret/caracal/zone#kek", &[]).await;
    assert_eq!(value.unwrap(), KEK);
    assert_eq!(
        asked(&vault),
        (
            "GET".to_owned(),
            "/v1/secret/data/caracal/zone".to_owned(),
            Bytes::new()
        )
    );
    let error = read(Some(&vault), "vault-kv:secret/caracal/zone#other", &[])
        .await
        .unwrap_err();
    assert!(error.contains("has no text named other"), "{error}");
}

#[tokio::test]
async fn the_transit_engine_decrypts_what_the_reference_holds_over_tls() {
    use base64::Engine as _;
    let plaintext = base64::engine::general_purpose::STANDARD.encode(KEK);
    let vault = Upstream::start_tls(answer(&json!({"data": {"plaintext": plaintext}}))).await;
    let authority = test_authority().display().to_string();
    let trusting = [
        ("VAULT_CACERT", authority.as_str()),
        ("VAULT_NAMESPACE", "team-a"),
    ];
    let reference = "vault-transit:transit/caracal#vault:v1:AbCd+/==";
    assert_eq!(read(Some(&vault), reference, &trusting).await.unwrap(), KEK);
    let namespace = vault.requests()[0].header("x-vault-namespace").map(str::to_owned);
    assert_eq!(namespace.as_deref(), Some("team-a"));
    let (method, target, body) = asked(&vault);
    assert_eq!(
        (method.as_str(), target.as_str()),
        ("POST", "/v1/transit/decrypt/caracal")
    );
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body, json!({"ciphertext": "vault:v1:AbCd+/=="}));

    let error = read(Some(&vault), reference, &[]).await.unwrap_err();
    assert!(
        error.contains("Vault cannot be asked"),
        "an unknown authority is not believed: {error}"
    );
}

#[tokio::test]
async fn every_refusal_names_the_key_and_the_mend_and_no_secret() {
    let vault = Upstream::start(answer(&json!({"data": {"data": {"kek": KEK}}}))).await;
    let cases = [
        (403, "vault-kv:secret/caracal#kek", "not allowed to read this"),
        (404, "vault-kv:secret/caracal#kek", "nothing there"),
        (503, "vault-kv:secret/caracal#kek", "answered 503"),
        (200, "vault-kv:secret#kek", "the reference is malformed"),
        (200, "vault-kv:secret/caracal", "the reference is malformed"),
        (200, "vault-kv:secret/../sys#kek", "the reference is malformed"),
        (
            200,
            "vault-transit:transit/caracal#",
            "the reference is malformed",
        ),
    ];
    for (status, reference, expected) in cases {
        let body = Bytes::from(format!(r#"{{"errors": ["{KEK}"]}}"#));
        vault.set(Behaviour::Status(StatusCode::from_u16(status).unwrap(), body));
        let error = read(Some(&vault), reference, &[]).await.unwrap_err();
        assert!(
            error.contains("SECRET_STORE_KEK: ") && error.contains(expected),
            "{reference}: {error}"
        );
        assert!(!error.contains(KEK) && !error.contains("hvs."), "{error}");
    }
    let error = read(None, "vault-kv:secret/caracal#kek", &[]).await.unwrap_err();
    assert!(error.contains("VAULT_ADDR is not set"), "{error}");
    let clear = [
        ("VAULT_ADDR", "http://vault.example.com:8200"),
        ("VAULT_TOKEN", "hvs.x"),
    ];
    let error = read(None, "vault-kv:secret/caracal#kek", &clear)
        .await
        .unwrap_err();
    assert!(
        error.contains("VAULT_ADDR"),
        "a token never travels in clear: {error}"
    );
}
