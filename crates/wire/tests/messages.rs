//! Every stream message is read back as it was written, and can be signed whatever people typed into it.

use caracal_model::{AuthorityRecordId, DelegationId, SessionId};
use caracal_wire::event::{
    AgentsLifecycle, DelegationsInvalidate, EdgeEvent, EventError, InvocationEvent, InvocationsLifecycle,
    KeysInvalidate, LifecycleEvent, PolicyInvalidate, SessionsRevoke, Watermark, ZonesInvalidate,
};
use caracal_wire::stream::{self, Fields};
use proptest::prelude::*;
use proptest::sample::select;

/// Any id except the text `null`, which on these streams means "not there".
fn id<T: TryFrom<String, Error: std::fmt::Debug> + std::fmt::Debug>() -> impl Strategy<Value = T> {
    "[A-Za-z0-9._:-]{1,12}".prop_filter_map("null is no id here", |text| {
        (text != "null").then_some(T::try_from(text).ok()?)
    })
}

fn maybe<T: std::fmt::Debug>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    proptest::option::of(of)
}

/// Printable text that is not taken for "not there".
fn text() -> impl Strategy<Value = String> {
    "[ -~é]{1,20}".prop_filter("null is not a text here", |text| text != "null")
}

fn signable(stream: &str, fields: &Fields) -> bool {
    stream::sign(b"key", stream, fields).is_ok()
}

proptest! {
    #[test]
    fn a_revocation_is_read_back(
        zone_id in id(),
        session_id in maybe(id::<AuthorityRecordId>()),
        agent_session_id in maybe(id::<SessionId>()),
        delegation_edge_id in maybe(id::<DelegationId>()),
        reason in text(),
        grant_id in maybe(text()),
    ) {
        let message = SessionsRevoke { zone_id, session_id, agent_session_id, delegation_edge_id, reason, grant_id };
        let fields = message.to_fields();
        prop_assert!(signable(stream::SESSIONS_REVOKE, &fields));
        if message.anchors().is_empty() {
            prop_assert_eq!(SessionsRevoke::from_fields(&fields), Err(EventError::Missing("session_id")));
        } else {
            prop_assert_eq!(SessionsRevoke::from_fields(&fields), Ok(message));
        }
    }

    #[test]
    fn a_session_lifecycle_message_is_read_back(
        event in select(vec![LifecycleEvent::Spawn, LifecycleEvent::Suspend, LifecycleEvent::Resume, LifecycleEvent::Terminate]),
        zone_id in id(),
        agent_session_id in id(),
        parent_id in maybe(id()),
        application_id in maybe(id()),
        reason in maybe(text()),
    ) {
        let message = AgentsLifecycle { event, zone_id, agent_session_id, parent_id, application_id, reason };
        prop_assert_eq!(AgentsLifecycle::from_fields(&message.to_fields()), Ok(message));
    }

    #[test]
    fn an_invocation_message_is_read_back(
        event in select(vec![
            InvocationEvent::Created, InvocationEvent::Started, InvocationEvent::CancelRequested,
            InvocationEvent::Succeeded, InvocationEvent::Failed, InvocationEvent::TimedOut,
        ]),
        zone_id in id(),
        service_id in text(),
        invocation_id in text(),
    ) {
        let message = InvocationsLifecycle { event, zone_id, service_id, invocation_id };
        prop_assert_eq!(InvocationsLifecycle::from_fields(&message.to_fields()), Ok(message));
    }

    #[test]
    fn a_graph_message_is_read_back(
        event in select(vec![EdgeEvent::Create, EdgeEvent::Revoke, EdgeEvent::Expire]),
        zone_id in id(),
        edge_id in maybe(id()),
        source_session_id in maybe(id()),
        target_session_id in maybe(id()),
        affected_edges in maybe(any::<u64>()),
        edge_ids in proptest::collection::vec(id::<DelegationId>(), 0..4),
        reason in maybe(text()),
        epoch in any::<u64>(),
    ) {
        let message = DelegationsInvalidate {
            event, zone_id, edge_id, source_session_id, target_session_id, affected_edges, edge_ids, reason, epoch,
        };
        let fields = message.to_fields();
        prop_assert!(signable(stream::DELEGATIONS_INVALIDATE, &fields));
        prop_assert_eq!(DelegationsInvalidate::from_fields(&fields), Ok(message));
    }

    #[test]
    fn configuration_messages_are_read_back(
        zone_id in id::<caracal_model::ZoneId>(),
        policy_set_id in maybe(id()),
        policy_set_version_id in maybe(id()),
        version in any::<i64>(),
    ) {
        let policy = PolicyInvalidate { zone_id: zone_id.clone(), policy_set_id, policy_set_version_id };
        prop_assert_eq!(PolicyInvalidate::from_fields(&policy.to_fields()), Ok(policy));
        let zones = ZonesInvalidate { zone_id: zone_id.clone(), version };
        prop_assert_eq!(ZonesInvalidate::from_fields(&zones.to_fields()), Ok(zones));
        let keys = KeysInvalidate { zone_id };
        prop_assert_eq!(KeysInvalidate::from_fields(&keys.to_fields()), Ok(keys));
    }

    #[test]
    fn a_watermark_is_read_back(
        relay in text(),
        as_of_unix_us in any::<i64>(),
        positions in proptest::collection::btree_map("[a-z.]{1,8}", (any::<u64>(), any::<u64>()), 0..5),
    ) {
        let last_ids = positions.into_iter().map(|(name, (ms, seq))| (name, format!("{ms}-{seq}"))).collect();
        let message = Watermark { relay, as_of_unix_us, last_ids };
        let fields = message.to_fields();
        prop_assert!(signable(stream::WATERMARKS, &fields));
        prop_assert_eq!(Watermark::from_fields(&fields), Ok(message));
    }

    #[test]
    fn no_entry_makes_a_reader_fail_otherwise(
        fields in proptest::collection::btree_map("event|zone_id|epoch|version|edge_ids|last_ids|session_id", "\\PC{0,6}", 0..7),
    ) {
        let outcomes = [
            SessionsRevoke::from_fields(&fields).is_ok(),
            AgentsLifecycle::from_fields(&fields).is_ok(),
            InvocationsLifecycle::from_fields(&fields).is_ok(),
            DelegationsInvalidate::from_fields(&fields).is_ok(),
            PolicyInvalidate::from_fields(&fields).is_ok(),
            ZonesInvalidate::from_fields(&fields).is_ok(),
            Watermark::from_fields(&fields).is_ok(),
        ];
        prop_assert!(fields.contains_key("zone_id") || !outcomes.contains(&true));
    }
}

