//! What is in this: the form of an exchange, its signature, the JSON of its answer.

use std::hint::black_box;

use anyhow::ensure;
use caracal_wire::sts::{ACCESS_TOKEN_TYPE, TOKEN_EXCHANGE_GRANT, TOKEN_PATH, TokenResponse, field};
use caracal_wire::{form, gateway_signature};
use serde_json::json;

use crate::Step;

/// A key of signatures.
const KEY: [u8; 32] = [7; 32];
/// When a signature was made.
const NOW: i64 = 1_790_000_000;
/// A number used once, as a gateway draws it.
const NONCE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

pub(crate) fn steps() -> anyhow::Result<Vec<Step>> {
    // As long as a mandate with one delegation.
    let mandate = "x".repeat(1_100);
    let fields = [
        (field::APPLICATION_ID, "0199a1b2-0000-7000-8000-000000000001"),
        (field::GATEWAY_REQUEST_ID, "0199a1b2-0000-7000-8000-000000000002"),
        (field::GRANT_TYPE, TOKEN_EXCHANGE_GRANT),
        (field::REQUEST_METHOD, "GET"),
        (field::REQUEST_PATH, "/v1/customers"),
        (field::RESOURCE, "resource://crm"),
        (field::SUBJECT_TOKEN, &mandate),
        (field::SUBJECT_TOKEN_TYPE, ACCESS_TOKEN_TYPE),
        (field::ZONE_ID, "0199a1b2-0000-7000-8000-000000000003"),
    ];
    let body = form::encode(&fields);
    ensure!(form::parse(body.as_bytes(), &[])?.get(field::SUBJECT_TOKEN) == Some(mandate.as_str()));
    let owned = fields.map(|(name, value)| (name, value.to_owned()));
    let answer = json!({
        "access_token": mandate, "token_type": "Bearer", "expires_in": 300, "scope": "crm:read",
        "issued_token_type": ACCESS_TOKEN_TYPE, "target_resources": ["resource://crm"],
        "upstreams": {"resource://crm": {
            "url": "https://crm.example.com", "auth_mode": "provider_apikey", "auth_location": "header",
            "auth_header": "X-Api-Key", "allowed_token_hosts": [], "provider_token": "key", "forward_caracal_identity": false,
        }},
    })
    .to_string();
    let parsed: TokenResponse = serde_json::from_str(&answer)?;
    let signature = gateway_signature::sign(&KEY, NOW, NONCE, "POST", TOKEN_PATH, body.as_bytes());
    let (to_parse, to_sign) = (body.clone(), body.clone());
    Ok(vec![
        Step::of("form encode", move || {
            let fields = owned.each_ref().map(|(name, value)| (*name, value.as_str()));
            form::encode(black_box(&fields))
        }),
        Step::of("form parse", move || {
            form::parse(black_box(to_parse.as_bytes()), &[])
        }),
        Step::of("answer to JSON", move || serde_json::to_vec(black_box(&parsed))),
        Step::of("answer from JSON", move || {
            serde_json::from_str::<TokenResponse>(black_box(&answer))
        }),
        Step::of("exchange sign", move || {
            gateway_signature::sign(
                &KEY,
                NOW,
                NONCE,
                "POST",
                TOKEN_PATH,
                black_box(to_sign.as_bytes()),
            )
        }),
        Step::of("exchange verify", move || {
            let presented = gateway_signature::Presented {
                timestamp: "1790000000",
                nonce: NONCE,
                signature: &signature,
            };
            gateway_signature::verify(
                &KEY,
                &presented,
                "POST",
                TOKEN_PATH,
                black_box(body.as_bytes()),
                NOW,
            )
        }),
    ])
}
