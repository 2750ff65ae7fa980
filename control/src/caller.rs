//! On whose behalf does a use case run, and how is its work attributed?

use std::sync::Arc;

use caracal_model::ZoneId;
use caracal_storage::page::By;

use crate::admin_token::{AccountId, Actor};

/// Longest name taken from the attribution header, in characters.
const AUTHORIZED_BY_CHARACTERS_MAX: usize = 256;

/// An authenticated, authorized request, as far as use cases need to know it.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The token.
    pub(crate) actor: Arc<Actor>,
    /// The console account it speaks for.
    pub(crate) account: Option<AccountId>,
    /// The id of the request.
    pub(crate) request_id: String,
    /// HTTP method.
    pub(crate) method: String,
    /// Path without query.
    pub(crate) path: String,
    /// Whom changes are attributed to.
    by: String,
    /// Whether an assistant helped.
    via_operator: bool,
}

/// What a request says about itself.
#[derive(Debug)]
pub(crate) struct RequestFacts<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// Value of `x-caracal-authorized-by`.
    pub(crate) authorized_by: Option<&'a str>,
    /// Whether `x-caracal-created-via: operator` is there and the zone wants it shown.
    pub(crate) via_operator: bool,
}

impl Caller {
    /// A caller of an authorized request.
    ///
    /// Attribution headers are believed only from a derived console token: such a request carries a keyed assertion of
    /// the account it speaks for. Anybody else is attributed to the token that was used, whatever the headers say.
    pub(crate) fn new(actor: Arc<Actor>, account: Option<AccountId>, request: &RequestFacts<'_>) -> Self {
        let is_console = actor.origin.is_derived_console();
        let named = request
            .authorized_by
            .filter(|name| is_console && is_name(name))
            .map(str::to_owned);
        let by = named
            .or_else(|| account.as_ref().map(|account| account.as_str().to_owned()))
            .unwrap_or_else(|| format!("admin:{}", actor.id));
        Self {
            via_operator: is_console && request.via_operator,
            actor,
            account,
            request_id: request.request_id.to_owned(),
            method: request.method.to_owned(),
            path: request.path.to_owned(),
            by,
        }
    }

    /// Whom changes are attributed to.
    pub(crate) fn by(&self) -> By<'_> {
        By {
            name: &self.by,
            via_operator: self.via_operator,
        }
    }

    /// The console account that owns what is made without a zone.
    pub(crate) fn account_id(&self) -> Option<&str> {
        self.account.as_ref().map(AccountId::as_str)
    }
}

/// Letters, digits and a few marks of any script: `docs/contract/admin-api.md` section 3.4.
fn is_name(name: &str) -> bool {
    let permitted = |c: char| c.is_alphanumeric() || " @._+:'-".contains(c);
    (1..=AUTHORIZED_BY_CHARACTERS_MAX).contains(&name.chars().count()) && name.chars().all(permitted)
}

/// The zone a path names: the third segment of `/v1/zones/{zone}...`, decoded; `None` when it is not an id.
pub(crate) fn zone_of(path: &str) -> Option<ZoneId> {
    let rest = path.strip_prefix("/v1/zones/")?;
    let segment = rest.split('/').next()?;
    let decoded = percent_encoding::percent_decode_str(segment).decode_utf8().ok()?;
    decoded.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin_token::{Capability, Origin, Reach};

    fn caller(origin: Origin, authorized_by: Option<&str>) -> Caller {
        let actor = Actor {
            id: "t1".parse().unwrap(),
            name: "t".to_owned(),
            reach: Reach::Global,
            capability: Capability::Write,
            origin,
        };
        let request = RequestFacts {
            request_id: "r",
            method: "POST",
            path: "/v1/zones",
            authorized_by,
            via_operator: true,
        };
        Caller::new(Arc::new(actor), None, &request)
    }

    #[test]
    fn only_a_console_may_name_whom_a_change_is_attributed_to() {
        assert_eq!(
            caller(Origin::ConsoleWrite, Some("Zoë O'Neil")).by().name,
            "Zoë O'Neil"
        );
        assert!(caller(Origin::ConsoleWrite, None).by().via_operator);
        let other = caller(Origin::Issued("admin:x".to_owned()), Some("Zoë"));
        assert_eq!(
            other.by().name,
            "admin:t1",
            "the header of any other token is not believed"
        );
        assert!(!other.by().via_operator);
    }

    #[test]
    fn a_name_that_is_not_one_is_ignored() {
        for name in ["", "a\nb", "<b>", &"x".repeat(257)] {
            assert_eq!(
                caller(Origin::ConsoleWrite, Some(name)).by().name,
                "admin:t1",
                "{name:?}"
            );
        }
    }

    #[test]
    fn the_zone_is_read_from_the_path() {
        let zone = |path| zone_of(path).map(|zone: ZoneId| zone.to_string());
        assert_eq!(zone("/v1/zones/z1"), Some("z1".to_owned()));
        assert_eq!(zone("/v1/zones/z%31/applications"), Some("z1".to_owned()));
        assert_eq!(zone("/v1/zones/z%2F1"), None);
        assert_eq!(zone("/v1/zones/%ff"), None);
        assert_eq!(zone("/v1/zones/"), None);
        assert_eq!(zone("/v1/zones"), None);
        assert_eq!(zone("/v1/policies/validate"), None);
    }
}
