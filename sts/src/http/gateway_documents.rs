//! What gateways keep here: whoever of them holds the lease may write, all may read
//! (`docs/contract/wire-formats.md`, "Documents of gateways").

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_chassis::server::{BodyError, read_body};
use caracal_storage::{StorageError, ZoneScope, gateway_document};
use caracal_token::envelope::{OpenError, SealError};
use caracal_wire::error::ErrorCode;
use caracal_wire::form::{self, Form};
use caracal_wire::gateway_document::{
    DOCUMENT_BYTES_MAX, GatewayDocument, LEASE_SECONDS_MAX, field, is_name,
};
use http::StatusCode;

use super::answer::{NO_STORE, error};
use super::gateway;
use crate::state::Sts;

/// A document in base64 and the other fields.
const BODY_BYTES_MAX: usize = DOCUMENT_BYTES_MAX / 3 * 4 + 1_024;
/// Longest name of a holder.
const HOLDER_BYTES_MAX: usize = 128;

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
enum NoDocument {
    #[error("not signed by a gateway")]
    Stranger(#[source] gateway::NotOurGateway),
    #[error("no name of a document")]
    Name,
    #[error("the body is too large")]
    TooLarge,
    #[error("the body cannot be read")]
    Malformed,
    #[error("leased by another")]
    Leased,
    #[error("not leased, or changed")]
    Changed,
    #[error("the database does not answer")]
    Storage(#[from] StorageError),
    #[error("the document cannot be sealed")]
    Seal(#[from] SealError),
    #[error("the document cannot be opened")]
    Open(#[from] OpenError),
}

/// `GET /internal/gateway/documents/{name}`. One statement.
pub(super) async fn read(
    State(sts): State<Arc<Sts>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let found = async {
        check(&sts, &name, request).await?;
        let mut tx = sts.database.read().await?;
        let found = gateway_document::find(&mut tx, &name).await?;
        found.map_or_else(
            || Ok(GatewayDocument::default()),
            |found| opened(&sts, &name, found),
        )
    };
    answer(&name, found.await)
}

/// `POST /internal/gateway/documents/{name}/lease`. One statement and a commit.
pub(super) async fn lease(
    State(sts): State<Arc<Sts>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let leased = async {
        let form = check(&sts, &name, request).await?;
        let holder = holder(&form)?;
        let seconds = form.get(field::SECONDS).and_then(|text| text.parse::<u32>().ok());
        let seconds = seconds
            .filter(|seconds| *seconds <= LEASE_SECONDS_MAX)
            .ok_or(NoDocument::Malformed)?;
        let mut tx = sts.database.write(ZoneScope::All).await?;
        let found = if seconds == 0 {
            gateway_document::release(&mut tx, &name, holder).await?;
            gateway_document::find(&mut tx, &name).await?
        } else {
            let leased = gateway_document::lease(&mut tx, &name, holder, seconds).await?;
            Some(leased.ok_or(NoDocument::Leased)?)
        };
        tx.commit().await?;
        found.map_or_else(
            || Ok(GatewayDocument::default()),
            |found| opened(&sts, &name, found),
        )
    };
    answer(&name, leased.await)
}

/// `POST /internal/gateway/documents/{name}`. One statement and a commit.
pub(super) async fn write(
    State(sts): State<Arc<Sts>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let written = async {
        let form = check(&sts, &name, request).await?;
        let holder = holder(&form)?;
        let version = form.get(field::VERSION).and_then(|text| text.parse::<i64>().ok());
        let version = version.ok_or(NoDocument::Malformed)?;
        let document = form.get(field::DOCUMENT).ok_or(NoDocument::Malformed)?;
        let document = URL_SAFE_NO_PAD
            .decode(document)
            .map_err(|_not_base64| NoDocument::Malformed)?;
        if document.len() > DOCUMENT_BYTES_MAX {
            return Err(NoDocument::TooLarge);
        }
        let envelope = sts.keyring.seal(&document, &location(&name))?;
        let mut tx = sts.database.write(ZoneScope::All).await?;
        let version = gateway_document::put(&mut tx, &name, holder, version, &envelope).await?;
        let version = version.ok_or(NoDocument::Changed)?;
        tx.commit().await?;
        Ok(GatewayDocument {
            version,
            document: None,
            is_leased: true,
        })
    };
    answer(&name, written.await)
}

/// Reads the body, and believes only a gateway.
async fn check(sts: &Sts, name: &str, request: Request) -> Result<Form, NoDocument> {
    let (parts, body) = request.into_parts();
    let body = match read_body(body, BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(BodyError::TooLarge(_)) => return Err(NoDocument::TooLarge),
        Err(BodyError::Broken(_)) => return Err(NoDocument::Malformed),
    };
    gateway::verify(
        sts,
        &parts.headers,
        parts.method.as_str(),
        parts.uri.path(),
        &body,
    )
    .map_err(NoDocument::Stranger)?;
    if !is_name(name) {
        return Err(NoDocument::Name);
    }
    form::parse(&body, &[]).map_err(|_malformed| NoDocument::Malformed)
}

fn holder(form: &Form) -> Result<&str, NoDocument> {
    form.get(field::HOLDER)
        .filter(|holder| (1..=HOLDER_BYTES_MAX).contains(&holder.len()))
        .ok_or(NoDocument::Malformed)
}

fn opened(
    sts: &Sts,
    name: &str,
    found: gateway_document::GatewayDocument,
) -> Result<GatewayDocument, NoDocument> {
    let opened = found
        .envelope
        .map(|envelope| sts.keyring.open(&envelope, &location(name)))
        .transpose()?;
    Ok(GatewayDocument {
        version: found.version,
        document: opened.map(|document| URL_SAFE_NO_PAD.encode(document.as_slice())),
        is_leased: found.is_leased,
    })
}

/// An envelope of one document opens as no other.
fn location(name: &str) -> Vec<u8> {
    format!("gateway_documents/{name}").into_bytes()
}

fn answer(name: &str, outcome: Result<GatewayDocument, NoDocument>) -> Response {
    let refusal = match outcome {
        Ok(document) => return (NO_STORE, axum::Json(document)).into_response(),
        Err(refusal) => refusal,
    };
    if !matches!(refusal, NoDocument::Leased) {
        let error = &refusal as &dyn std::error::Error;
        tracing::warn!(
            document = name,
            error,
            "refused a request for a document of gateways"
        );
    }
    let (status, code, description) = match refusal {
        NoDocument::Stranger(_) => (
            StatusCode::UNAUTHORIZED,
            ErrorCode::AccessDenied,
            "invalid gateway signature",
        ),
        NoDocument::Name => (
            StatusCode::NOT_FOUND,
            ErrorCode::ResourceNotFound,
            "no such document",
        ),
        NoDocument::TooLarge => (
            StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::PayloadTooLarge,
            "request body too large",
        ),
        NoDocument::Malformed => (
            StatusCode::BAD_REQUEST,
            ErrorCode::InvalidToken,
            "malformed request body",
        ),
        NoDocument::Leased => (
            StatusCode::CONFLICT,
            ErrorCode::OperationNotPermitted,
            "the document is leased by another",
        ),
        NoDocument::Changed => (
            StatusCode::CONFLICT,
            ErrorCode::OperationNotPermitted,
            "the document is not leased by the sender, or was changed",
        ),
        NoDocument::Storage(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::StsUnavailable,
            "documents of gateways unavailable",
        ),
        NoDocument::Seal(_) | NoDocument::Open(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::InternalError,
            "the document cannot be opened",
        ),
    };
    error(status, code, description, None)
}
