//! Which operations does the STS allow? (`docs/contract/wire-formats.md`, "Operations of a zone")

use caracal_model::ZoneId;
use caracal_wire::gateway_operations::{ENTRIES_BYTES_MAX, ZoneOperations, target};

use super::{Site, StsClient, StsError};

/// Longest answer: its entries, and a little JSON around them.
const ANSWER_BYTES_MAX: usize = ENTRIES_BYTES_MAX + 1_024;

impl StsClient {
    /// The declared operations of `zone`, unless they are those of version `known`.
    ///
    /// # Errors
    /// [`StsError`].
    pub(crate) async fn operations(
        &self,
        zone: &ZoneId,
        known: Option<i64>,
    ) -> Result<ZoneOperations, StsError> {
        let endpoint = target(zone, known);
        let write = |site: &Site| self.request(site, "GET", &endpoint, &[], None, true);
        let answer = self.ask(write, ANSWER_BYTES_MAX, self.timeout).await?;
        if answer.status != 200 {
            return Err(StsError::Status(answer.status));
        }
        serde_json::from_slice(&answer.body).map_err(|error| StsError::Unreadable(Box::new(error)))
    }
}