fn fields(pairs: &[(&str, &str)]) -> Fields {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn an_unknown_event_is_not_guessed() {
    let entry = fields(&[
        ("event", "rename"),
        ("zone_id", "z1"),
        ("agent_session_id", "s1"),
        ("epoch", "1"),
    ]);
    assert_eq!(
        AgentsLifecycle::from_fields(&entry),
        Err(EventError::Invalid("event"))
    );
    assert_eq!(
        DelegationsInvalidate::from_fields(&entry),
        Err(EventError::Invalid("event"))
    );
}

#[test]
fn affected_edges_may_be_a_number_or_a_list() {
    let read = |affected: &str| {
        let entry = fields(&[
            ("event", "edge_revoke"),
            ("zone_id", "z1"),
            ("epoch", "7"),
            ("affected_edges", affected),
        ]);
        DelegationsInvalidate::from_fields(&entry).map(|message| message.affected_edges)
    };
    assert_eq!(read("3"), Ok(Some(3)));
    assert_eq!(read(r#"["e1","e2"]"#), Ok(Some(2)));
    assert_eq!(read("null"), Ok(None));
    assert_eq!(read("many"), Err(EventError::Invalid("affected_edges")));
}

#[test]
fn what_people_typed_can_be_signed() {
    let message = AgentsLifecycle {
        event: LifecycleEvent::Terminate,
        zone_id: "z1".parse().expect("an id"),
        agent_session_id: "s1".parse().expect("an id"),
        parent_id: None,
        application_id: None,
        reason: Some("done\r\nzone_id=z2".to_owned()),
    };
    let written = message.to_fields();
    assert!(signable(stream::AGENTS_LIFECYCLE, &written));
    assert_eq!(
        written.get("reason").map(String::as_str),
        Some("done  zone_id=z2")
    );
}
