//! `GET /.well-known/oauth-authorization-server/…/{zone}`: where everything is (RFC 8414).

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use caracal_model::ZoneId;
use caracal_wire::error::ErrorCode;
use caracal_wire::sts::{JWKS_PATH, TOKEN_EXCHANGE_GRANT};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::http::answer::error;
use crate::state::Sts;
use crate::zone::ZoneError;

const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("public, max-age=300, must-revalidate");
/// How a client may authenticate.
const CLIENT_AUTHENTICATION: [&str; 3] = ["client_secret_basic", "client_secret_post", "private_key_jwt"];
/// What client assertions may be signed with.
const ASSERTION_ALGORITHMS: [&str; 1] = ["ES256"];

/// The metadata of the zone that ends the path. Before it stands the path of the issuer, if it has one (RFC 8414 section 3.1).
pub(in crate::http) async fn metadata(State(sts): State<Arc<Sts>>, Path(path): Path<String>) -> Response {
    let Some(zone) = zone_of(&sts.issuer, &path) else {
        return not_found();
    };
    match sts.zones.model(&zone).await {
        Ok(_exists) => {}
        Err(ZoneError::Unknown) => return not_found(),
        Err(ZoneError::Unavailable) => {
            let description = "zone configuration unavailable";
            return error(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::StsUnavailable,
                description,
                None,
            );
        }
    }
    let headers = [(header::CACHE_CONTROL, CACHE_CONTROL)];
    let binds_certificates = !sts.settings.certificate_proxies.is_empty();
    let document = document(&sts.issuer, &zone, binds_certificates);
    (headers, axum::Json(document)).into_response()
}

fn not_found() -> Response {
    error(
        StatusCode::NOT_FOUND,
        ErrorCode::ResourceNotFound,
        "zone not found",
        None,
    )
}

/// `zones/{zone}`, after the path of the issuer.
fn zone_of(issuer: &str, path: &str) -> Option<ZoneId> {
    let after_scheme = issuer.split_once("://").map_or(issuer, |(_, rest)| rest);
    let issuer_path = after_scheme.split_once('/').map_or("", |(_, path)| path);
    let issuer_path = issuer_path.trim_matches('/');
    let rest = path.trim_start_matches('/').strip_prefix(issuer_path)?;
    let zone = rest.trim_start_matches('/').strip_prefix("zones/")?;
    ZoneId::try_from(zone).ok()
}

fn document(issuer: &str, zone: &ZoneId, binds_certificates: bool) -> Value {
    let base = issuer.trim_end_matches('/');
    let issuer = format!("{base}/zones/{zone}");
    json!({
        "issuer": issuer,
        "token_endpoint": format!("{issuer}/oauth2/token"),
        "introspection_endpoint": format!("{issuer}/oauth2/introspect"),
        "revocation_endpoint": format!("{issuer}/oauth2/revoke"),
        "jwks_uri": format!("{base}{JWKS_PATH}?zone_id={zone}"),
        // Required, and a list that is empty must be left out (RFC 8414 section 3.2): the registered word for no response.
        "response_types_supported": ["none"],
        "grant_types_supported": [TOKEN_EXCHANGE_GRANT],
        "token_endpoint_auth_methods_supported": CLIENT_AUTHENTICATION,
        "introspection_endpoint_auth_methods_supported": CLIENT_AUTHENTICATION,
        "revocation_endpoint_auth_methods_supported": CLIENT_AUTHENTICATION,
        "token_endpoint_auth_signing_alg_values_supported": ASSERTION_ALGORITHMS,
        "dpop_signing_alg_values_supported": caracal_token::dpop::ALGORITHMS,
        "tls_client_certificate_bound_access_tokens": binds_certificates,
        "introspection_endpoint_auth_signing_alg_values_supported": ASSERTION_ALGORITHMS,
        "revocation_endpoint_auth_signing_alg_values_supported": ASSERTION_ALGORITHMS,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zone_follows_the_path_of_the_issuer() {
        let zone = |issuer: &str, path: &str| zone_of(issuer, path).map(|zone| zone.to_string());
        assert_eq!(zone("https://sts.example.com", "zones/z1").as_deref(), Some("z1"));
        assert_eq!(
            zone("https://sts.example.com/", "zones/z1").as_deref(),
            Some("z1")
        );
        assert_eq!(
            zone("https://example.com/sts", "sts/zones/z1").as_deref(),
            Some("z1")
        );
        for (issuer, path) in [
            ("https://example.com/sts", "zones/z1"),
            ("https://sts.example.com", "z1"),
            ("https://sts.example.com", "zones/"),
            ("https://sts.example.com", "zones/z1/more"),
        ] {
            assert_eq!(zone(issuer, path), None, "{issuer} {path}");
        }
    }
}
