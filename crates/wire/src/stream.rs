//! Which event streams exist, and who signed this entry?
//!
//! Names, groups and the signature `_sig` are those of `docs/contract/streams.md`.

use std::collections::BTreeMap;

use crate::digest::{equal, hmac_hex};

/// Evidence of every decision; signed in its own way, see [`crate::audit`].
pub const AUDIT_EVENTS: &str = "caracal.audit.events";
/// Audit entries that ingest could not accept.
pub const AUDIT_EVENTS_DLQ: &str = "caracal.audit.events.dlq";
/// A zone's active policy set version changed.
pub const POLICY_INVALIDATE: &str = "caracal.policy.invalidate";
/// Something was revoked.
pub const SESSIONS_REVOKE: &str = "caracal.sessions.revoke";
/// A zone's signing keys changed.
pub const KEYS_INVALIDATE: &str = "caracal.keys.invalidate";
/// A session started, was suspended, resumed or ended.
pub const AGENTS_LIFECYCLE: &str = "caracal.agents.lifecycle";
/// An invocation changed state.
pub const INVOCATIONS_LIFECYCLE: &str = "caracal.invocations.lifecycle";
/// The delegation graph of a zone changed.
pub const DELEGATIONS_INVALIDATE: &str = "caracal.delegations.invalidate";
/// Placeholder that older deployments provision.
pub const PROVIDERS_RATELIMIT: &str = "caracal.providers.ratelimit";
/// The configuration of a zone has a new version.
pub const ZONES_INVALIDATE: &str = "caracal.zones.invalidate";
/// How many mints a replica of the token service counted, for the others.
pub const MINTS_COUNTED: &str = "caracal.mints.counted";
/// "Everything committed before this moment is out."
pub const WATERMARKS: &str = "caracal.watermarks";

/// Shares audit ingest among the replicas of the audit service.
pub const GROUP_AUDIT_INGESTOR: &str = "audit-ingestor";
/// For an external SIEM.
pub const GROUP_SIEM_EXPORT: &str = "siem-export";
/// For operators who watch refused audit entries.
pub const GROUP_AUDIT_DLQ_OBSERVER: &str = "audit-dlq-observer";
/// Policy changes, as older STS releases read them.
pub const GROUP_OPA_ENGINE: &str = "opa-engine";
/// Revocations, as older STS releases read them.
pub const GROUP_STS_REVOCATION: &str = "sts-revocation";
/// Key changes, as older STS releases read them.
pub const GROUP_STS_KEYS: &str = "sts-keys";
/// Shares the relay of lifecycle events among coordinator replicas.
pub const GROUP_COORDINATOR_RELAY: &str = "coordinator-relay";
/// For whoever watches invocations.
pub const GROUP_INVOCATIONS_OBSERVER: &str = "invocations-observer";
/// For whoever watches delegations.
pub const GROUP_DELEGATIONS_OBSERVER: &str = "delegations-observer";

/// The consumer groups that `caracal init` creates, as (stream, group).
pub const PROVISIONED_GROUPS: [(&str, &str); 9] = [
    (AUDIT_EVENTS, GROUP_AUDIT_INGESTOR),
    (AUDIT_EVENTS, GROUP_SIEM_EXPORT),
    (AUDIT_EVENTS_DLQ, GROUP_AUDIT_DLQ_OBSERVER),
    (POLICY_INVALIDATE, GROUP_OPA_ENGINE),
    (SESSIONS_REVOKE, GROUP_STS_REVOCATION),
    (KEYS_INVALIDATE, GROUP_STS_KEYS),
    (AGENTS_LIFECYCLE, GROUP_COORDINATOR_RELAY),
    (INVOCATIONS_LIFECYCLE, GROUP_INVOCATIONS_OBSERVER),
    (DELEGATIONS_INVALIDATE, GROUP_DELEGATIONS_OBSERVER),
];

/// The field that holds the signature of an entry.
pub const SIG: &str = "_sig";
/// The field with the id of the outbox row an entry comes from.
pub const OUTBOX_ID: &str = "outbox_id";
/// The field with the key under which the producer suppressed duplicates.
pub const DEDUPE_KEY: &str = "dedupe_key";

