//! The contract in Rego, and data documents written as Rego.

use std::fmt::Write as _;

use regorus::{Engine, Value};
use serde_json::Value as Json;

/// A data document with the given roots. An array under `restrict` is written as the set it stands for.
pub(super) fn document(data: &Json) -> String {
    document_if(data, "true")
}

/// The same document, every root of which looks at the request: nothing of it is constant.
pub(super) fn document_that_reads_input(data: &Json) -> String {
    document_if(data, "input.schema_version")
}

fn document_if(data: &Json, condition: &str) -> String {
    let mut text = "# caracal:data-document\npackage caracal.authz\n\nimport rego.v1\n\n".to_owned();
    for (root, value) in data.as_object().unwrap() {
        let value = match (root.as_str(), value) {
            ("restrict", Json::Array(items)) if items.is_empty() => "set()".to_owned(),
            ("restrict", Json::Array(items)) => {
                format!(
                    "{{{}}}",
                    items.iter().map(Json::to_string).collect::<Vec<_>>().join(", ")
                )
            }
            _ => value.to_string(),
        };
        writeln!(text, "{root} := {value} if {condition}\n").unwrap();
    }
    text
}

/// The contract in Rego, parsed once.
pub(super) struct Reference {
    contract: Engine,
}

impl Reference {
    pub(super) fn new() -> Self {
        let mut contract = Engine::new();
        let text = include_str!("../../src/contract.rego");
        contract
            .add_policy("contract.rego".to_owned(), text.to_owned())
            .unwrap();
        Self { contract }
    }

    /// The contract over one data document.
    pub(super) fn with(&self, document: &str) -> Decider {
        let mut engine = self.contract.clone();
        engine
            .add_policy("document".to_owned(), document.to_owned())
            .unwrap();
        Decider { engine }
    }

    /// The result document over one data document, or what the interpreter reports.
    pub(super) fn decide(&self, document: &str, input: &Json) -> Result<Json, String> {
        self.with(document).decide(input)
    }
}

/// The contract in Rego over one data document.
pub(super) struct Decider {
    engine: Engine,
}

impl Decider {
    /// The result document, or what the interpreter reports.
    pub(super) fn decide(&mut self, input: &Json) -> Result<Json, String> {
        self.engine
            .set_input(Value::from_json_str(&input.to_string()).unwrap());
        let result = self
            .engine
            .eval_rule("data.caracal.authz.result".to_owned())
            .map_err(|error| error.to_string())?;
        Ok(serde_json::to_value(&result).unwrap())
    }
}
