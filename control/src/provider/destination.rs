//! Would secrets be sent somewhere else than before?
//!
//! Secrets go to the OAuth server (client secrets, assertions, refresh tokens, codes) and to upstreams (keys, tokens). Who
//! may write a configuration need not know the secrets that are stored with it.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Members that name one place each.
const PLACES: [&str; 4] = [
    "token_endpoint",
    "authorization_endpoint",
    "revocation_endpoint",
    "redirect_uri",
];

/// The hosts a credential may go to.
const HOSTS: &str = "allowed_token_hosts";

/// The members by which a configuration of the same kind sends secrets where the one before did not. Leaving a place or a
/// host away is no such change; leaving all hosts away is: then a static credential goes wherever its resource is.
pub(super) fn moved(before: &Value, after: &Map<String, Value>) -> Vec<&'static str> {
    let is_new_place = |name: &&str| {
        let place = after.get(*name);
        place.is_some() && place != before.get(*name)
    };
    let mut moved: Vec<&str> = PLACES.into_iter().filter(is_new_place).collect();
    if !is_within(&hosts(after.get(HOSTS)), &hosts(before.get(HOSTS))) {
        moved.push(HOSTS);
    }
    moved
}

/// No hosts mean any host.
fn is_within(after: &BTreeSet<String>, before: &BTreeSet<String>) -> bool {
    before.is_empty() || (!after.is_empty() && after.is_subset(before))
}

fn hosts(member: Option<&Value>) -> BTreeSet<String> {
    let hosts = member.and_then(Value::as_array).into_iter().flatten();
    hosts
        .filter_map(Value::as_str)
        .map(str::to_ascii_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn members(before: &Value, after: &Value) -> Vec<&'static str> {
        moved(before, after.as_object().unwrap())
    }

    #[test]
    fn every_new_place_is_named() {
        let before = json!({ "token_endpoint": "https://a/t", "authorization_endpoint": "https://a/a",
            "redirect_uri": "https://c/cb", "allowed_token_hosts": ["a"], "client_id": "c" });
        assert!(members(&before, &before).is_empty());
        for (name, value) in [
            ("token_endpoint", json!("https://a/other")),
            ("authorization_endpoint", json!("https://b/a")),
            ("redirect_uri", json!("https://d/cb")),
            ("revocation_endpoint", json!("https://a/r")),
            ("allowed_token_hosts", json!(["a", "b"])),
        ] {
            let mut after = before.clone();
            after[name] = value;
            assert_eq!(members(&before, &after), [name]);
        }
        let mut after = before.clone();
        after["client_id"] = json!("other");
        assert!(members(&before, &after).is_empty(), "names no place");
    }

    #[test]
    fn fewer_hosts_are_no_new_place_and_no_hosts_are() {
        let before = json!({ "allowed_token_hosts": ["a", "b"] });
        assert!(members(&before, &json!({ "allowed_token_hosts": ["B"] })).is_empty());
        for after in [json!({}), json!({ "allowed_token_hosts": [] })] {
            assert_eq!(members(&before, &after), ["allowed_token_hosts"]);
        }
        assert!(
            members(&json!({}), &json!({ "allowed_token_hosts": ["a"] })).is_empty(),
            "from anywhere to one host"
        );
    }
}
