//! Under which identifier is a resource known, and where does the gateway forward to?

use url::Url;

use crate::refusal::{Code, Refusal};

/// Checks an identifier: an absolute URI (RFC 3986) without user information that is not a provider's.
///
/// # Errors
/// [`Code::InvalidResourceIdentifier`].
pub(super) fn check_identifier(identifier: &str) -> Result<(), Refusal> {
    let is_plain = !identifier.chars().any(|c| c.is_whitespace() || c.is_control());
    let url = Url::parse(identifier)
        .ok()
        .filter(|url| url.scheme() != "provider" && url.username().is_empty() && url.password().is_none());
    if is_plain && url.is_some() {
        return Ok(());
    }
    Err(Refusal::because(
        Code::InvalidResourceIdentifier,
        "Expected an absolute URI without user information, such as resource://crm",
    ))
}

/// Whether the gateway can forward to this address.
pub(crate) fn is_upstream(address: &str) -> bool {
    let url = Url::parse(address)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"));
    url.is_some_and(|url| {
        url.host_str().is_some()
            && url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_absolute_uris() {
        for good in [
            "resource://crm",
            "https://api.example/v1",
            "urn:example:crm",
            "caracal-control:x",
        ] {
            assert!(check_identifier(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "crm",
            "/crm",
            "provider://crm",
            "https://u@api.example",
            "resource://a b",
            "a\nb:c",
        ] {
            assert!(check_identifier(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn upstreams_are_http() {
        assert!(is_upstream("http://127.0.0.1:9000/base"));
        for bad in [
            "ftp://a",
            "https://",
            "api.example",
            "https://u:p@a.example",
            "https://a.example/#x",
        ] {
            assert!(!is_upstream(bad), "{bad}");
        }
    }
}
