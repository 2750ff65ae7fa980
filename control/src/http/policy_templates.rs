//! `/v1/policy-templates`

use axum::response::Response;
use serde_json::{Value, json};

use super::answer::ok;
use crate::policy::TEMPLATES;

/// A bare array: there are few and they never change.
pub(super) async fn list() -> Response {
    let templates: Vec<Value> = TEMPLATES
        .iter()
        .map(|template| {
            json!({
                "id": template.id,
                "name": template.name,
                "description": template.description,
                "content": template.content,
            })
        })
        .collect();
    ok(templates)
}
