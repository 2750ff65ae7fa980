//! May this actor call this route?
//!
//! The order of the checks is the contract (`docs/contract/admin-api.md` section 2.4): the first that fails is the
//! answer. What needs the zone's row is asked by the caller in between, so that this file stays free of I/O.

use caracal_model::ZoneId;

use super::actor::{Actor, Capability, Reach};
use crate::refusal::Code;

/// What a route does, as far as authorization is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Reads, or computes an answer without changing anything.
    Read,
    /// Changes something.
    Write,
    /// Decides an approval.
    Decide,
}

/// Where a route belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Under one zone: `/v1/zones/{zone}...`.
    Zone,
    /// Without a zone; only for tokens that reach every zone.
    Platform,
    /// Without a zone, and open to zone tokens as well.
    Shared,
}

/// Checks 1 to 4: capability, then zone scope.
///
/// # Errors
/// The refusal of the first check that fails.
pub(crate) fn check(actor: &Actor, effect: Effect, place: Place, zone: Option<&ZoneId>) -> Result<(), Code> {
    match (actor.capability, effect) {
        (_, Effect::Read) | (Capability::Write, Effect::Write) | (Capability::Approve, Effect::Decide) => {}
        (Capability::Read, Effect::Write | Effect::Decide) => return Err(Code::AdminTokenReadOnly),
        (Capability::Approve, Effect::Write) => return Err(Code::AdminTokenApproveOnly),
        (Capability::Write, Effect::Decide) if actor.is_bootstrap() => {}
        (Capability::Write, Effect::Decide) => return Err(Code::ApproveCapabilityRequired),
    }
    match (&actor.reach, place) {
        (Reach::Global, _) | (Reach::Zone(_), Place::Shared) => Ok(()),
        (Reach::Zone(own), Place::Zone) if Some(own) == zone => Ok(()),
        (Reach::Zone(_), Place::Zone | Place::Platform) => Err(Code::AdminTokenZoneMismatch),
    }
}

/// What checks 5 and 6 need to know about the zone in the path.
#[derive(Debug, Clone)]
pub(crate) struct ZoneStanding {
    /// Its name.
    pub(crate) name: String,
    /// Its slug.
    pub(crate) slug: String,
    /// The account that owns it.
    pub(crate) owner_account_id: Option<String>,
}

impl ZoneStanding {
    /// Whether the zone belongs to the platform itself.
    pub(crate) fn is_reserved(&self) -> bool {
        crate::reserved::is_reserved_name(&self.name) || crate::reserved::is_reserved_slug(&self.slug)
    }
}

/// Check 5: only the bootstrap token changes a reserved zone.
///
/// # Errors
/// [`Code::SystemZoneReadOnly`].
pub(crate) fn check_reserved(
    actor: &Actor,
    effect: Effect,
    standing: Option<&ZoneStanding>,
) -> Result<(), Code> {
    let changes = !matches!(effect, Effect::Read);
    if changes && !actor.is_bootstrap() && standing.is_some_and(ZoneStanding::is_reserved) {
        return Err(Code::SystemZoneReadOnly);
    }
    Ok(())
}

