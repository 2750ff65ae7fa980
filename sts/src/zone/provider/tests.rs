//! Each provider kind and what can be wrong with it.

use caracal_token::envelope::Kek;
use serde_json::{Value, json};

use super::*;

fn keyring() -> Keyring {
    let kek = Kek::from_hex("8f3d9a712c45e6b0d18f2a4c6e9b3d57a1c4f8020e6a9c3d5b7f1a2c4e6d8b90").unwrap();
    Keyring::new(kek, None)
}

fn read(kind: &str, config: Value, secrets: Option<Value>) -> Result<Credential, Unusable> {
    let zone = ZoneId::try_from("z1").unwrap();
    let id = ProviderId::try_from("p1").unwrap();
    let reference = "zones/z1/providers/p1/secretConfig".to_owned();
    let sealed = secrets.map(|secrets| SecretRow {
        envelope: keyring()
            .seal(secrets.to_string().as_bytes(), reference.as_bytes())
            .unwrap(),
        reference,
    });
    let row = ProviderRow {
        id: id.clone(),
        kind: kind.to_owned(),
        config,
    };
    read_all(&zone, vec![row], sealed.as_slice(), &keyring())
        .remove(&id)
        .unwrap()
        .credential
}

fn placed(credential: Result<Credential, Unusable>) -> (String, Placement) {
    match credential.unwrap() {
        Credential::Secret(secret) => (secret.value.expose().clone(), secret.placement),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_kind_places_its_secret() {
    let header = |name: &str, scheme: Option<&str>| Placement::KeyHeader {
        name: name.to_owned(),
        scheme: scheme.map(str::to_owned),
    };
    let token = |name: &str, scheme: &str| Placement::TokenHeader {
        name: name.to_owned(),
        scheme: scheme.to_owned(),
    };
    let key = Some(json!({"api_key": "k"}));
    let cases = [
        (
            "api_key",
            json!({"header_name": "X-Api-Key"}),
            key.clone(),
            "k",
            header("X-Api-Key", None),
        ),
        (
            "api_key",
            json!({"header_name": "Authorization", "auth_scheme": "Token"}),
            key.clone(),
            "k",
            header("Authorization", Some("Token")),
        ),
        (
            "api_key",
            json!({"auth_location": "query", "query_param_name": "key"}),
            key,
            "k",
            Placement::KeyQuery {
                name: "key".to_owned(),
            },
        ),
        (
            "bearer_token",
            json!({}),
            Some(json!({"bearer_token": "t"})),
            "t",
            token("Authorization", "Bearer"),
        ),
        (
            "http_basic",
            json!({"username": " u "}),
            Some(json!({"password": "p:q"})),
            "dTpwOnE=",
            token("Authorization", "Basic"),
        ),
    ];
    for (kind, config, secrets, value, placement) in cases {
        assert_eq!(
            placed(read(kind, config, secrets)),
            (value.to_owned(), placement),
            "{kind}"
        );
    }
    assert!(matches!(read("none", json!({}), None), Ok(Credential::None)));
    assert!(matches!(
        read("caracal_mandate", json!({}), None),
        Ok(Credential::Mandate)
    ));
}

#[test]
fn what_is_wrong_is_named_and_gives_no_credential() {
    let key = Some(json!({"api_key": "k"}));
    let cases = [
        (
            "api_key",
            json!({"header_name": "X-Api-Key"}),
            None,
            Unusable::SecretMissing("api_key"),
        ),
        (
            "api_key",
            json!({}),
            key.clone(),
            Unusable::Setting("header_name"),
        ),
        (
            "api_key",
            json!({"header_name": "a b"}),
            key.clone(),
            Unusable::Setting("header_name"),
        ),
        (
            "api_key",
            json!({"auth_location": "body"}),
            key.clone(),
            Unusable::Setting("auth_location"),
        ),
        (
            "api_key",
            json!({"auth_location": "query", "query_param_name": "a&b"}),
            key.clone(),
            Unusable::Setting("query_param_name"),
        ),
        (
            "api_key",
            json!({"header_name": "X", "auth_scheme": "1x"}),
            key.clone(),
            Unusable::Setting("auth_scheme"),
        ),
        (
            "api_key",
            json!({"header_name": "X", "allowed_token_hosts": ["a..b"]}),
            key.clone(),
            Unusable::Setting("allowed_token_hosts"),
        ),
        (
            "api_key",
            json!({"allowed_token_hosts": "x"}),
            key,
            Unusable::Config,
        ),
        (
            "http_basic",
            json!({}),
            Some(json!({"password": "p"})),
            Unusable::Setting("username"),
        ),
        (
            "oauth2_client_credentials",
            json!({}),
            None,
            Unusable::OAuth(ConfigError::Setting("token_endpoint")),
        ),
        (
            "something",
            json!({}),
            None,
            Unusable::Kind("something".to_owned()),
        ),
    ];
    for (kind, config, secrets, expected) in cases {
        assert_eq!(
            read(kind, config.clone(), secrets).unwrap_err(),
            expected,
            "{kind} {config}"
        );
    }
}

#[test]
fn an_envelope_of_another_provider_does_not_open() {
    let zone = ZoneId::try_from("z1").unwrap();
    let id = ProviderId::try_from("p1").unwrap();
    let sealed = SecretRow {
        reference: "zones/z1/providers/p1/secretConfig".to_owned(),
        envelope: keyring()
            .seal(b"{\"api_key\":\"k\"}", b"zones/z1/providers/p2/secretConfig")
            .unwrap(),
    };
    let row = ProviderRow {
        id: id.clone(),
        kind: "api_key".to_owned(),
        config: json!({"header_name": "X"}),
    };
    let provider = read_all(&zone, vec![row], &[sealed], &keyring())
        .remove(&id)
        .unwrap();
    assert_eq!(provider.credential.unwrap_err(), Unusable::SecretSealed);
}
