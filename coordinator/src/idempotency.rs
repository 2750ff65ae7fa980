//! How does a repeated request get the first one's answer? By a receipt, kept under a digest of the key.
//!
//! docs/contract/sessions-and-delegations.md, "Idempotency".

use aws_lc_rs::{digest, hmac};
use axum::http::{HeaderMap, StatusCode};
use caracal_model::ZoneId;
use caracal_storage::WriteTx;
use caracal_storage::idempotency::{self, Operation, Receipt};
use serde_json::Value;

use crate::config::IdempotencyKeys;
use crate::refusal::Refusal;

/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 255;
const HEADER: &str = "idempotency-key";
const KIND_HEADER: &str = "idempotency-key-kind";

/// A key as the caller sent it.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    text: String,
    /// Made by a client library, not chosen by its user: kept for a shorter time.
    is_generated: bool,
}

impl Key {
    /// Reads the header.
    ///
    /// # Errors
    /// 400 `idempotency_key_multiple`, `idempotency_key_invalid`.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let mut values = headers.get_all(HEADER).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(Refusal::bad_request("idempotency_key_multiple"));
        }
        let text = std::str::from_utf8(value.as_bytes()).unwrap_or_default();
        if text.is_empty()
            || text.trim() != text
            || text.len() > KEY_BYTES_MAX
            || text.chars().any(char::is_control)
        {
            return Err(Refusal::bad_request("idempotency_key_invalid"));
        }
        let is_generated = headers.get(KIND_HEADER).is_some_and(|kind| kind == "generated");
        Ok(Some(Self {
            text: text.to_owned(),
            is_generated,
        }))
    }
}

/// An operation that may have been done before.
#[derive(Debug)]
pub(crate) struct Guard<'a> {
    name: &'static str,
    zone: &'a ZoneId,
    scope: &'a str,
    key_digests: Vec<Vec<u8>>,
    lock: String,
    request_digest: Vec<u8>,
    keep_seconds: i64,
}

impl<'a> Guard<'a> {
    /// `request` is what the operation was asked to do, its caller included.
    pub(crate) fn new(
        keys: &IdempotencyKeys,
        name: &'static str,
        zone: &'a ZoneId,
        scope: &'a str,
        key: &Key,
        request: &Value,
    ) -> Self {
        let tagged = [
            b"caracal:coordinator:idempotency:v1\0".as_slice(),
            key.text.as_bytes(),
        ]
        .concat();
        let key_digests = [Some(&keys.current), keys.previous.as_ref()]
            .into_iter()
            .flatten()
            .map(|hmac_key| {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, hmac_key.expose()), &tagged)
                    .as_ref()
                    .to_vec()
            })
            .collect();
        let locked = [
            b"caracal:coordinator:idempotency-lock:v1\0".as_slice(),
            key.text.as_bytes(),
        ]
        .concat();
        Self {
            name,
            zone,
            scope,
            key_digests,
            lock: format!("{name}:{zone}:{scope}:{}", hex::encode(sha256(&locked))),
            // Members of a JSON object are kept sorted, so equal requests have equal text.
            request_digest: sha256(request.to_string().as_bytes()),
            keep_seconds: if key.is_generated {
                keys.keep_generated_seconds
            } else {
                keys.keep_seconds
            },
        }
    }

    fn operation(&self) -> Operation<'_> {
        Operation {
            name: self.name,
            zone_id: self.zone,
            scope_id: self.scope,
            key_digests: &self.key_digests,
            lock: &self.lock,
        }
    }

    /// Takes the key for this transaction. Gives the receipt of an earlier equal request.
    ///
    /// # Errors
    /// 409 `idempotency_key_conflict` for another request under the same key; 429 `idempotency_receipt_limit_exceeded`.
    pub(crate) async fn enter(
        &self,
        tx: &mut WriteTx,
        receipts_max: i64,
    ) -> Result<Option<Receipt>, Refusal> {
        match idempotency::lock(tx, &self.operation()).await? {
            Some(receipt) if receipt.request_digest == self.request_digest => Ok(Some(receipt)),
            Some(_other) => Err(Refusal::conflict("idempotency_key_conflict")),
            None if idempotency::count(tx, &self.operation()).await? >= receipts_max => {
                Err(Refusal::too_many("idempotency_receipt_limit_exceeded"))
            }
            None => Ok(None),
        }
    }

    /// Keeps the answer.
    ///
    /// # Errors
    /// 503 when the database is away.
    pub(crate) async fn leave(
        &self,
        tx: &mut WriteTx,
        resource_type: &str,
        resource_id: &str,
        body: &Value,
    ) -> Result<(), Refusal> {
        let receipt = Receipt {
            request_digest: self.request_digest.clone(),
            resource_id: resource_id.to_owned(),
            response_status: i16::try_from(StatusCode::CREATED.as_u16()).unwrap_or(201),
            response_json: body.clone(),
        };
        Ok(idempotency::insert(tx, &self.operation(), resource_type, &receipt, self.keep_seconds).await?)
    }
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}
