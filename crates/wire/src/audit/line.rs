//! An event as the request path writes it: facts that others own, straight into one line of text.

use caracal_model::time::UnixMicros;
use serde::Serialize;

use super::Details;
use crate::json_text::{begin_member, write_member, write_text};

/// What an event needs beside its texts: punctuation, names, two short lists.
const USUAL_BYTES: usize = 768;

/// The members of an [`super::AuditEvent`], borrowed. A text that may be absent is empty then.
#[derive(Clone, Copy, Debug)]
pub struct EventLine<'e> {
    /// Its id; ingest keeps the first event with an id.
    pub id: &'e str,
    /// The zone whose ledger it belongs to.
    pub zone_id: &'e str,
    /// What kind of thing happened, see [`super::event_type`].
    pub event_type: &'e str,
    /// The request it happened in, or empty.
    pub request_id: &'e str,
    /// How it was decided, see [`super::decision`].
    pub decision: &'e str,
    /// The policy set that decided, or empty.
    pub policy_set_id: &'e str,
    /// Its version, or empty.
    pub policy_set_version_id: &'e str,
    /// The hash of its manifest, or empty.
    pub manifest_sha: &'e str,
    /// How the decision was reached, see [`super::status`].
    pub evaluation_status: &'e str,
    /// When it happened.
    pub occurred_at: UnixMicros,
}

impl EventLine<'_> {
    /// The event as one line of JSON text, byte for byte as [`super::AuditEvent::to_json_with`] writes it. `policies` and
    /// `diagnostics` are written as lists of objects. Hot path: one allocation.
    ///
    /// # Errors
    /// A JSON error of `policies` or `diagnostics`, and when a detail could not be written.
    pub fn write(
        &self,
        policies: &impl Serialize,
        diagnostics: &impl Serialize,
        details: &Details,
    ) -> Result<Vec<u8>, serde_json::Error> {
        let mut line = Vec::with_capacity(USUAL_BYTES + details.bytes());
        line.extend_from_slice(b"{\"id\":");
        write_text(&mut line, self.id)?;
        begin_member(&mut line, "zone_id");
        write_text(&mut line, self.zone_id)?;
        begin_member(&mut line, "event_type");
        write_text(&mut line, self.event_type)?;
        write_member(&mut line, "request_id", self.request_id)?;
        begin_member(&mut line, "decision");
        write_text(&mut line, self.decision)?;
        write_member(&mut line, "policy_set_id", self.policy_set_id)?;
        write_member(&mut line, "policy_set_version_id", self.policy_set_version_id)?;
        write_member(&mut line, "manifest_sha", self.manifest_sha)?;
        begin_member(&mut line, "evaluation_status");
        write_text(&mut line, self.evaluation_status)?;
        begin_member(&mut line, "determining_policies_json");
        serde_json::to_writer(&mut line, policies)?;
        begin_member(&mut line, "diagnostics_json");
        serde_json::to_writer(&mut line, diagnostics)?;
        begin_member(&mut line, "occurred_at");
        serde_json::to_writer(&mut line, &self.occurred_at)?;
        line.push(b'}');
        details.join(&mut line)?;
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::AuditEvent;
    use super::*;

    proptest! {
        #[test]
        fn a_borrowed_event_is_the_same_line(
            texts in proptest::collection::vec("[ -~\\n\\PC]{0,12}", 7),
            moment in 0_i64..4_000_000_000_000_000,
            listed in "[ -~\"]{0,8}",
        ) {
            let occurred_at = UnixMicros(moment);
            let event = AuditEvent {
                event_type: texts[0].clone(),
                request_id: Some(texts[1].clone()),
                decision: texts[2].clone(),
                policy_set_id: Some(texts[3].clone()),
                policy_set_version_id: Some(texts[4].clone()),
                manifest_sha: Some(texts[5].clone()),
                evaluation_status: texts[6].clone(),
                determining_policies_json: json!([{ "policy": listed }]),
                diagnostics_json: json!([]),
                ..AuditEvent::new("e-1".parse().unwrap(), "z1".parse().unwrap(), "", occurred_at)
            };
            let line = EventLine {
                id: "e-1",
                zone_id: "z1",
                event_type: &texts[0],
                request_id: &texts[1],
                decision: &texts[2],
                policy_set_id: &texts[3],
                policy_set_version_id: &texts[4],
                manifest_sha: &texts[5],
                evaluation_status: &texts[6],
                occurred_at,
            };
            let mut details = Details::default();
            details.add_text("resource", &listed);
            details.put("n", &1);
            let none: [Value; 0] = [];
            let policies = [json!({ "policy": listed })];
            prop_assert_eq!(
                String::from_utf8(line.write(&policies, &none, &details).unwrap()).unwrap(),
                String::from_utf8(event.to_json_with(&details).unwrap()).unwrap()
            );
        }
    }
}
