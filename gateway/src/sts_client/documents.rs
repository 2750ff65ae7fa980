//! What do gateways keep at the STS? (`docs/contract/wire-formats.md`, "Documents of gateways")

use caracal_wire::form;
use caracal_wire::gateway_document::{DOCUMENT_BYTES_MAX, GatewayDocument, field, lease_path, path};

use super::link::Answer;
use super::{SNAPSHOT_TIMEOUT, Site, StsClient, StsError};

/// Longest answer: a document in base64, and a little JSON.
const ANSWER_BYTES_MAX: usize = DOCUMENT_BYTES_MAX / 3 * 4 + 1_024;

impl StsClient {
    /// The document of this name as it is.
    ///
    /// # Errors
    /// [`StsError`].
    pub(crate) async fn document(&self, name: &str) -> Result<GatewayDocument, StsError> {
        let answer = self.call("GET", &path(name), "").await?;
        read(&answer)?.ok_or(StsError::Status(answer.status))
    }

    /// Takes the lease for so many seconds, or gives it back for 0; the document as it is under it, or `None` when another has it.
    ///
    /// # Errors
    /// [`StsError`].
    pub(crate) async fn lease_document(
        &self,
        name: &str,
        holder: &str,
        seconds: u32,
    ) -> Result<Option<GatewayDocument>, StsError> {
        let seconds = seconds.to_string();
        let form = form::encode(&[(field::HOLDER, holder), (field::SECONDS, &seconds)]);
        read(&self.call("POST", &lease_path(name), &form).await?)
    }

    /// Writes `document` over the version that was read; the new version, or `None` without the lease or over another version.
    ///
    /// # Errors
    /// [`StsError`]. Whether it was written is then not known.
    pub(crate) async fn write_document(
        &self,
        name: &str,
        holder: &str,
        version: i64,
        document: &str,
    ) -> Result<Option<i64>, StsError> {
        let version = version.to_string();
        let form = form::encode(&[
            (field::HOLDER, holder),
            (field::VERSION, &version),
            (field::DOCUMENT, document),
        ]);
        let written = read(&self.call("POST", &path(name), &form).await?)?;
        Ok(written.map(|document| document.version))
    }

    async fn call(&self, method: &str, endpoint: &str, form: &str) -> Result<Answer, StsError> {
        let write = |site: &Site| self.request(site, method, endpoint, form.as_bytes(), None, true);
        self.ask(write, ANSWER_BYTES_MAX, SNAPSHOT_TIMEOUT).await
    }
}

/// `None` for 409: somebody else was first.
fn read(answer: &Answer) -> Result<Option<GatewayDocument>, StsError> {
    match answer.status {
        200 => serde_json::from_slice(&answer.body)
            .map(Some)
            .map_err(|error| StsError::Unreadable(Box::new(error))),
        409 => Ok(None),
        status => Err(StsError::Status(status)),
    }
}
