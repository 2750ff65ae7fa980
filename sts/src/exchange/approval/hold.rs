//! What has become of an approval, and what does that mean for whoever needs it? The same for applications and workloads.

use caracal_model::{ApprovalState, UnixMicros, ZoneId};
use caracal_storage::approval::{self, Approval, Raised};
use caracal_storage::{StorageError, ZoneScope};
use caracal_wire::approval::{HUMAN_APPROVAL, HoldBody};
use caracal_wire::error::ErrorCode;
use serde_json::json;
use uuid::Uuid;

use crate::exchange::refusal::Refusal;
use crate::state::Sts;

/// What the 401 answer says about the approval a request waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hold(HoldBody);

impl Hold {
    fn new(found: &Approval, binding: &str, secret: Option<String>) -> Self {
        let expires_at = UnixMicros(found.expires_at.unix_timestamp() * 1_000_000).to_rfc3339();
        Self(HoldBody {
            error: ErrorCode::InteractionRequired,
            error_description: Some("Human approval required for this request".to_owned()),
            approval_id: found.id.clone(),
            approval_type: HUMAN_APPROVAL.to_owned(),
            state: found.state(),
            tier: found.tier.clone(),
            binding: binding.to_owned(),
            approval_expires_at: expires_at.clone(),
            challenge_id: Some(found.id.clone()),
            challenge_type: Some(HUMAN_APPROVAL.to_owned()),
            challenge_secret: secret,
            challenge_expires_at: Some(expires_at),
            request_id: None,
        })
    }

    /// The body of the answer.
    pub(crate) fn body(&self, request_id: Option<&str>) -> HoldBody {
        HoldBody {
            request_id: request_id.map(str::to_owned),
            ..self.0.clone()
        }
    }
}

/// A name and a secret for an approval that may have to be raised.
pub(crate) struct Fresh {
    /// A random id (RFC 9562 version 4): it is a capability, so it must not be guessable.
    pub(crate) id: String,
    /// 32 random bytes, base64url.
    pub(crate) secret: String,
}

impl Fresh {
    /// # Errors
    /// [`Refusal::Issuance`] when there is no randomness.
    pub(crate) fn new() -> Result<Self, Refusal> {
        use base64::Engine as _;
        let mut id = [0; 16];
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut id).map_err(|_unspecified| Refusal::Issuance)?;
        aws_lc_rs::rand::fill(&mut secret).map_err(|_unspecified| Refusal::Issuance)?;
        Ok(Self {
            id: uuid::Builder::from_random_bytes(id).into_uuid().to_string(),
            secret: base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(secret),
        })
    }

    /// What is stored of the secret.
    pub(crate) fn secret_hash(&self) -> [u8; 32] {
        caracal_token::digest(self.secret.as_bytes())
    }
}

/// The approval with this id in `zone`. One statement.
///
/// # Errors
/// [`Refusal::ApprovalStoreUnavailable`].
pub(crate) async fn find(sts: &Sts, zone: &ZoneId, id: &str) -> Result<Option<Approval>, Refusal> {
    if Uuid::parse_str(id).is_err() {
        return Ok(None);
    }
    let tx = sts.database.read_in(ZoneScope::Zone(zone)).await;
    let mut tx = tx.map_err(unavailable)?;
    approval::find(&mut tx, id).await.map_err(unavailable)
}

/// The approval, if somebody said yes and it was not used.
///
/// # Errors
/// By its state: [`Refusal::ApprovalRejected`], [`Refusal::ApprovalExpired`], [`Refusal::ApprovalConsumed`],
/// [`Refusal::Hold`].
pub(crate) fn usable(found: Approval, binding: &str) -> Result<Approval, Refusal> {
    match found.state() {
        ApprovalState::Approved => Ok(found),
        ApprovalState::Rejected => Err(Refusal::ApprovalRejected),
        ApprovalState::Expired => Err(Refusal::ApprovalExpired),
        ApprovalState::Consumed => Err(Refusal::ApprovalConsumed),
        ApprovalState::Pending => Err(Refusal::Hold(Box::new(Hold::new(&found, binding, None)))),
    }
}

/// The approval that was raised, or met, if somebody said yes meanwhile. Only who raised it is told its `secret`, if at all.
///
/// # Errors
/// As [`usable`]; one that is over is waited for, since another will take its place.
pub(crate) fn raised(raised: Raised, binding: &str, secret: Option<String>) -> Result<Approval, Refusal> {
    match raised.approval.state() {
        ApprovalState::Pending | ApprovalState::Expired => {
            let secret = secret.filter(|_| raised.is_new);
            let hold = Hold::new(&raised.approval, binding, secret);
            Err(Refusal::Hold(Box::new(hold)))
        }
        _ => usable(raised.approval, binding),
    }
}

/// Whether the approval was raised for exactly these resources: the hash tells names apart only without their case.
pub(crate) fn names_the_same(found: &Approval, resources: &[&str]) -> bool {
    found.metadata_json.get("resources") == Some(&json!(resources))
}

/// The database cannot be asked.
#[expect(clippy::needless_pass_by_value, reason = "shaped for map_err")]
pub(crate) fn unavailable(error: StorageError) -> Refusal {
    tracing::warn!(
        error = &error as &dyn std::error::Error,
        "approvals cannot be read or written"
    );
    Refusal::ApprovalStoreUnavailable
}
