//! Has the client proved who it is with its own key? (RFC 7523 section 2.2, `private_key_jwt`)
//!
//! Whether an assertion was used before is for the caller to remember: it knows every other verifier.

use caracal_model::UnixSeconds;
use serde::Deserialize;

use crate::KeySet;
use crate::claims::audience;
use crate::compact::{Compact, MalformedJws};

/// Longest id of an assertion, in bytes.
const JTI_BYTES_MAX: usize = 256;

/// What an assertion says (RFC 7523 section 3). Claims it does not need are passed over.
#[derive(Debug, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    #[serde(deserialize_with = "audience")]
    aud: Vec<String>,
    exp: i64,
    jti: String,
    #[serde(default)]
    iat: Option<i64>,
    #[serde(default)]
    nbf: Option<i64>,
}

/// An assertion that has the right shape and has proven nothing.
#[derive(Debug)]
pub struct UnverifiedAssertion<'a>(Compact<'a, Claims>);

/// What a verifier demands of an assertion besides its signature.
#[derive(Debug, Clone, Copy)]
pub struct AssertionRules<'a> {
    /// The client; issuer and subject must both be it.
    pub client_id: &'a str,
    /// Names of this server. The audience must be exactly one of them and nothing else: an assertion made for two servers
    /// could be taken from one to the other.
    pub audiences: &'a [&'a str],
    /// Longest time from now to the expiry, in seconds: so long is its id remembered.
    pub life_max_seconds: i64,
    /// Clock difference granted to its times, in seconds.
    pub leeway_seconds: i64,
}

/// Why an assertion proves nothing, in the order of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssertionError {
    /// No key of the client has its key id, or it names none and the client has several.
    #[error("the assertion names an unknown key")]
    UnknownKey,
    /// The signature is not that key's signature of these bytes.
    #[error("the signature of the assertion is invalid")]
    Signature,
    /// Issuer or subject is not the client.
    #[error("issuer and subject of the assertion must be the client")]
    Client,
    /// The audience is not exactly this server.
    #[error("the assertion is for another audience")]
    Audience,
    /// The assertion has expired.
    #[error("the assertion has expired")]
    Expired,
    /// The assertion lives longer than is accepted.
    #[error("the assertion lives too long")]
    LivesTooLong,
    /// The assertion is not valid yet.
    #[error("the assertion is from the future")]
    NotYetValid,
    /// The id is empty or too long.
    #[error("the assertion has no usable id")]
    Id,
}

/// An assertion that proves its client, if it was not used before.
#[derive(Debug, PartialEq, Eq)]
pub struct ProvenAssertion {
    /// Its id, unique for the client.
    pub jti: String,
    /// When it was made at the earliest: as it says, else as early as it can be, less what its clock may be ahead.
    pub issued_at: UnixSeconds,
    /// When it ends.
    pub expires_at: UnixSeconds,
}

impl<'a> UnverifiedAssertion<'a> {
    /// Splits and parses an assertion; the caller bounds its length.
    ///
    /// # Errors
    /// [`MalformedJws`].
    pub fn parse(text: &'a str) -> Result<Self, MalformedJws> {
        let is_type = |typ: Option<&str>| {
            typ.is_none_or(|typ| {
                ["JWT", "client-authentication+jwt"]
                    .iter()
                    .any(|known| typ.eq_ignore_ascii_case(known))
            })
        };
        Compact::parse(text, is_type).map(Self)
    }

    /// Whom it says it authenticates.
    pub fn unverified_subject(&self) -> &str {
        &self.0.claims.sub
    }

    /// Proves the assertion with the keys of the client: the signature first, then everything it says.
    ///
    /// # Errors
    /// The first [`AssertionError`] in the order of its variants.
    pub fn verify(
        self,
        keys: &KeySet,
        rules: &AssertionRules<'_>,
        now: UnixSeconds,
    ) -> Result<ProvenAssertion, AssertionError> {
        let Compact {
            signing_input,
            signature,
            kid,
            claims,
            ..
        } = self.0;
        let key = match &kid {
            Some(kid) => keys.find(kid),
            None => keys.only(),
        };
        key.ok_or(AssertionError::UnknownKey)?
            .verify_sig(signing_input, &signature)
            .or(Err(AssertionError::Signature))?;
        if claims.iss != rules.client_id || claims.sub != rules.client_id {
            return Err(AssertionError::Client);
        }
        match claims.aud.as_slice() {
            [audience] if rules.audiences.contains(&audience.as_str()) => {}
            _ => return Err(AssertionError::Audience),
        }
        if now.0 >= claims.exp.saturating_add(rules.leeway_seconds) {
            return Err(AssertionError::Expired);
        }
        let latest = now.0.saturating_add(rules.leeway_seconds);
        if claims.exp > latest.saturating_add(rules.life_max_seconds) {
            return Err(AssertionError::LivesTooLong);
        }
        if [claims.iat, claims.nbf]
            .into_iter()
            .flatten()
            .any(|from| from > latest)
        {
            return Err(AssertionError::NotYetValid);
        }
        if claims.jti.is_empty() || claims.jti.len() > JTI_BYTES_MAX {
            return Err(AssertionError::Id);
        }
        // By a clock that may be ahead of everybody else's.
        let earliest = claims
            .iat
            .unwrap_or_else(|| claims.exp.saturating_sub(rules.life_max_seconds))
            .saturating_sub(rules.leeway_seconds);
        Ok(ProvenAssertion {
            jti: claims.jti,
            issued_at: UnixSeconds(earliest),
            expires_at: UnixSeconds(claims.exp),
        })
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::*;
    use crate::{JwkSet, SigningKey};

    const NOW: UnixSeconds = UnixSeconds(1_790_000_000);
    const HERE: &str = "https://sts.example.com/zones/z1";
    const RULES: AssertionRules<'_> = AssertionRules {
        client_id: "app-1",
        audiences: &[HERE, "https://sts.example.com/zones/z1/oauth2/token"],
        life_max_seconds: 300,
        leeway_seconds: 30,
    };

