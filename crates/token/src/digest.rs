//! How are token bytes named without keeping them? By SHA-256.

use aws_lc_rs::digest::{SHA256, digest as sha};

/// SHA-256 of `bytes` (FIPS 180-4).
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    let sum = sha(&SHA256, bytes);
    out.iter_mut()
        .zip(sum.as_ref())
        .for_each(|(to, from)| *to = *from);
    out
}

/// The name of a bearer in logs and evidence: the first 16 hex digits of its SHA-256.
///
/// Enough to correlate two records, useless to whoever reads them (`docs/contract/mandate.md`,
/// section "Fingerprint").
pub fn fingerprint(bearer: &str) -> String {
    let digest = digest(bearer.as_bytes());
    hex::encode(digest.first_chunk::<8>().unwrap_or(&[0; 8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_the_published_one() {
        assert_eq!(fingerprint("aaa.bbb.ccc"), "ce887a8eece06ba3");
    }

    #[test]
    fn the_digest_is_sha_256() {
        // FIPS 180-4 example: the empty message.
        assert_eq!(
            hex::encode(digest(b"")),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
