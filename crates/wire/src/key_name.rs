//! Under which name is this kept in the store that replicas share?
//!
//! Names are part of the contract (`docs/contract/streams.md`, "Keys"), so that old and new replicas can run side by side.

use caracal_model::id::TokenId;

use crate::digest::sha256_hex;

/// Marks a one-shot mandate as used; kept until the token has expired, leeway included.
pub fn seen_token(token: &TokenId) -> String {
    format!("seen:jti:{token}")
}

/// Marks a proof of possession as used, wherever it was used: by the thumbprint of its key and its id.
pub fn used_proof(key: &str, id: &str) -> String {
    used_once("proof", &[key, id])
}

/// Marks something as used that is good once: a client assertion, a proof of possession, an ID token. Hashed, so that nobody
/// decides how long a name is; with lengths, so that two different lists of parts do not look alike.
pub fn used_once(kind: &str, parts: &[&str]) -> String {
    let lengths: Vec<[u8; 8]> = parts
        .iter()
        .map(|part| u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes())
        .collect();
    let pieces: Vec<&[u8]> = lengths
        .iter()
        .zip(parts)
        .flat_map(|(length, part)| [length.as_slice(), part.as_bytes()])
        .collect();
    format!("caracal:sts:once:{kind}:{}", sha256_hex(&pieces))
}

/// Counts failed authentications of an application. The id is hashed: it is the client's text and may be anything.
pub fn authentication_failures(application_id: &str) -> String {
    format!("auth-rl:{}", sha256_hex(&[application_id.as_bytes()]))
}

/// Marks an application as locked out after too many failures.
pub fn authentication_blocked(application_id: &str) -> String {
    format!("{}:blocked", authentication_failures(application_id))
}

/// The lease of the one replica that refreshes a stored connection.
pub fn connection_refresh_lock(connection_id: &str) -> String {
    format!("{}:lock", connection_refresh(connection_id))
}

/// The outcome of that refresh, for the replicas that waited.
pub fn connection_refresh_result(connection_id: &str) -> String {
    format!("{}:result", connection_refresh(connection_id))
}

fn connection_refresh(connection_id: &str) -> String {
    format!(
        "provider-refresh:{}",
        sha256_hex(&[b"connection\0", connection_id.as_bytes()])
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_names_hold() {
        assert_eq!(
            authentication_failures("app-1"),
            "auth-rl:5eb7e725e6bac43f2a906437aa7be080081de786a7d12f7b9649be47b69d6ca0"
        );
        assert_eq!(
            connection_refresh_lock("conn-1"),
            "provider-refresh:1d3e43ee4f7a27922f64fbfe3bd8d6fc98066690dc0ace66ec5fe9db91e88fef:lock"
        );
        assert_eq!(seen_token(&"t1".parse().unwrap()), "seen:jti:t1");
        let digest = "e42f64040458c5d1844c0c3556e82198f770995e8ecb5ac564413b6f1239db94";
        assert_eq!(
            used_proof("key-1", "id-1"),
            format!("caracal:sts:once:proof:{digest}")
        );
    }
}
