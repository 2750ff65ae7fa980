//! Where is the document of all replicas, and who may change it now? At the token service, under a lease.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_wire::gateway_document::GatewayDocument;

use super::document::{Document, DocumentError, DocumentSeal};
use crate::sts_client::{StsClient, StsError};

/// How long an order may take, with the others of the same round not counted; then another replica may try.
pub(super) const LEASE_SECONDS: u32 = 240;

/// Why the document is not known or not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The token service did not help.
    #[error("the token service does not keep it")]
    Sts(#[from] StsError),
    /// It cannot be sealed.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Another replica has written, or holds the lease.
    #[error("another gateway has taken over")]
    TakenOver,
}

/// The document as it was read.
pub(super) struct Kept {
    /// Which writing of it this is.
    pub(super) version: i64,
    /// What it says.
    pub(super) document: Document,
    /// Whether somebody works on it.
    pub(super) is_leased: bool,
}

/// The document of one authority.
#[derive(Debug)]
pub(super) struct Store {
    sts: Arc<StsClient>,
    seal: DocumentSeal,
    name: String,
    /// A name no other replica has.
    holder: String,
}

impl Store {
    /// The document `name`, sealed with `seal`.
    pub(super) fn new(sts: Arc<StsClient>, seal: DocumentSeal, name: String) -> Self {
        Self {
            sts,
            seal,
            name,
            holder: uuid::Uuid::new_v4().to_string(),
        }
    }

    /// Reads it. One call.
    ///
    /// # Errors
    /// [`StoreError::Sts`].
    pub(super) async fn read(&self) -> Result<Kept, StoreError> {
        let answer = self.sts.document(&self.name).await?;
        self.open(&answer)
    }

    /// Takes or keeps the lease; `None` when another replica has it. One call.
    ///
    /// # Errors
    /// [`StoreError::Sts`].
    pub(super) async fn lease(&self) -> Result<Option<Kept>, StoreError> {
        let answer = self
            .sts
            .lease_document(&self.name, &self.holder, LEASE_SECONDS)
            .await?;
        answer.map(|answer| self.open(&answer)).transpose()
    }

    /// Gives the lease back. One call.
    pub(super) async fn release(&self) {
        if let Err(error) = self.sts.lease_document(&self.name, &self.holder, 0).await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the lease ends by itself"
            );
        }
    }

    /// Writes it. One call.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn write(&self, kept: &mut Kept) -> Result<(), StoreError> {
        let sealed = URL_SAFE_NO_PAD.encode(self.seal.seal(&kept.document)?);
        let written = self
            .sts
            .write_document(&self.name, &self.holder, kept.version, &sealed)
            .await?;
        kept.version = written.ok_or(StoreError::TakenOver)?;
        Ok(())
    }

    /// What was written by a gateway with another key is of no use: it is begun anew. What opens and cannot be read was written by
    /// another version, and is left to it.
    fn open(&self, answer: &GatewayDocument) -> Result<Kept, StoreError> {
        let sealed = answer.document.as_deref();
        let sealed = sealed.map(|text| URL_SAFE_NO_PAD.decode(text).unwrap_or_default());
        let document = match sealed.map(|sealed| self.seal.open(&sealed)) {
            None => Document::default(),
            Some(Ok(document)) => document,
            Some(Err(error @ DocumentError::Open(_))) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the certificates that are kept cannot be read and are obtained anew"
                );
                Document::default()
            }
            Some(Err(error)) => return Err(error.into()),
        };
        Ok(Kept {
            version: answer.version,
            document,
            is_leased: answer.is_leased,
        })
    }
}