    fn claims() -> Value {
        json!({"iss": "app-1", "sub": "app-1", "aud": HERE, "exp": NOW.0 + 60, "iat": NOW.0, "jti": "a-1"})
    }

    fn key(kid: &str) -> SigningKey {
        SigningKey::generate(kid.try_into().unwrap()).unwrap()
    }

    fn keys(of: &[&SigningKey]) -> KeySet {
        KeySet::from_jwks(&JwkSet {
            keys: of.iter().map(|key| key.jwk()).collect(),
        })
        .unwrap()
    }

    fn signed(key: &SigningKey, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        key.sign_raw(&encode(header), &encode(claims))
    }

    fn header() -> Value {
        json!({"alg": "ES256", "kid": "k1"})
    }

    fn with(member: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[member] = value;
        claims
    }

    fn verify(text: &str, keys: &KeySet) -> Result<ProvenAssertion, AssertionError> {
        UnverifiedAssertion::parse(text)
            .unwrap()
            .verify(keys, &RULES, NOW)
    }

    #[test]
    fn an_assertion_of_the_clients_key_proves_it() {
        let key = key("k1");
        let text = signed(&key, &header(), &claims());
        assert_eq!(
            UnverifiedAssertion::parse(&text).unwrap().unverified_subject(),
            "app-1"
        );
        let proven = verify(&text, &keys(&[&key])).unwrap();
        assert_eq!((proven.jti.as_str(), proven.expires_at), ("a-1", NOW + 60));
        assert_eq!(
            proven.issued_at,
            NOW - 30,
            "by a clock that is as far ahead as it may be"
        );
        let mut unsaid = claims();
        unsaid.as_object_mut().unwrap().remove("iat");
        let proven = verify(&signed(&key, &header(), &unsaid), &keys(&[&key])).unwrap();
        assert_eq!(proven.issued_at, NOW + 60 - 300 - 30, "as early as it can be");
    }

    #[test]
    fn a_key_id_is_needed_only_to_choose() {
        let (one, other) = (key("k1"), key("k2"));
        let text = signed(&one, &json!({"alg": "ES256"}), &claims());
        assert!(verify(&text, &keys(&[&one])).is_ok());
        assert_eq!(
            verify(&text, &keys(&[&one, &other])).unwrap_err(),
            AssertionError::UnknownKey
        );
        let text = signed(&other, &header(), &claims());
        assert_eq!(
            verify(&text, &keys(&[&one, &other])).unwrap_err(),
            AssertionError::Signature,
            "another key of the same client is another key"
        );
    }

    #[test]
    fn what_an_assertion_says_is_checked_to_the_letter() {
        use AssertionError as E;
        let key = key("k1");
        let keys = keys(&[&key]);
        let rows = [
            (with("iss", json!("app-2")), E::Client),
            (with("sub", json!("app-2")), E::Client),
            (with("aud", json!("https://other.example")), E::Audience),
            (with("aud", json!([HERE, "https://other.example"])), E::Audience),
            (with("aud", json!(format!("{HERE}/"))), E::Audience),
            (with("exp", json!(NOW.0 - 30)), E::Expired),
            (with("exp", json!(NOW.0 + 331)), E::LivesTooLong),
            (with("exp", json!(i64::MAX)), E::LivesTooLong),
            (with("iat", json!(NOW.0 + 31)), E::NotYetValid),
            (with("nbf", json!(NOW.0 + 31)), E::NotYetValid),
            (with("jti", json!("")), E::Id),
            (with("jti", json!("x".repeat(257))), E::Id),
        ];
        for (claims, error) in rows {
            let text = signed(&key, &header(), &claims);
            assert_eq!(verify(&text, &keys).unwrap_err(), error, "{claims}");
        }
        for good in [
            with("aud", json!([HERE])),
            with("aud", json!("https://sts.example.com/zones/z1/oauth2/token")),
            with("exp", json!(NOW.0 - 29)),
            with("exp", json!(NOW.0 + 330)),
        ] {
            assert!(verify(&signed(&key, &header(), &good), &keys).is_ok(), "{good}");
        }
    }

    #[test]
    fn what_is_not_an_assertion_is_not_read() {
        let key = key("k1");
        let without = |member: &str| {
            let mut claims = claims();
            claims.as_object_mut().unwrap().remove(member);
            claims
        };
        for header in [
            json!({"alg": "none"}),
            json!({"alg": "HS256", "kid": "k1"}),
            json!({"alg": "ES256", "crit": ["x"]}),
            json!({"alg": "ES256", "typ": "dpop+jwt"}),
            json!({"alg": "ES256", "typ": "at+jwt"}),
        ] {
            assert!(
                UnverifiedAssertion::parse(&signed(&key, &header, &claims())).is_err(),
                "{header}"
            );
        }
        for member in ["iss", "sub", "aud", "exp", "jti"] {
            let text = signed(&key, &header(), &without(member));
            assert!(UnverifiedAssertion::parse(&text).is_err(), "{member}");
        }
        for text in ["", "a.b", "a.b.c.d", "..", "a.b.c"] {
            assert!(UnverifiedAssertion::parse(text).is_err(), "{text}");
        }
    }
}
