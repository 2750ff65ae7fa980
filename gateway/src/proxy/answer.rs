//! What does the gateway say when it answers by itself? Refusals and health, written here and nowhere else.

use bytes::Bytes;
use caracal_chassis::server::RequestId;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
};
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use serde_json::{Value, json};

use crate::denial::Denial;
use crate::header::REQUEST_ID;

/// Writes a document with a status (health and readiness).
pub(super) async fn document(
    session: &mut Session,
    status: u16,
    body: &Value,
    request_id: &RequestId,
) -> Result<()> {
    write(session, own_head(status, request_id)?, body.to_string()).await
}

/// Writes the answer to a certificate authority (RFC 8555 section 8.3).
pub(super) async fn proof(session: &mut Session, proof: String, request_id: &RequestId) -> Result<()> {
    let mut head = own_head(200, request_id)?;
    head.insert_header(CONTENT_TYPE, "application/octet-stream")?;
    write(session, head, proof).await
}

/// Sends the client to another address.
pub(super) async fn redirect(
    session: &mut Session,
    status: u16,
    location: &str,
    request_id: &RequestId,
) -> Result<()> {
    let mut head = ResponseHeader::build(status, Some(4))?;
    head.insert_header(LOCATION, location)?;
    head.insert_header(REQUEST_ID, request_id.as_str())?;
    write(session, head, String::new()).await
}

/// Writes a refusal (docs/contract/gateway.md, "Refusals").
pub(super) async fn refuse(session: &mut Session, denial: &Denial, request_id: &RequestId) -> Result<()> {
    let (head, body) = refusal(denial, request_id)?;
    write(session, head, body).await
}

/// Head and body of a refusal.
pub(super) fn refusal(denial: &Denial, request_id: &RequestId) -> Result<(ResponseHeader, String)> {
    let face = denial.face();
    let mut body = json!({"error": face.code, "requestId": request_id.as_str()});
    if let Some(members) = body
        .as_object_mut()
        .filter(|_members| !face.description.is_empty())
    {
        members.insert("error_description".to_owned(), json!(face.description));
    }
    let mut head = own_head(face.status, request_id)?;
    if let Some(challenge) = denial.challenge() {
        head.insert_header(WWW_AUTHENTICATE, challenge)?;
    }
    if let Some(seconds) = denial.retry_after_s() {
        head.insert_header(RETRY_AFTER, seconds)?;
    }
    if let Some(methods) = denial.allow() {
        head.insert_header(ALLOW, methods)?;
    }
    Ok((head, body.to_string()))
}

fn own_head(status: u16, request_id: &RequestId) -> Result<ResponseHeader> {
    let mut head = ResponseHeader::build(status, Some(8))?;
    head.insert_header(CONTENT_TYPE, "application/json")?;
    head.insert_header(CACHE_CONTROL, "no-store")?;
    head.insert_header(REQUEST_ID, request_id.as_str())?;
    Ok(head)
}

async fn write(session: &mut Session, mut head: ResponseHeader, body: String) -> Result<()> {
    head.insert_header(CONTENT_LENGTH, body.len())?;
    session.write_response_header(Box::new(head), false).await?;
    session.write_response_body(Some(Bytes::from(body)), true).await
}
