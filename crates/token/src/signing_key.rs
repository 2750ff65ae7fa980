//! Who signs a mandate? A zone's P-256 key, created, stored and used here.

use std::fmt;

use aws_lc_rs::encoding::AsBigEndian as _;
use aws_lc_rs::error::{KeyRejected, Unspecified};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_model::KeyId;
use p256::pkcs8::LineEnding;
use zeroize::Zeroizing;

use crate::{Claims, Jwk, MandateMacKey};

/// Why a signing key cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// AWS-LC could not make or export a key.
    #[error("the cryptographic library failed")]
    Library(#[from] Unspecified),
    /// AWS-LC does not accept the key pair.
    #[error("the key pair is not acceptable")]
    Rejected(#[from] KeyRejected),
    /// The text is not the PEM form of a SEC1 P-256 private key.
    ///
    /// Carries no source: a parser's message may quote the key.
    #[error("not an EC PRIVATE KEY of P-256 in PEM form")]
    Pem,
}

/// Why claims could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The claims could not be written as JSON.
    #[error("the claims cannot be written")]
    Claims(#[from] serde_json::Error),
    /// AWS-LC could not sign.
    #[error("the cryptographic library failed")]
    Library(#[from] Unspecified),
}

/// What a token says it is, in its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenType {
    /// `JWT`, as published verifiers expect.
    #[default]
    Jwt,
    /// `at+jwt`, an access token by the profile of RFC 9068.
    AccessToken,
}

/// A zone signing key: ES256, named by its key id.
pub struct SigningKey {
    kid: KeyId,
    jwk: Jwk,
    pair: EcdsaKeyPair,
    header: Header,
    /// The same with `at+jwt`.
    access_token_header: Header,
}

/// The header of every token of one type.
struct Header {
    /// `{"alg":"ES256","kid":…,"typ":"JWT"`, open at the end.
    members: Box<str>,
    /// Closed, in base64url, followed by a dot.
    segment: Box<str>,
}

impl Header {
    fn new(kid: &KeyId, typ: &str) -> Self {
        // A key id needs no escaping in JSON: its alphabet is [A-Za-z0-9._:-].
        let members = format!(r#"{{"alg":"ES256","kid":"{kid}","typ":"{typ}""#);
        let segment = URL_SAFE_NO_PAD.encode(format!("{members}}}")) + ".";
        Self {
            members: members.into(),
            segment: segment.into(),
        }
    }
}

impl SigningKey {
    /// A fresh random key.
    ///
    /// # Errors
    /// [`KeyError::Library`] when AWS-LC fails.
    pub fn generate(kid: KeyId) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        Self::from_pair(kid, pair)
    }

    /// Reads a key from its stored form: PEM `EC PRIVATE KEY` (RFC 5915, SEC1 section C.4).
    ///
    /// # Errors
    /// [`KeyError::Pem`] for anything else; [`KeyError::Rejected`] when AWS-LC refuses the key.
    pub fn from_sec1_pem(kid: KeyId, pem: &str) -> Result<Self, KeyError> {
        let secret = p256::SecretKey::from_sec1_pem(pem).or(Err(KeyError::Pem))?;
        let point = secret.public_key().to_sec1_bytes();
        let scalar = Zeroizing::new(<[u8; 32]>::from(secret.to_bytes()));
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            scalar.as_slice(),
            &point,
        )?;
        Self::from_pair(kid, pair)
    }

    /// Writes the key in its stored form; the text is wiped when dropped.
    ///
    /// # Errors
    /// [`KeyError::Library`] when AWS-LC does not export the key.
    pub fn to_sec1_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        let scalar = self.pair.private_key().as_be_bytes()?;
        let secret = p256::SecretKey::from_slice(scalar.as_ref()).or(Err(KeyError::Pem))?;
        secret.to_sec1_pem(LineEnding::LF).or(Err(KeyError::Pem))
    }

    /// The id of the key, `kid` of every token it signs.
    pub fn kid(&self) -> &KeyId {
        &self.kid
    }

    /// The public half, for publication.
    pub fn jwk(&self) -> Jwk {
        self.jwk.clone()
    }

    /// Signs `claims` into a compact ES256 token (RFC 7515 section 7.1, RFC 7518 section 3.4).
    ///
    /// About 20 microseconds of processor time.
    ///
    /// # Errors
    /// [`SignError`] when the claims cannot be written or AWS-LC fails.
    pub fn sign(&self, claims: &Claims) -> Result<String, SignError> {
        self.sign_as(TokenType::Jwt, claims, None)
    }

    /// As [`SigningKey::sign`], naming the type of the token in its header, and with a MAC there for who shares its key.
    ///
    /// # Errors
    /// As [`SigningKey::sign`].
    pub fn sign_as(
        &self,
        token_type: TokenType,
        claims: &Claims,
        mac: Option<&MandateMacKey>,
    ) -> Result<String, SignError> {
        let header = match token_type {
            TokenType::Jwt => &self.header,
            TokenType::AccessToken => &self.access_token_header,
        };
        let payload = URL_SAFE_NO_PAD.encode(serde_json::to_vec(claims)?);
        let mut token = String::with_capacity(header.segment.len() + payload.len() + 144);
        if let Some(mac) = mac {
            URL_SAFE_NO_PAD.encode_string(mac.header(&header.members, &payload), &mut token);
            token.push('.');
        } else {
            token.push_str(&header.segment);
        }
        token.push_str(&payload);
        let signature = self.pair.sign(&SystemRandom::new(), token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        Ok(token)
    }

    /// Signs segments as they are, for tests of what others send.
    #[cfg(test)]
    pub(crate) fn sign_raw(&self, header: &str, payload: &str) -> String {
        let input = format!("{header}.{payload}");
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    fn from_pair(kid: KeyId, pair: EcdsaKeyPair) -> Result<Self, KeyError> {
        let point = pair.public_key().as_ref();
        let jwk = Jwk::from_uncompressed_point(kid.clone(), point).ok_or(KeyError::Library(Unspecified))?;
        Ok(Self {
            header: Header::new(&kid, "JWT"),
            access_token_header: Header::new(&kid, "at+jwt"),
            kid,
            jwk,
            pair,
        })
    }
}

/// Names the key and never shows it.
impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SigningKey")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}
