//! Row by row: what is checked, in which order, and what each refusal says to the caller and to the ledger
//! (docs/contract/token-exchange.md, "Order", "Answers").

mod approval;
mod client;
mod delegation;
mod gateway;
mod internal;
mod lifetime;
mod readiness;
mod request;
mod resources;
mod store;
mod subject_token;
mod upstream;

use caracal_testing::wait_for;
use serde_json::Value;

use crate::stack::{Answer, SOON, Stack, with};

const DELEGATED: [(&str, &str); 4] = [
    ("resource", "resource://crm"),
    ("scope", "crm:read"),
    ("agent_session_id", "s-target"),
    ("delegation_edge_id", "e-1"),
];

/// What a refusal says: status, code, description, and the status of its event.
type Refused<'a> = (u16, &'a str, &'a str, &'a str);

impl Stack {
    /// The refused exchange said `expected`, and so does its one event.
    async fn expect_refusal(&self, answer: &Answer, expected: Refused<'_>, what: &str) {
        let (status, code, description, evaluation) = expected;
        assert_eq!(answer.refusal(), (status, code, description), "{what}");
        let events = self.events_of(answer).await;
        for event in &events {
            assert_eq!(event["decision"], "deny", "{what}: {event}");
            assert_eq!(event["evaluation_status"], evaluation, "{what}: {event}");
            let kind = if evaluation == "client_auth_failed" {
                "client_authentication"
            } else {
                "token_exchange"
            };
            assert_eq!(event["event_type"], kind, "{what}: {event}");
        }
    }

    /// A direct exchange of the delegated session with `fields` in place of the usual ones.
    async fn delegated(&self, fields: &[(&str, &str)]) -> Answer {
        self.mint(&with(&DELEGATED, fields)).await
    }
}

/// The event of `answer` about `resource`.
async fn about(stack: &Stack, answer: &Answer, resource: &str) -> Value {
    wait_for(SOON, async || {
        let events = stack.events_of(answer).await;
        events
            .into_iter()
            .find(|event| event["metadata_json"]["resource"] == resource)
    })
    .await
}
