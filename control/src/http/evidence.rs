//! What is shown of a recorded document, and what is kept back?

use serde_json::{Map, Value};

/// Members whose value is never shown, wherever they stand: `docs/contract/admin-api.md` section 9.1.
const KEPT_BACK: [&str; 16] = [
    "password",
    "passwd",
    "secret",
    "token",
    "access_token",
    "refresh_token",
    "id_token",
    "api_key",
    "apikey",
    "authorization",
    "cookie",
    "set_cookie",
    "client_secret",
    "private_key",
    "session",
    "assertion",
];

/// The document without what is kept back.
pub(super) fn redacted(document: Option<&Value>) -> Value {
    document.map_or(Value::Null, redact)
}

fn redact(value: &Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(members.iter().map(redact_member).collect::<Map<_, _>>()),
        Value::Array(entries) => entries.iter().map(redact).collect(),
        other => other.clone(),
    }
}

fn redact_member((name, value): (&String, &Value)) -> (String, Value) {
    let normal = name.to_lowercase().replace('-', "_");
    if KEPT_BACK.contains(&normal.as_str()) || normal == "session_id" {
        return (name.clone(), Value::from("[redacted]"));
    }
    (name.clone(), redact(value))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sensitive_members_are_kept_back_at_any_depth() {
        let shown = redacted(Some(&json!({
            "a": [{ "Client-Secret": "x" }], "session_id": "s", "agent_session_id": "as", "token_host": "h"
        })));
        assert_eq!(
            shown,
            json!({
                "a": [{ "Client-Secret": "[redacted]" }], "session_id": "[redacted]", "agent_session_id": "as",
                "token_host": "h"
            })
        );
        assert_eq!(redacted(None), Value::Null);
    }
}
