//! Which issuers of users does a zone believe? Making, changing and ending them (`docs/contract/federation.md`, "Issuers").

use caracal_model::{SubjectIssuerId, ZoneId};
use caracal_storage::page::Page;
use caracal_storage::subject_issuer::{self, NewSubjectIssuer, SubjectIssuer};
use caracal_storage::{StorageError, ZoneScope, revocation_cascade, zone};
use serde_json::{Map, Value};
use url::Url;
use uuid::Uuid;

use crate::caller::Caller;
use crate::change::{Change, Done, Kind};
use crate::control::Control;
use crate::refusal::{Code, Refusal};

/// Most issuers of one zone: a token service keeps all of them in memory.
const ISSUERS_PER_ZONE_MAX: i64 = 20;
const ISSUER_KEY: &str = "subject_issuers_zone_issuer_key";

/// Whether `text` is the `https` URL of a host, without user information, query and fragment. Issuers are compared byte for
/// byte, so the text is kept as it is.
pub(crate) fn is_issuer_url(text: &str) -> bool {
    let has_more = text.contains(['?', '#']) || text.chars().any(|c| c.is_whitespace() || c.is_control());
    !has_more
        && Url::parse(text).is_ok_and(|url| {
            url.scheme() == "https"
                && url.host_str().is_some_and(|host| !host.is_empty())
                && url.username().is_empty()
                && url.password().is_none()
        })
}

/// Issuers of a zone.
pub(crate) async fn list(
    control: &Control,
    zone: &ZoneId,
    page: &Page,
) -> Result<Vec<SubjectIssuer>, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    Ok(subject_issuer::list(&mut tx, zone, page).await?)
}

/// One issuer.
pub(crate) async fn find(
    control: &Control,
    zone: &ZoneId,
    id: &SubjectIssuerId,
) -> Result<SubjectIssuer, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    let found = subject_issuer::find(&mut tx, zone, id).await?;
    found.ok_or_else(|| Code::SubjectIssuerNotFound.into())
}

/// Believes an issuer from now on.
pub(crate) async fn create(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    (issuer, jwks_url, audience): (&str, &str, &str),
    members: &Map<String, Value>,
) -> Result<SubjectIssuer, Refusal> {
    let id = SubjectIssuerId::try_from(Uuid::now_v7().to_string()).map_err(Refusal::internal)?;
    let mut change = Change::in_zone(control, caller, zone).await?;
    // The row of the zone is locked, so that two who add the last one do not both fit.
    if zone::lock(change.tx(), zone).await?.is_none() {
        return Err(Code::ZoneNotFound.into());
    }
    if !subject_issuer::has_room(change.tx(), zone, ISSUERS_PER_ZONE_MAX).await? {
        return Err(Code::SubjectIssuerLimitReached.into());
    }
    let new = NewSubjectIssuer {
        id: &id,
        issuer,
        jwks_url,
        audience,
    };
    let made = subject_issuer::insert(change.tx(), zone, &new, caller.by())
        .await
        .map_err(conflict)?;
    change
        .commit(done(zone, &id, 201, Kind::Create, Some(members)))
        .await?;
    Ok(made)
}

/// Changes where an issuer's keys are, or whom its tokens are for.
pub(crate) async fn patch(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &SubjectIssuerId,
    (jwks_url, audience): (Option<&str>, Option<&str>),
    members: &Map<String, Value>,
) -> Result<SubjectIssuer, Refusal> {
    let mut change = Change::in_zone(control, caller, zone).await?;
    // Whoever is being signed in on the issuer's word gets in before this, or not at all.
    revocation_cascade::lock_out(change.tx(), zone).await?;
    let changed = subject_issuer::update(change.tx(), zone, id, jwks_url, audience, caller.by())
        .await?
        .ok_or(Code::SubjectIssuerNotFound)?;
    change
        .commit(done(zone, id, 200, Kind::Update, Some(members)))
        .await?;
    Ok(changed)
}

/// Stops believing an issuer. Mandates that were given on its word stay until they end or are revoked.
pub(crate) async fn archive(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &SubjectIssuerId,
) -> Result<(), Refusal> {
    let mut change = Change::in_zone(control, caller, zone).await?;
    revocation_cascade::lock_out(change.tx(), zone).await?;
    if !subject_issuer::archive(change.tx(), zone, id, caller.by()).await? {
        return Err(Code::SubjectIssuerNotFound.into());
    }
    change.commit(done(zone, id, 204, Kind::Delete, None)).await
}

fn done<'a>(
    zone: &'a ZoneId,
    id: &'a SubjectIssuerId,
    status: u16,
    kind: Kind,
    members: Option<&'a Map<String, Value>>,
) -> Done<'a> {
    Done {
        status,
        kind,
        entity: ("subject-issuers", id.as_str()),
        zone,
        members,
    }
}

fn conflict(error: StorageError) -> Refusal {
    match error.conflict() {
        Some(ISSUER_KEY) => Code::SubjectIssuerExists.into(),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::is_issuer_url;

    #[test]
    fn an_issuer_is_an_https_url_and_nothing_more() {
        for text in ["https://idp.example", "https://idp.example:8443/tenant/a/"] {
            assert!(is_issuer_url(text), "{text}");
        }
        for text in [
            "",
            "idp.example",
            "http://idp.example",
            "https://",
            "https://a@idp.example",
            "https://:b@idp.example",
            "https://idp.example?x",
            "https://idp.example/#",
            " https://idp.example",
            "https://idp.example/a\tb",
            "ftp://idp.example",
        ] {
            assert!(!is_issuer_url(text), "{text}");
        }
    }
}
