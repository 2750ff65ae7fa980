//! Bodies: forms that clients send, and answers of the token endpoint that the gateway reads.

use caracal_wire::form;
use caracal_wire::sts::{RevocationSnapshot, TokenResponse};

const REPEATABLE: &[&str] = &["resource"];
const NAMES: [&str; 4] = ["grant_type", "resource", "scope", "client_secret"];

/// A field that may not be repeated has one value, and a form that was read says the same once it is written and read
/// again.
pub(crate) fn form(bytes: &[u8]) {
    let Ok(read) = form::parse(bytes, REPEATABLE) else {
        return;
    };
    for name in NAMES {
        let all = read.all(name);
        assert_eq!(read.get(name), all.first().copied());
        assert_eq!(read.contains(name), !all.is_empty());
        assert!(all.len() <= 1 || REPEATABLE.contains(&name), "{name} is repeated");
        for value in all {
            let again = form::encode(&[(name, value)]);
            let again = form::parse(again.as_bytes(), &[]).expect("what was written can be read");
            assert_eq!(again.get(name), Some(value));
        }
    }
    assert!(
        !format!("{read:?}").contains("client_secret="),
        "a value is shown"
    );
}

/// Reading an answer never panics, and its secrets are never shown.
pub(crate) fn token_answer(bytes: &[u8]) {
    if let Ok(answer) = serde_json::from_slice::<TokenResponse>(bytes)
        && answer.access_token.len() > 16
    {
        assert!(!format!("{answer:?}").contains(&answer.access_token));
    }
    if let Ok(snapshot) = serde_json::from_slice::<RevocationSnapshot>(bytes) {
        for revoked in &snapshot.revocations {
            let _named_or_not = revoked.anchor();
        }
    }
}
