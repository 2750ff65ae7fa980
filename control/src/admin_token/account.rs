//! Which console account does a derived token speak for?
//!
//! A derived console token is shared by all console accounts, so the console names the account in a keyed, expiring
//! assertion (`docs/contract/admin-api.md` section 2.5). Without the key no assertion can be true, and a derived token
//! is refused.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_chassis::Secret;

const ACCOUNT_ID_BYTES_MAX: usize = 256;

/// Header that carries the assertion.
pub(crate) const ACCOUNT_HEADER: &str = "x-caracal-account";

/// A console account that an assertion named.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct AccountId(String);

impl AccountId {
    /// The id as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Reads an assertion `v1.<account>.<expiry>.<mac>`; `None` for anything that is not provably true at
/// `now_unix_seconds`.
pub(crate) fn verify(assertion: &str, key: &Secret, now_unix_seconds: i64) -> Option<AccountId> {
    let mut parts = assertion.split('.');
    let (version, account, expiry, tag) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version != "v1" || parts.next().is_some() {
        return None;
    }
    let account = String::from_utf8(URL_SAFE_NO_PAD.decode(account).ok()?).ok()?;
    if account.is_empty()
        || account.len() > ACCOUNT_ID_BYTES_MAX
        || !expiry.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes());
    let signed = format!("caracal:account:v1:{account}:{expiry}");
    hmac::verify(&key, signed.as_bytes(), &URL_SAFE_NO_PAD.decode(tag).ok()?).ok()?;
    (expiry.parse::<i64>().ok()? > now_unix_seconds).then_some(AccountId(account))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn assertion(key: &str, account: &str, expiry: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
        let tag = hmac::sign(&key, format!("caracal:account:v1:{account}:{expiry}").as_bytes());
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        format!(
            "v1.{}.{expiry}.{}",
            encode(account.as_bytes()),
            encode(tag.as_ref())
        )
    }

    #[test]
    fn a_true_assertion_names_the_account() {
        let text = assertion("key", "acct:1 é", "1800000001");
        assert_eq!(
            verify(&text, &Secret::from("key"), NOW).unwrap().as_str(),
            "acct:1 é"
        );
    }

    #[test]
    fn anything_else_is_refused() {
        let key = Secret::from("key");
        let long = "x".repeat(257);
        let forged = [
            assertion("other", "acct", "1800000001"),
            assertion("key", "acct", "1800000000"),
            assertion("key", "acct", "-1"),
            assertion("key", "acct", "+1800000001"),
            assertion("key", "", "1800000001"),
            assertion("key", &long, "1800000001"),
            assertion("key", "acct", "1800000001").replace("v1.", "v2."),
            assertion("key", "acct", "1800000001") + ".x",
            assertion("key", "acct", "1800000001").replace(".1800000001.", ".1800000002."),
            String::new(),
            "v1..".to_owned(),
        ];
        for text in forged {
            assert_eq!(verify(&text, &key, NOW), None, "{text}");
        }
    }
}
