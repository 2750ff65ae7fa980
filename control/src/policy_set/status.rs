//! How far has an activation come?

use caracal_model::{PolicySetId, PolicySetVersionId, ZoneId};
use caracal_storage::ZoneScope;
use caracal_storage::policy_set::{self, Announcement};
use serde_json::{Value, json};

use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::timestamp::Timestamp;

/// What is known about the activation of `version`, or of the active version when none is named.
///
/// This service does not ask the token services what they have loaded; each of them proves its own freshness and
/// refuses to decide when it cannot.
pub(crate) async fn activation_status(
    control: &Control,
    zone: &ZoneId,
    id: &PolicySetId,
    version: Option<&str>,
    outbox_id: Option<&str>,
) -> Result<Value, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    let set = policy_set::find(&mut tx, zone, id)
        .await?
        .ok_or(Code::PolicySetBindingNotFound)?;
    let active = set.active_version_id.as_deref();
    let version = version.or(active).ok_or(Code::ActivePolicySetVersionNotFound)?;
    let version_id: PolicySetVersionId = version.parse().ok().ok_or(Code::ActivePolicySetVersionNotFound)?;
    let found = policy_set::find_version(&mut tx, id, &version_id).await?;
    let found = found.ok_or(Code::ActivePolicySetVersionNotFound)?;
    let announcement = match outbox_id {
        Some(outbox_id) => policy_set::announcement(&mut tx, zone, outbox_id).await?,
        None => None,
    };
    let state = outbox_state(outbox_id, announcement.as_ref(), version);
    let is_active = active == Some(version);
    Ok(json!({
        "zone_id": zone,
        "policy_set_id": id,
        "version_id": version,
        "active": is_active,
        "active_version_id": active,
        "manifest_sha256": found.manifest_sha256,
        "propagation_status": propagation(is_active, state),
        "outbox": {
            "id": outbox_id,
            "state": state,
            "attempts": announcement.as_ref().map_or(0, |announcement| announcement.attempts),
            "last_error": announcement.as_ref().and_then(|announcement| announcement.last_error.clone()),
            "dispatched_at": announcement.as_ref().and_then(|a| a.dispatched_at.map(Timestamp)),
        },
        "sts": { "state": "not_configured" },
    }))
}

fn outbox_state(outbox_id: Option<&str>, announcement: Option<&Announcement>, version: &str) -> &'static str {
    let Some(announcement) = announcement else {
        // Without an id nobody asked about a message; published ones are pruned after some days.
        return if outbox_id.is_some() {
            "missing"
        } else {
            "dispatched"
        };
    };
    let announced = announcement
        .payload_json
        .get("policy_set_version_id")
        .and_then(Value::as_str);
    match announcement {
        _ if announced != Some(version) => "mismatch",
        Announcement {
            dispatched_at: Some(_),
            ..
        } => "dispatched",
        Announcement { dead: true, .. } => "dead",
        Announcement { .. } => "pending",
    }
}

fn propagation(is_active: bool, outbox_state: &str) -> &'static str {
    match (is_active, outbox_state) {
        (false, _) => "waiting_for_activation",
        (true, "dead" | "mismatch") => "failed",
        (true, "dispatched") => "waiting_for_sts",
        (true, _) => "waiting_for_outbox",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_activation_is_where_its_message_is() {
        let announcement = |dead, dispatched| Announcement {
            payload_json: json!({ "policy_set_version_id": "v1" }),
            attempts: 0,
            dead,
            last_error: None,
            dispatched_at: dispatched,
        };
        let now = Some(time::OffsetDateTime::UNIX_EPOCH);
        assert_eq!(
            outbox_state(Some("o"), Some(&announcement(false, now)), "v1"),
            "dispatched"
        );
        assert_eq!(
            outbox_state(Some("o"), Some(&announcement(false, None)), "v1"),
            "pending"
        );
        assert_eq!(
            outbox_state(Some("o"), Some(&announcement(true, None)), "v1"),
            "dead"
        );
        assert_eq!(
            outbox_state(Some("o"), Some(&announcement(false, now)), "v2"),
            "mismatch"
        );
        assert_eq!(outbox_state(Some("o"), None, "v1"), "missing");
        assert_eq!(propagation(false, "dispatched"), "waiting_for_activation");
        assert_eq!(propagation(true, "dead"), "failed");
        assert_eq!(propagation(true, "pending"), "waiting_for_outbox");
        assert_eq!(propagation(true, "dispatched"), "waiting_for_sts");
    }
}