/// The fields of a stream entry.
pub type Fields = BTreeMap<String, String>;

/// The name of the stream that takes what consumers of `stream` gave up on.
pub fn dead_letter(stream: &str) -> String {
    format!("{stream}.dead")
}

/// A stream name, field name or value has a control character (U+0000 to U+001F).
///
/// The signed text separates fields by line feeds without escaping, so a value with a line feed could imitate another field. Such
/// an entry is neither signed nor accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stream field {field:?} has a control character")]
pub struct ControlCharacter {
    /// The field at fault; empty for the stream name.
    pub field: String,
}

/// The text that is signed: the stream's name, then `name=value` for every field but `_sig` in byte order of the names, each
/// followed by a line feed.
///
/// # Errors
/// [`ControlCharacter`] for a value with a control character, or a name with one or with `=`.
pub fn canonical(stream: &str, fields: &Fields) -> Result<Vec<u8>, ControlCharacter> {
    let refuse = |field: &str| {
        Err(ControlCharacter {
            field: field.to_owned(),
        })
    };
    if has_control(stream) {
        return refuse("");
    }
    let of_fields: usize = fields
        .iter()
        .map(|(name, value)| name.len() + value.len() + 2)
        .sum();
    let mut text = Vec::with_capacity(stream.len() + 1 + of_fields);
    text.extend_from_slice(stream.as_bytes());
    text.push(b'\n');
    for (name, value) in fields.iter().filter(|(name, _)| *name != SIG) {
        if has_control(name) || name.contains('=') || has_control(value) {
            return refuse(name);
        }
        text.extend_from_slice(name.as_bytes());
        text.push(b'=');
        text.extend_from_slice(value.as_bytes());
        text.push(b'\n');
    }
    Ok(text)
}

/// The signature of an entry, to be stored in [`SIG`]: 64 lower-case hex digits.
///
/// # Errors
/// [`ControlCharacter`]; see [`canonical`].
pub fn sign(key: &[u8], stream: &str, fields: &Fields) -> Result<String, ControlCharacter> {
    Ok(hmac_hex(key, &[&canonical(stream, fields)?]))
}

/// Whether an entry carries a signature by one of these keys. Without keys nothing verifies.
///
/// Every key is tried, each in constant time, so that rotation needs no pause.
pub fn verify(keys: &[&[u8]], stream: &str, fields: &Fields) -> bool {
    let (Some(presented), Ok(text)) = (fields.get(SIG), canonical(stream, fields)) else {
        return false;
    };
    keys.iter().fold(false, |matched, key| {
        matched | equal(&hmac_hex(key, &[&text]), presented)
    })
}

/// The characters that JSON text escapes as well, so that every JSON document can be a value.
fn is_control(c: char) -> bool {
    c < ' '
}

/// Whether there is one. They are single bytes in UTF-8; every byte is looked at, which is faster than to stop at the first.
fn has_control(text: &str) -> bool {
    text.bytes().fold(0, |found, byte| found | u8::from(byte < b' ')) != 0
}

