//! The signing keys of a zone, for administrators: which there are, and a new one.
//!
//! Neither route exists without an administrator's token in the settings.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use caracal_chassis::server::RequestId;
use caracal_model::{UnixSeconds, ZoneId};
use caracal_wire::error::ErrorCode;
use caracal_wire::form;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;

use super::answer::{NO_STORE, error};
use crate::key::{self, CreateKeyError, Rotation, Urgency};
use crate::state::Sts;
use crate::zone::{ZoneError, ZoneModel};

/// `GET /internal/zones/{zone}/signing-keys`: every key of a zone and where in its life it is, as this replica sees it.
pub(super) async fn list(
    State(sts): State<Arc<Sts>>,
    Path(zone_id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let zone = match admit(&sts, &headers, zone_id).await {
        Ok(zone) => zone,
        Err(refusal) => return refusal,
    };
    let now = UnixSeconds(sts.clock.unix_seconds());
    let body =
        json!({"zone_id": zone.id, "version": zone.version, "as_of": now, "keys": zone.keys.views(now)});
    (NO_STORE, axum::Json(body)).into_response()
}

/// `POST /internal/zones/{zone}/signing-key/rotate`: the next signing key of a zone.
pub(super) async fn rotate(
    State(sts): State<Arc<Sts>>,
    Path(zone_id): Path<String>,
    RawQuery(query): RawQuery,
    request_id: RequestId,
    headers: HeaderMap,
) -> Response {
    let zone = match admit(&sts, &headers, zone_id).await {
        Ok(zone) => zone,
        Err(refusal) => return refusal,
    };
    let Some(urgency) = urgency(query.as_deref().unwrap_or_default()) else {
        let description = "urgency must be planned, emergency or compromise";
        return error(
            StatusCode::BAD_REQUEST,
            ErrorCode::InvalidToken,
            description,
            None,
        );
    };
    match key::rotate(&sts, &zone.id, urgency, request_id.as_str()).await {
        Ok(rotation) => rotated(&zone.id, &rotation),
        Err(CreateKeyError::TooMany(_)) => error(
            StatusCode::CONFLICT,
            ErrorCode::OperationNotPermitted,
            "too many signing keys of the zone may still verify",
            None,
        ),
        Err(failure) => {
            tracing::error!(zone.id = %zone.id, error = &failure as &dyn std::error::Error, "a signing key was not rotated");
            error(
                StatusCode::INTERNAL_SERVER_ERROR,
                ErrorCode::InternalError,
                "rotation failed",
                None,
            )
        }
    }
}

fn rotated(zone: &ZoneId, rotation: &Rotation) -> Response {
    let body = json!({
        "kid": rotation.kid,
        "rotated": rotation.is_new,
        "zone_id": zone,
        "signs_from": rotation.signs_from,
        "withdrawn": rotation.withdrawn,
    });
    (NO_STORE, axum::Json(body)).into_response()
}

/// How the caller is in a hurry; `None` for a word or a parameter that is not known.
fn urgency(query: &str) -> Option<Urgency> {
    if query.is_empty() {
        return Some(Urgency::Planned);
    }
    let form = form::parse(query.as_bytes(), &[]).ok()?;
    match form.get("urgency")? {
        "planned" => Some(Urgency::Planned),
        "emergency" => Some(Urgency::Emergency),
        "compromise" => Some(Urgency::Compromise),
        _ => None,
    }
}

/// The administrator's token, then the zone.
async fn admit(sts: &Sts, headers: &HeaderMap, zone_id: String) -> Result<Arc<ZoneModel>, Response> {
    let Some(admin_token) = &sts.admin_token else {
        return Err((StatusCode::NOT_FOUND, "not found\n").into_response());
    };
    let authorization = headers
        .get(header::AUTHORIZATION)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    if !authorization
        .strip_prefix(b"Bearer ")
        .is_some_and(|token| admin_token.matches(token))
    {
        let realm = HeaderValue::from_static("Bearer realm=\"caracal-sts\"");
        let realm = [(header::WWW_AUTHENTICATE, realm)];
        return Err((StatusCode::UNAUTHORIZED, realm, "unauthorized\n").into_response());
    }
    let not_found = || {
        error(
            StatusCode::NOT_FOUND,
            ErrorCode::ResourceNotFound,
            "zone not found",
            None,
        )
    };
    let Ok(zone) = ZoneId::try_from(zone_id) else {
        return Err(not_found());
    };
    sts.zones
        .model(&zone)
        .await
        .map_err(|error_of_zone| match error_of_zone {
            ZoneError::Unknown => not_found(),
            ZoneError::Unavailable => error(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::StsUnavailable,
                "zone configuration unavailable",
                None,
            ),
        })
}
