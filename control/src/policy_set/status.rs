//! How far has an activation come?

use caracal_model::{PolicySetId, PolicySetVersionId, ZoneId};
use caracal_storage::ZoneScope;
use caracal_storage::policy_set::{self, Announcement};
use serde_json::{Map, Value, json};

use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::timestamp::Timestamp;
use crate::token_service::{NoAnswer, Replica};

/// What is known about the activation of `version`, or of the active version when none is named.
///
/// Every replica of the token service is asked what it decides by. `loaded` means that all of them decide by this version.
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
    drop(tx);
    let state = outbox_state(outbox_id, announcement.as_ref(), version);
    let replicas = control.token_service.policy_status(zone).await;
    let sts = sts_state(replicas.as_deref(), version);
    let is_active = active == Some(version);
    Ok(json!({
        "zone_id": zone,
        "policy_set_id": id,
        "version_id": version,
        "active": is_active,
        "active_version_id": active,
        "manifest_sha256": found.manifest_sha256,
        "propagation_status": propagation(is_active, state, sts),
        "outbox": {
            "id": outbox_id,
            "state": state,
            "attempts": announcement.as_ref().map_or(0, |announcement| announcement.attempts),
            "last_error": announcement.as_ref().and_then(|announcement| announcement.last_error.clone()),
            "dispatched_at": announcement.as_ref().and_then(|a| a.dispatched_at.map(Timestamp)),
        },
        "sts": sts_view(sts, &replicas.unwrap_or_default(), version),
    }))
}

/// How far the version has come among the replicas: `loaded` once every one decides by it.
fn sts_state(replicas: Option<&[Replica]>, version: &str) -> &'static str {
    let Some(replicas) = replicas.filter(|replicas| !replicas.is_empty()) else {
        return "not_configured";
    };
    let states: Vec<&str> = replicas
        .iter()
        .map(|replica| replica_state(replica, version))
        .collect();
    let worst = ["failed", "unreachable", "not_loaded"];
    worst
        .into_iter()
        .find(|state| states.contains(state))
        .unwrap_or("loaded")
}

fn replica_state(replica: &Replica, version: &str) -> &'static str {
    match &replica.answer {
        Ok(status) if status.loaded && status.policy_set_version_id.as_deref() == Some(version) => "loaded",
        Ok(_) => "not_loaded",
        Err(NoAnswer::Unreachable) => "unreachable",
        Err(NoAnswer::Failed) => "failed",
    }
}

/// The state of all, what one replica says that is behind or else the first, and each of them.
fn sts_view(state: &str, replicas: &[Replica], version: &str) -> Value {
    let behind = replicas
        .iter()
        .find(|replica| replica_state(replica, version) != "loaded")
        .or(replicas.first());
    let mut view = replica_view(behind);
    view.insert("state".to_owned(), json!(state));
    let each = replicas.iter().map(|replica| {
        let mut view = replica_view(Some(replica));
        view.insert("address".to_owned(), json!(replica.address));
        view.insert("state".to_owned(), json!(replica_state(replica, version)));
        Value::Object(view)
    });
    if !replicas.is_empty() {
        view.insert("replicas".to_owned(), each.collect());
    }
    Value::Object(view)
}

fn replica_view(replica: Option<&Replica>) -> Map<String, Value> {
    let mut view = Map::new();
    match replica.map(|replica| &replica.answer) {
        None => {}
        Some(Ok(status)) => {
            if let Ok(Value::Object(members)) = serde_json::to_value(status) {
                view.extend(members);
            }
        }
        Some(Err(reason)) => {
            view.insert("detail".to_owned(), json!(reason.to_string()));
        }
    }
    view
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

fn propagation(is_active: bool, outbox_state: &str, sts_state: &str) -> &'static str {
    match (is_active, outbox_state, sts_state) {
        (false, _, _) => "waiting_for_activation",
        // Published or not: whoever decides by it has learnt of it.
        (true, _, "loaded") => "loaded",
        (true, "dead" | "mismatch", _) | (true, "dispatched", "failed") => "failed",
        (true, "dispatched", _) => "waiting_for_sts",
        (true, _, _) => "waiting_for_outbox",
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
        for (is_active, outbox, sts, expected) in [
            (false, "dispatched", "loaded", "waiting_for_activation"),
            (true, "dead", "not_loaded", "failed"),
            (true, "mismatch", "unreachable", "failed"),
            (true, "pending", "not_loaded", "waiting_for_outbox"),
            (true, "dispatched", "not_loaded", "waiting_for_sts"),
            (true, "dispatched", "unreachable", "waiting_for_sts"),
            (true, "dispatched", "not_configured", "waiting_for_sts"),
            (true, "dispatched", "failed", "failed"),
            (true, "missing", "loaded", "loaded"),
        ] {
            assert_eq!(
                propagation(is_active, outbox, sts),
                expected,
                "{is_active} {outbox} {sts}"
            );
        }
    }

    #[test]
    fn a_version_is_loaded_once_every_replica_decides_by_it() {
        let replica = |answer| Replica {
            address: "a".to_owned(),
            answer,
        };
        let by = |version: &str| {
            let status = json!({ "zone_id": "z", "loaded": true, "policy_set_version_id": version });
            replica(Ok(serde_json::from_value(status).unwrap()))
        };
        assert_eq!(sts_state(None, "v1"), "not_configured");
        assert_eq!(sts_state(Some(&[by("v1"), by("v1")]), "v1"), "loaded");
        assert_eq!(sts_state(Some(&[by("v1"), by("v0")]), "v1"), "not_loaded");
        let silent = replica(Err(NoAnswer::Unreachable));
        assert_eq!(sts_state(Some(&[by("v0"), silent]), "v1"), "unreachable");
        let broken = replica(Err(NoAnswer::Failed));
        assert_eq!(sts_state(Some(&[broken, by("v1")]), "v1"), "failed");
    }
}
