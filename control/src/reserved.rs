//! Which names belong to the platform itself?
//!
//! `docs/contract/admin-api.md` section 3.5: only the bootstrap token creates or renames into them.

use crate::admin_token::Actor;
use crate::refusal::{Code, Refusal};

const NAME: &str = "caracal.sys/";
const SLUG: &str = "caracal-sys-";
const RESOURCE: &str = "caracal-sys://";
const PROVIDER: &str = "provider://caracal-sys-";

/// Whether the name of a zone, application or policy is reserved.
pub(crate) fn is_reserved_name(name: &str) -> bool {
    starts_with(name, NAME)
}

/// Whether the slug of a zone is reserved.
pub(crate) fn is_reserved_slug(slug: &str) -> bool {
    starts_with(slug, SLUG)
}

/// Refuses a reserved name to everybody but the bootstrap token.
///
/// # Errors
/// [`Code::ReservedNamespace`].
pub(crate) fn check_name(actor: &Actor, name: &str) -> Result<(), Refusal> {
    check(
        actor,
        is_reserved_name(name),
        "names that begin with caracal.sys/",
    )
}

/// As [`check_name`], for the slug of a zone.
///
/// # Errors
/// [`Code::ReservedNamespace`].
pub(crate) fn check_slug(actor: &Actor, slug: &str) -> Result<(), Refusal> {
    check(
        actor,
        is_reserved_slug(slug),
        "slugs that begin with caracal-sys-",
    )
}

/// As [`check_name`], for the identifier of a resource.
///
/// # Errors
/// [`Code::ReservedNamespace`].
pub(crate) fn check_resource(actor: &Actor, identifier: &str) -> Result<(), Refusal> {
    check(
        actor,
        starts_with(identifier, RESOURCE),
        "identifiers that begin with caracal-sys://",
    )
}

/// As [`check_name`], for the identifier of a provider.
///
/// # Errors
/// [`Code::ReservedNamespace`].
pub(crate) fn check_provider(actor: &Actor, identifier: &str) -> Result<(), Refusal> {
    check(
        actor,
        starts_with(identifier, PROVIDER),
        "identifiers that begin with provider://caracal-sys-",
    )
}

fn check(actor: &Actor, is_reserved: bool, what: &str) -> Result<(), Refusal> {
    if is_reserved && !actor.is_bootstrap() {
        return Err(Refusal::because(
            Code::ReservedNamespace,
            format!("{what} are reserved for the platform"),
        ));
    }
    Ok(())
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.trim().to_lowercase().starts_with(prefix)
}
