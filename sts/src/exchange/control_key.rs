//! May this application call the remote control endpoint, and for how long?
//!
//! A *control key* is an application whose traits say so. It exchanges its secret for a resource mandate for the control
//! audience without policy, sessions or delegations: its traits are the grant (`docs/contract/token-exchange.md`, section
//! "Control keys").

use std::collections::BTreeSet;

use caracal_model::UnixSeconds;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::request::ExchangeRequest;

/// Every scope of the control endpoint begins so.
const SCOPE_PREFIX: &str = "control:";

/// What the traits of a control key allow.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ControlKey {
    scopes: BTreeSet<String>,
    /// When it stops working: the earliest of its `control:expires:` traits.
    pub(crate) expires_at: Option<UnixSeconds>,
    /// Longest life of its mandates, in seconds, at least 1.
    pub(crate) ttl_max_seconds: Option<i64>,
}

impl ControlKey {
    /// Reads the traits of an application; `None` when it is no control key. An expiry that cannot be read has passed.
    pub(crate) fn of_traits(traits: &[String]) -> Option<Self> {
        if !traits.iter().any(|held| held == "control:invoke") {
            return None;
        }
        let values = |prefix: &'static str| traits.iter().filter_map(move |held| held.strip_prefix(prefix));
        let expiry = |text: &str| {
            let at = OffsetDateTime::parse(text, &Rfc3339);
            UnixSeconds(at.map_or(i64::MIN, OffsetDateTime::unix_timestamp))
        };
        Some(Self {
            scopes: values("control:scope:").map(str::to_owned).collect(),
            expires_at: values("control:expires:").map(expiry).min(),
            ttl_max_seconds: values("control:max-ttl:")
                .filter_map(|text| text.parse().ok())
                .find(|seconds| *seconds > 0),
        })
    }

    /// Whether it may have what is asked for. The request must be a pure one, see [`is_pure`].
    pub(crate) fn allows(&self, request: &ExchangeRequest, audience: &str, now: UnixSeconds) -> bool {
        is_pure(request, audience)
            && self.expires_at.is_none_or(|end| end > now)
            && request.scopes.iter().all(|scope| self.scopes.contains(scope))
    }
}

/// Whether a request asks for the control endpoint and for nothing else: no subject token, no session, no delegation, no other
/// resource, and at least one scope, all of them `control:`.
pub(crate) fn is_pure(request: &ExchangeRequest, audience: &str) -> bool {
    request.subject_token.is_none()
        && request.session_id.is_none()
        && request.agent_session_id.is_none()
        && request.delegation_edge_id.is_none()
        && !request.resources.is_empty()
        && request.resources.iter().all(|resource| resource == audience)
        && !request.scopes.is_empty()
        && request.scopes.iter().all(|scope| scope.starts_with(SCOPE_PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(traits: &[&str]) -> Option<ControlKey> {
        let traits: Vec<String> = traits.iter().map(|held| (*held).to_owned()).collect();
        ControlKey::of_traits(&traits)
    }

    #[test]
    fn traits_make_a_control_key_and_bound_it() {
        assert_eq!(key(&["control:scope:control:app:read"]), None);
        let plain = key(&["control:invoke"]).unwrap();
        assert_eq!((plain.ttl_max_seconds, plain.expires_at), (None, None));
        let bounded = key(&[
            "control:invoke",
            "control:max-ttl:soon",
            "control:max-ttl:0",
            "control:max-ttl:120",
            "control:max-ttl:60",
            "control:expires:2030-01-01T00:00:00Z",
            "control:expires:2029-01-01T00:00:00+01:00",
        ])
        .unwrap();
        assert_eq!(bounded.ttl_max_seconds, Some(120), "the first that can be read");
        assert_eq!(
            bounded.expires_at,
            Some(UnixSeconds(1_861_916_400)),
            "the earliest"
        );
        let unreadable = key(&["control:invoke", "control:expires:never"]).unwrap();
        assert_eq!(unreadable.expires_at, Some(UnixSeconds(i64::MIN)));
    }
}