/// Check 6: a console account reaches the zones it owns, and reads the reserved ones.
///
/// # Errors
/// [`Code::AccountScopeRequired`] on a route without a zone that accounts may not use; [`Code::ZoneForbidden`] for a
/// zone of somebody else, of nobody, or that does not exist.
pub(crate) fn check_account(
    account: &str,
    effect: Effect,
    zone: Option<&ZoneId>,
    open_to_accounts: bool,
    standing: Option<&ZoneStanding>,
) -> Result<(), Code> {
    if zone.is_none() {
        return if open_to_accounts {
            Ok(())
        } else {
            Err(Code::AccountScopeRequired)
        };
    }
    let Some(standing) = standing else {
        return Err(Code::ZoneForbidden);
    };
    let owns = standing.owner_account_id.as_deref() == Some(account);
    let reads_reserved = effect == Effect::Read && standing.is_reserved();
    if owns || reads_reserved {
        Ok(())
    } else {
        Err(Code::ZoneForbidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin_token::actor::Origin;

    fn actor(capability: Capability, zone: Option<&str>, origin: Origin) -> Actor {
        Actor {
            id: "t".parse().unwrap(),
            name: "t".to_owned(),
            reach: zone.map_or(Reach::Global, |zone| Reach::Zone(zone.parse().unwrap())),
            capability,
            origin,
        }
    }

    fn standing(name: &str, slug: &str, owner: Option<&str>) -> ZoneStanding {
        ZoneStanding {
            name: name.to_owned(),
            slug: slug.to_owned(),
            owner_account_id: owner.map(str::to_owned),
        }
    }

    #[test]
    fn each_capability_gets_exactly_its_effects() {
        use Capability::{Approve, Read, Write};
        let issued = || Origin::Issued("admin:x".to_owned());
        let table = [
            (Read, Effect::Read, Ok(())),
            (Read, Effect::Write, Err(Code::AdminTokenReadOnly)),
            (Read, Effect::Decide, Err(Code::AdminTokenReadOnly)),
            (Approve, Effect::Read, Ok(())),
            (Approve, Effect::Write, Err(Code::AdminTokenApproveOnly)),
            (Approve, Effect::Decide, Ok(())),
            (Write, Effect::Read, Ok(())),
            (Write, Effect::Write, Ok(())),
            (Write, Effect::Decide, Err(Code::ApproveCapabilityRequired)),
        ];
        for (capability, effect, expected) in table {
            let answer = check(&actor(capability, None, issued()), effect, Place::Platform, None);
            assert_eq!(answer, expected, "{capability:?} {effect:?}");
        }
        let bootstrap = actor(Write, None, Origin::Bootstrap);
        assert_eq!(
            check(&bootstrap, Effect::Decide, Place::Zone, None),
            Ok(()),
            "break-glass"
        );
    }

    #[test]
    fn a_zone_token_stays_in_its_zone() {
        let own = "z1".parse().unwrap();
        let other = "z2".parse().unwrap();
        let actor = actor(
            Capability::Write,
            Some("z1"),
            Origin::Issued("admin:x".to_owned()),
        );
        let reach = |place, zone| check(&actor, Effect::Read, place, zone);
        assert_eq!(reach(Place::Zone, Some(&own)), Ok(()));
        assert_eq!(reach(Place::Shared, None), Ok(()));
        assert_eq!(
            reach(Place::Zone, Some(&other)),
            Err(Code::AdminTokenZoneMismatch)
        );
        assert_eq!(
            reach(Place::Zone, None),
            Err(Code::AdminTokenZoneMismatch),
            "undecodable zone"
        );
        assert_eq!(reach(Place::Platform, None), Err(Code::AdminTokenZoneMismatch));
    }

    #[test]
    fn a_reserved_zone_is_read_only_for_all_but_bootstrap() {
        let issued = actor(Capability::Write, None, Origin::Issued("admin:x".to_owned()));
        let bootstrap = actor(Capability::Write, None, Origin::Bootstrap);
        for zone in [
            standing("Caracal.Sys/system", "x", None),
            standing("x", "CARACAL-SYS-internal", None),
        ] {
            assert_eq!(
                check_reserved(&issued, Effect::Write, Some(&zone)),
                Err(Code::SystemZoneReadOnly)
            );
            assert_eq!(check_reserved(&issued, Effect::Read, Some(&zone)), Ok(()));
            assert_eq!(check_reserved(&bootstrap, Effect::Write, Some(&zone)), Ok(()));
        }
        assert_eq!(
            check_reserved(&issued, Effect::Write, Some(&standing("a", "a", None))),
            Ok(())
        );
    }

    #[test]
    fn an_account_reaches_its_own_zones_only() {
        let zone = "z".parse().unwrap();
        let at = |effect, standing: Option<&ZoneStanding>| {
            check_account("me", effect, Some(&zone), false, standing)
        };
        assert_eq!(at(Effect::Write, Some(&standing("a", "a", Some("me")))), Ok(()));
        assert_eq!(
            at(Effect::Read, Some(&standing("a", "a", Some("you")))),
            Err(Code::ZoneForbidden)
        );
        assert_eq!(
            at(Effect::Read, Some(&standing("a", "a", None))),
            Err(Code::ZoneForbidden)
        );
        assert_eq!(
            at(Effect::Read, None),
            Err(Code::ZoneForbidden),
            "a missing zone is not told apart"
        );
        assert_eq!(
            at(Effect::Read, Some(&standing("caracal.sys/s", "s", None))),
            Ok(())
        );
        assert_eq!(check_account("me", Effect::Read, None, true, None), Ok(()));
        assert_eq!(
            check_account("me", Effect::Read, None, false, None),
            Err(Code::AccountScopeRequired)
        );
    }
}
