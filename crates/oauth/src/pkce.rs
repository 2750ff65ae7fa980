//! What goes into the browser when a user connects an account (RFC 6749 section 4.1.1, RFC 7636)?

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::error::Unspecified;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use url::Url;

use crate::client::OAuthClient;

/// 256 random bits in base64url: a state, a code verifier, a token id.
///
/// # Errors
/// When the operating system gives no randomness.
pub fn random_text() -> Result<String, Unspecified> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The challenge of `verifier`, method `S256` (RFC 7636 section 4.2).
pub fn s256(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()))
}

/// Where to send the browser; `None` when the client has no authorization endpoint or no redirect URI.
pub fn authorization_url(client: &OAuthClient, state: &str, code_verifier: &str) -> Option<Url> {
    let mut url = client.authorization_endpoint.clone()?;
    let redirect_uri = client.redirect_uri.as_deref()?;
    {
        let mut query = url.query_pairs_mut();
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", &client.client_id)
            .append_pair("redirect_uri", redirect_uri)
            .append_pair("state", state)
            .append_pair("code_challenge", &s256(code_verifier))
            .append_pair("code_challenge_method", "S256");
        if let Some(scope) = client.scope() {
            query.append_pair("scope", &scope);
        }
        for (name, value) in &client.authorization_params {
            query.append_pair(name, value);
        }
    }
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_is_that_of_the_standard() {
        // RFC 7636 appendix B.
        assert_eq!(
            s256("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
        );
        assert_eq!(random_text().unwrap().len(), 43);
        assert_ne!(random_text().unwrap(), random_text().unwrap());
    }
}
