//! Which credentials follow from the one bootstrap token of the environment?
//!
//! `docs/contract/admin-api.md` section 2.3. The derived values let a console act with less authority than the
//! bootstrap token without another secret to distribute.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_chassis::Secret;

use super::actor::{Capability, Origin};

/// One credential that must exist at every start.
#[derive(Debug)]
pub(crate) struct SeededToken {
    /// Shown in the list of tokens.
    pub(crate) name: &'static str,
    /// Where it comes from; also its key when the environment value is rotated.
    pub(crate) origin: Origin,
    /// What it may do.
    pub(crate) capability: Capability,
    /// The credential.
    pub(crate) value: Secret,
}

/// The bootstrap token and its three derived console tokens.
pub(crate) fn seeded_tokens(bootstrap: &Secret) -> [SeededToken; 4] {
    let derived = |label| derive(bootstrap, label);
    [
        SeededToken {
            name: "bootstrap",
            origin: Origin::Bootstrap,
            capability: Capability::Write,
            value: bootstrap.clone(),
        },
        SeededToken {
            name: "console-read-only",
            origin: Origin::ConsoleRead,
            capability: Capability::Read,
            value: derived("caracal:console:read-only:v1"),
        },
        SeededToken {
            name: "console-write",
            origin: Origin::ConsoleWrite,
            capability: Capability::Write,
            value: derived("caracal:console:write:v1"),
        },
        SeededToken {
            name: "console-approve",
            origin: Origin::ConsoleApprove,
            capability: Capability::Approve,
            value: derived("caracal:console:approve:v1"),
        },
    ]
}

fn derive(bootstrap: &Secret, label: &str) -> Secret {
    let key = hmac::Key::new(hmac::HMAC_SHA256, bootstrap.expose().as_bytes());
    let tag = hmac::sign(&key, label.as_bytes());
    Secret::new(format!("cat_{}", URL_SAFE_NO_PAD.encode(tag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_tokens_are_keyed_by_the_bootstrap_token_and_distinct() {
        let [_, read, write, approve] = seeded_tokens(&Secret::from("bootstrap-token-for-the-test"));
        let other = seeded_tokens(&Secret::from("another-token-for-the-test"));
        let values = [&read.value, &write.value, &approve.value];
        for value in values {
            assert!(value.expose().starts_with("cat_") && value.expose().len() == 4 + 43);
        }
        assert_ne!(read.value.expose(), write.value.expose());
        assert_ne!(write.value.expose(), approve.value.expose());
        assert_ne!(read.value.expose(), other[1].value.expose());
    }

    #[test]
    fn the_derivation_is_the_published_one() {
        // Recomputed with: printf '%s' caracal:console:read-only:v1 | openssl dgst -sha256 -hmac k -binary | base64
        let [_, read, ..] = seeded_tokens(&Secret::from("k"));
        assert_eq!(
            read.value.expose(),
            "cat_vnatIomGMlyQ08xGIbXTOpfdZsXd3dgRknf9VNi_fTc"
        );
    }
}