/// Replaces control characters by spaces, for free text that people wrote and that must still go out.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if is_control(c) { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> Vec<u8> {
        hex::decode("0123456789abcdef".repeat(4)).unwrap()
    }

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_revocation_is_signed_as_published() {
        let revocation = fields(&[
            ("zone_id", "zone-1"),
            ("session_id", "ar-1"),
            ("agent_session_id", "sess-1"),
            ("delegation_edge_id", "edge-1"),
            ("reason", "delegation_revoked"),
            ("outbox_id", "ob-1"),
        ]);
        assert_eq!(
            String::from_utf8(canonical(SESSIONS_REVOKE, &revocation).unwrap()).unwrap(),
            "caracal.sessions.revoke\nagent_session_id=sess-1\ndelegation_edge_id=edge-1\noutbox_id=ob-1\n\
             reason=delegation_revoked\nsession_id=ar-1\nzone_id=zone-1\n"
        );
        assert_eq!(
            sign(&key(), SESSIONS_REVOKE, &revocation).unwrap(),
            "04966df51b990bce696ac7b04e7d52f646c4c0645e2586bbf03435783da20bad"
        );
    }

    #[test]
    fn the_published_vectors_hold() {
        let stream = "audit:events";
        for (pairs, expected) in [
            (
                &[("action", "transfer"), ("amount", "100")][..],
                "c06ccc579e026c31a97a04f203981b236a3c88041712e9b46242e8762da23d75",
            ),
            (
                &[("action", "transfer")],
                "93c82e377fc1ff7f1430549aa20cd20971150173b5996308ab84cb48d6f2683d",
            ),
            (
                &[("action", "transfer"), (SIG, "deadbeef")],
                "93c82e377fc1ff7f1430549aa20cd20971150173b5996308ab84cb48d6f2683d",
            ),
            (
                &[("active", "true"), ("count", "0"), ("name", "")],
                "dd36b85d880107b52155410569f95436acd8b5a656bba83e37c4b0196fb32ae1",
            ),
        ] {
            assert_eq!(
                sign(&key(), stream, &fields(pairs)).unwrap(),
                expected,
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn a_value_with_a_line_feed_is_neither_signed_nor_accepted() {
        let honest = fields(&[("reason", "x"), ("zone_id", "z1")]);
        let forged = fields(&[("reason", "x\nzone_id=z1")]);
        assert_eq!(
            canonical("s", &forged),
            Err(ControlCharacter {
                field: "reason".to_owned()
            })
        );
        let mut carried = forged;
        carried.insert(SIG.to_owned(), sign(&key(), "s", &honest).unwrap());
        assert!(
            !verify(&[&key()], "s", &carried),
            "one field must not imitate two"
        );
        for pairs in [[("a\0", "1")], [("a=b", "1")], [("a", "\r")]] {
            assert!(sign(&key(), "s", &fields(&pairs)).is_err(), "{pairs:?}");
        }
        assert!(sign(&key(), "s\na=1", &Fields::new()).is_err());
    }

    #[test]
    fn the_previous_key_still_verifies() {
        let mut entry = fields(&[("zone_id", "z1")]);
        entry.insert(SIG.to_owned(), sign(b"old", KEYS_INVALIDATE, &entry).unwrap());
        assert!(verify(&[b"new", b"old"], KEYS_INVALIDATE, &entry));
        assert!(!verify(&[b"new"], KEYS_INVALIDATE, &entry));
        assert!(
            !verify(&[], KEYS_INVALIDATE, &entry),
            "without a key nothing is accepted"
        );
        assert!(
            !verify(&[b"old"], POLICY_INVALIDATE, &entry),
            "an entry belongs to its stream"
        );
    }

    #[test]
    fn an_unsigned_entry_is_not_accepted() {
        assert!(!verify(&[&key()], "s", &fields(&[("zone_id", "z1")])));
        assert!(!verify(&[&key()], "s", &fields(&[("zone_id", "z1"), (SIG, "")])));
    }

    #[test]
    fn group_names_are_unique_per_stream() {
        let unique: std::collections::BTreeSet<_> = PROVISIONED_GROUPS.into_iter().collect();
        assert_eq!(unique.len(), 9);
    }

    proptest! {
        #[test]
        fn any_change_breaks_the_signature(
            mut entry in proptest::collection::btree_map("[a-z]{1,4}", "[ -~]{0,6}", 1..5),
            name in "[a-z]{1,4}",
            value in "[ -~]{0,6}",
        ) {
            entry.insert(SIG.to_owned(), sign(b"k", "s", &entry).unwrap());
            prop_assert!(verify(&[b"k"], "s", &entry));
            let before = entry.insert(name.clone(), value.clone());
            prop_assert_eq!(verify(&[b"k"], "s", &entry), before.as_ref() == Some(&value));
        }

        #[test]
        fn printable_text_can_always_be_signed(text in "\\PC*|[\\x00-\\x1f]{0,8}") {
            prop_assert!(sign(b"k", "s", &fields(&[("reason", &printable(&text))])).is_ok());
        }
    }
}
