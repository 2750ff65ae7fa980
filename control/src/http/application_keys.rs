//! `/v1/zones/{zone}/applications/{id}/keys`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use caracal_model::{ApplicationId, ZoneId};
use caracal_token::{Jwk, JwkSet};
use serde_json::Value;

use super::answer::{no_content, ok};
use super::extract::Ids;
use crate::application::keys::{self, KEYS_MAX};
use crate::body::Body;
use crate::caller::Caller;
use crate::control::Control;
use crate::refusal::{Code, Refusal};

pub(super) async fn find(
    State(control): State<Arc<Control>>,
    Ids((zone, id)): Ids<(ZoneId, ApplicationId)>,
) -> Result<Response, Refusal> {
    Ok(ok(keys::find(&control, &zone, &id).await?))
}

pub(super) async fn put(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, ApplicationId)>,
    mut body: Body,
) -> Result<Response, Refusal> {
    if !body.has("keys") {
        body.problem(&["keys"], "Required");
    }
    let read = body.optional_objects("keys", 1..=KEYS_MAX, |entry| {
        let key = serde_json::from_value::<Jwk>(Value::Object(entry.members().clone()));
        key.map_err(|error| entry.problem(&[], &error.to_string())).ok()
    });
    let set = JwkSet {
        keys: read.unwrap_or_default().into_iter().flatten().collect(),
    };
    if let Err(error) = keys::check(&set) {
        body.problem(&["keys"], &error.to_string());
    }
    body.finish_strict(Code::InvalidApplicationKeys)?;
    let stored = keys::put(&control, &caller, &zone, &id, &set, body.members()).await?;
    Ok(ok(stored))
}

pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, ApplicationId)>,
) -> Result<Response, Refusal> {
    keys::delete(&control, &caller, &zone, &id).await?;
    Ok(no_content())
}
