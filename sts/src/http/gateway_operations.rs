//! Which operations of a zone's resources are declared? For gateways, which then refuse what would be refused here
//! (`docs/contract/wire-formats.md`, "Operations of a zone").

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use caracal_model::ZoneId;
use caracal_wire::error::ErrorCode;
use caracal_wire::form;
use caracal_wire::gateway_operations::{ENTRIES_BYTES_MAX, EnforcedResource, ZoneOperations, parameter};
use http::StatusCode;

use super::answer::{NO_STORE, error};
use super::gateway;
use crate::state::Sts;
use crate::zone::{ZoneError, ZoneModel};

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    /// `None` for what can be no zone.
    zone: Option<ZoneId>,
    /// The version that is known already.
    known: Option<i64>,
}

/// `GET /internal/gateway/operations`. The answer is what a refusal would be decided by: one statement, for all who ask in a
/// tenth of a second, makes sure that no newer configuration is waiting.
pub(super) async fn operations(State(sts): State<Arc<Sts>>, request: Request) -> Response {
    let parts = match gateway::signed(&sts, request, "operations").await {
        Ok(parts) => parts,
        Err(refusal) => return refusal,
    };
    let Some(question) = read(parts.uri.query().unwrap_or_default()) else {
        return error(
            StatusCode::BAD_REQUEST,
            ErrorCode::InvalidToken,
            "malformed query",
            None,
        );
    };
    match present(&sts, question.zone.as_ref()).await {
        Ok(zone) => {
            let answer = ZoneOperations {
                version: zone.version,
                resources: (question.known != Some(zone.version)).then(|| enforced(&sts, &zone)),
            };
            (NO_STORE, axum::Json(answer)).into_response()
        }
        Err(ZoneError::Unknown) => error(
            StatusCode::NOT_FOUND,
            ErrorCode::ResourceNotFound,
            "zone not found",
            None,
        ),
        Err(ZoneError::Unavailable) => error(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::StsUnavailable,
            "zone configuration unavailable",
            None,
        ),
    }
}

fn read(query: &str) -> Option<Question> {
    let query = form::parse(query.as_bytes(), &[]).ok()?;
    Some(Question {
        zone: query
            .get(parameter::ZONE_ID)
            .and_then(|zone| zone.try_into().ok()),
        known: match query.get(parameter::VERSION) {
            Some(version) => Some(version.parse().ok()?),
            None => None,
        },
    })
}

/// The zone as of now.
async fn present(sts: &Sts, zone: Option<&ZoneId>) -> Result<Arc<ZoneModel>, ZoneError> {
    let zone = zone.ok_or(ZoneError::Unknown)?;
    let model = sts.zones.model(zone).await?;
    if sts.zones.catch_up(zone, Some(model.version)).await {
        return sts.zones.model(zone).await;
    }
    Ok(model)
}

/// As many as may be told. About the others gateways know nothing, so that they are decided here.
fn enforced(sts: &Sts, zone: &ZoneModel) -> Vec<EnforcedResource> {
    let mut left = ENTRIES_BYTES_MAX;
    let mut told = Vec::new();
    let mut untold = 0_usize;
    for mut resource in zone.enforced() {
        if !sts.settings.ambient_at_gateway {
            resource.reusable_by = None;
        }
        let entry_bytes = serde_json::to_vec(&resource).map_or(usize::MAX, |entry| entry.len() + 1);
        if let Some(rest) = left.checked_sub(entry_bytes) {
            left = rest;
            told.push(resource);
        } else {
            untold += 1;
        }
    }
    if untold > 0 {
        tracing::warn!(zone.id = %zone.id, untold, "gateways are not told the operations of all resources");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_zone_and_at_most_a_number() {
        let question = |zone: Option<&str>, known| {
            Some(Question {
                zone: zone.map(|zone| zone.parse().unwrap()),
                known,
            })
        };
        for (query, expected) in [
            ("zone_id=z1", question(Some("z1"), None)),
            ("zone_id=z1&version=-7", question(Some("z1"), Some(-7))),
            ("", question(None, None)),
            ("zone_id=", question(None, None)),
            ("zone_id=%20", question(None, None)),
            ("zone_id=z1&version=", None),
            ("zone_id=z1&version=x", None),
            ("zone_id=z1&zone_id=z2", None),
        ] {
            assert_eq!(read(query), expected, "{query}");
        }
    }
}
