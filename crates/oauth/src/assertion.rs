//! How is a JWT assertion signed with a key of the operator (RFC 7523)?

use std::fmt;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Map, Value};

/// The curves, with the name of their signature (RFC 7518 section 3.4).
static CURVES: [(&str, &EcdsaSigningAlgorithm); 3] = [
    ("ES256", &ECDSA_P256_SHA256_FIXED_SIGNING),
    ("ES384", &ECDSA_P384_SHA384_FIXED_SIGNING),
    ("ES512", &ECDSA_P521_SHA512_FIXED_SIGNING),
];

/// Why a key cannot be used. Carries no source: a parser's message may quote the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not PEM of a PKCS#8, PKCS#1 or SEC1 private key.
    #[error("not a private key in PEM form")]
    Pem,
    /// Neither RSA of 2048 to 8192 bits nor one of the curves P-256, P-384 and P-521.
    #[error("not an RSA key or a key of the curves P-256, P-384 and P-521")]
    Algorithm,
    /// The certificate is not PEM, or belongs to another key.
    #[error("not a certificate of this key")]
    Certificate,
}

/// Why an assertion could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum AssertionError {
    /// The claims could not be written as JSON.
    #[error("the claims cannot be written")]
    Claims(#[from] serde_json::Error),
    /// AWS-LC could not sign.
    #[error("the cryptographic library failed")]
    Library(#[from] Unspecified),
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ec(&'static str, EcdsaKeyPair),
}

/// A private key of the operator that signs assertions: RS256 for RSA, ES256, ES384 or ES512 by curve.
pub struct AssertionKey {
    pair: Pair,
    key_id: Option<String>,
    /// SHA-1 and SHA-256 of the certificate (RFC 7515 sections 4.1.7 and 4.1.8), base64url.
    thumbprints: Option<(String, String)>,
}

impl fmt::Debug for AssertionKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("AssertionKey")
            .field("algorithm", &self.algorithm())
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl AssertionKey {
    /// Reads a private key; `key_id` goes into the header as `kid`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pem(pem: &str, key_id: Option<String>) -> Result<Self, KeyError> {
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).or(Err(KeyError::Pem))?;
        let pair = match &key {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der())
                .ok()
                .map(|pair| Pair::Rsa(Box::new(pair))),
            PrivateKeyDer::Sec1(der) => CURVES.iter().find_map(|(name, curve)| {
                let pair = EcdsaKeyPair::from_private_key_der(curve, der.secret_sec1_der()).ok()?;
                Some(Pair::Ec(name, pair))
            }),
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                let rsa = RsaKeyPair::from_pkcs8(der).ok();
                rsa.map(|pair| Pair::Rsa(Box::new(pair))).or_else(|| {
                    CURVES.iter().find_map(|(name, curve)| {
                        Some(Pair::Ec(name, EcdsaKeyPair::from_pkcs8(curve, der).ok()?))
                    })
                })
            }
            _ => None,
        };
        Ok(Self {
            pair: pair.ok_or(KeyError::Algorithm)?,
            key_id,
            thumbprints: None,
        })
    }

    /// The same key with the thumbprints of its certificate in the header.
    ///
    /// # Errors
    /// [`KeyError::Certificate`], also when the certificate does not contain this public key.
    pub fn with_certificate(mut self, pem: &str) -> Result<Self, KeyError> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).or(Err(KeyError::Certificate))?;
        let der = certificate.as_ref();
        let public = match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_ref(),
            Pair::Ec(_, pair) => pair.public_key().as_ref(),
        };
        if !der.windows(public.len()).any(|window| window == public) {
            return Err(KeyError::Certificate);
        }
        self.thumbprints = Some((
            URL_SAFE_NO_PAD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, der)),
            URL_SAFE_NO_PAD.encode(digest(&SHA256, der)),
        ));
        Ok(self)
    }

    /// The `alg` of its signatures.
    pub fn algorithm(&self) -> &'static str {
        match &self.pair {
            Pair::Rsa(_) => "RS256",
            Pair::Ec(name, _) => name,
        }
    }

    /// The public key, `SubjectPublicKeyInfo` in DER: for whoever checks the signature.
    ///
    /// # Errors
    /// [`AssertionError::Library`].
    pub fn public_der(&self) -> Result<Vec<u8>, AssertionError> {
        let der = match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_der()?.as_ref().to_vec(),
            Pair::Ec(_, pair) => pair.public_key().as_der()?.as_ref().to_vec(),
        };
        Ok(der)
    }

    /// Signs `claims`, to which a random `jti` is added.
    ///
    /// # Errors
    /// [`AssertionError`].
    pub(crate) fn sign(&self, mut claims: Map<String, Value>) -> Result<String, AssertionError> {
        let mut header: Map<String, Value> = Map::new();
        let mut put = |name: &str, value: &str| header.insert(name.to_owned(), Value::from(value));
        put("alg", self.algorithm());
        put("typ", "JWT");
        if let Some(key_id) = &self.key_id {
            put("kid", key_id);
        }
        if let Some((sha1, sha256)) = &self.thumbprints {
            put("x5t", sha1);
            put("x5t#S256", sha256);
        }
        claims.insert("jti".to_owned(), Value::from(crate::pkce::random_text()?));
        let mut text = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header)?);
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(&claims)?, &mut text);
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signature)?;
                signature
            }
            Pair::Ec(_, pair) => pair.sign(&random, text.as_bytes())?.as_ref().to_vec(),
        };
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut text);
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
