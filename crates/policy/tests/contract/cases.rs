//! The published cases, and those of our additions.

use caracal_policy::{Bundle, Regime, simulate};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::reference::{Reference, document, document_that_reads_input};

#[derive(Deserialize)]
struct Fixture {
    data: Json,
    inputs: Map<String, Json>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    input: String,
    #[serde(default)]
    change: Json,
    #[serde(default)]
    data: Json,
    allow: Option<String>,
    deny: Option<String>,
    diagnostics: Option<Json>,
}

impl Case {
    /// Whether `result` is what the case expects; diagnostics of an allow only when it names them.
    fn accepts(&self, result: &Json) -> bool {
        match (&self.allow, &self.deny) {
            (Some(policy), None) => {
                result["decision"] == "allow"
                    && result["determining_policies"] == json!([{"policy": policy}])
                    && self
                        .diagnostics
                        .as_ref()
                        .is_none_or(|expected| result["diagnostics"] == *expected)
            }
            (None, Some(reason)) => {
                result["decision"] == "deny"
                    && result["determining_policies"] == json!([])
                    && result["diagnostics"] == json!([{"reason": reason}])
            }
            _ => panic!("{}: expects either allow or deny", self.name),
        }
    }
}

/// RFC 7396.
fn merged(mut target: Json, patch: &Json) -> Json {
    let Json::Object(changes) = patch else {
        return patch.clone();
    };
    if !target.is_object() {
        target = json!({});
    }
    for (key, change) in changes {
        if change.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            target[key] = merged(target[key].take(), change);
        }
    }
    target
}

fn cases() -> impl Iterator<Item = (Case, Json, Json)> {
    let fixture: Fixture = serde_json::from_str(include_str!("cases.json")).unwrap();
    fixture.cases.into_iter().map(move |case| {
        let patched = |base: &Json, patch: &Json| {
            if patch.is_null() {
                base.clone()
            } else {
                merged(base.clone(), patch)
            }
        };
        let data = patched(&fixture.data, &case.data);
        let input = patched(&fixture.inputs[&case.input], &case.change);
        (case, data, input)
    })
}

#[test]
fn the_native_contract_decides_every_case_as_published() {
    let mut count = 0;
    for (case, data, input) in cases() {
        let bundle = Bundle::compile(&[("d", &document(&data))]).unwrap();
        assert!(!bundle.reads_input(), "{}", case.name);
        let result =
            serde_json::to_value(simulate(&bundle, &input.to_string(), Regime::Restrict).unwrap()).unwrap();
        assert!(case.accepts(&result), "{}: {result}", case.name);
        assert_eq!(result["evaluation_status"], "complete");
        count += 1;
    }
    assert!(count >= 39, "the published cases alone are 39");
}

#[test]
fn documents_that_read_the_request_decide_every_case_alike() {
    for (case, data, input) in cases() {
        let bundle = Bundle::compile(&[("d", &document_that_reads_input(&data))]).unwrap();
        assert_eq!(
            bundle.reads_input(),
            !data.as_object().unwrap().is_empty(),
            "{}",
            case.name
        );
        let result =
            serde_json::to_value(simulate(&bundle, &input.to_string(), Regime::Restrict).unwrap()).unwrap();
        assert!(case.accepts(&result), "{}: {result}", case.name);
    }
}

#[test]
fn the_contract_in_rego_decides_every_case_as_published() {
    let reference = Reference::new();
    for (case, data, input) in cases() {
        let result = reference.decide(&document(&data), &input).unwrap();
        assert!(case.accepts(&result), "{}: {result}", case.name);
    }
}
