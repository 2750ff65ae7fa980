//! What does this document define and refer to? Shown to its author before it is stored.

use serde::Serialize;

use super::lexical::Skeleton;

/// What a document holds, by the names in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// The package.
    pub package: String,
    /// The names the document defines, in order of appearance.
    pub rules: Vec<String>,
    /// The decision a document falls back to: `null`, since only the platform decides.
    pub default_result: Option<String>,
    /// The decisions a document makes: none, since only the platform decides.
    pub decisions: Vec<String>,
    /// References to the request, such as `input.principal.id`; a document with any is interpreted
    /// for each decision.
    pub inputs_referenced: Vec<String>,
    /// References to other documents.
    pub data_referenced: Vec<String>,
}

/// Lists what a document defines and refers to; `None` when it has no package or is not balanced.
pub fn preview(content: &str) -> Option<Preview> {
    let skeleton = Skeleton::of(content).ok()?;
    Some(Preview {
        package: skeleton.package()?.to_owned(),
        rules: skeleton.rule_heads().into_iter().map(str::to_owned).collect(),
        default_result: None,
        decisions: Vec::new(),
        inputs_referenced: skeleton.references("input"),
        data_referenced: skeleton.references("data"),
    })
}
