//! May this text be stored as a data document? A lexical check with the published error words.
//!
//! The check reads characters, not Rego: it runs where no interpreter is at hand and its answers are
//! part of the contract (`docs/contract/decision-contract.md`, section "Storing a document"). Whether
//! the documents of a set mean something together is for [`crate::Bundle::compile`] to say.

mod extent;
mod lexical;
mod preview;

use std::fmt;

use lexical::{Skeleton, Unbalanced};
pub use preview::{Preview, preview};

pub(crate) use extent::Extent;
pub(crate) use lexical::is_dotted_name;

/// Most characters of a data document.
pub const CONTENT_CHARACTERS_MAX: usize = 262_144;

/// Built-ins no document may call: they reach outside or answer differently each time.
pub const FORBIDDEN_BUILTINS: [&str; 9] = [
    "http.send",
    "net.lookup_ip_addr",
    "net.cidr_contains",
    "net.cidr_intersects",
    "net.cidr_expand",
    "net.cidr_merge",
    "opa.runtime",
    "rand.intn",
    "time.now_ns",
];

/// The names a document may define.
pub const DATA_ROOTS: [&str; 6] = [
    "app_ids",
    "grants",
    "confinement",
    "restrict",
    "risk",
    "approval_tiers",
];

/// The comment every data document carries.
pub(crate) const MARKER: &str = "caracal:data-document";

/// The comment every module of a decision policy carries.
pub(crate) const DECISION_MARKER: &str = "caracal:decision-policy";

/// The comment of a module that a bundle's data became: its rules are not shown to who asks about the policy.
pub(crate) const BUNDLE_DATA_MARKER: &str = "caracal:bundle-data";

/// The package whose `result` decides, and in which data documents are.
pub(crate) const PACKAGE: &str = "caracal.authz";

/// Why a text may not be stored. `Display` is the published error word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Nothing but white space.
    #[error("empty_policy")]
    Empty,
    /// More than [`CONTENT_CHARACTERS_MAX`] characters.
    #[error("content_too_large")]
    TooLarge,
    /// A string literal does not end.
    #[error("unterminated_string")]
    UnterminatedString,
    /// A bracket is not closed, or closes another one.
    #[error("unbalanced_delimiters")]
    UnbalancedDelimiters,
    /// No `package` line.
    #[error("missing_package_declaration")]
    MissingPackage,
    /// The package is not a dotted name.
    #[error("invalid_package_name")]
    InvalidPackage,
    /// A call of one of [`FORBIDDEN_BUILTINS`].
    #[error("forbidden_builtin:{0}")]
    ForbiddenBuiltin(&'static str),
    /// Another package than `caracal.authz`.
    #[error("must_use_package_caracal_authz")]
    OtherPackage,
    /// The comment `# caracal:data-document` is missing.
    #[error("must_be_data_document")]
    NotMarked,
    /// The document decides; only the platform may.
    #[error("data_document_must_not_define_result")]
    DefinesResult,
    /// The document defines nothing.
    #[error("data_document_must_define_data")]
    DefinesNothing,
    /// The document defines a name that is none of [`DATA_ROOTS`].
    #[error("data_document_rule_not_allowed:{0}")]
    RuleNotAllowed(RuleName),
    /// A decision policy in a package that is the platform's.
    #[error("decision_policy_package_not_allowed")]
    ReservedPackage,
    /// A decision policy defines nothing.
    #[error("decision_policy_must_define_a_rule")]
    DecidesNothing,
    /// A decision policy defines a data root, which is for data documents.
    #[error("decision_policy_must_not_define_data:{0}")]
    DefinesData(&'static str),
}

/// A name somebody defined, bounded so that it may be repeated to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleName(String);

impl fmt::Display for RuleName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Whether a text is a module of a decision policy: full Rego whose `result` decides. A text with both comments is a data
/// document.
pub fn is_decision_policy(content: &str) -> bool {
    is_marked(content, DECISION_MARKER) && !is_marked(content, MARKER)
}

/// Checks a text before it is stored as a data document or as a module of a decision policy.
///
/// # Errors
/// The first [`DocumentError`] in the order of its variants.
pub fn validate(content: &str) -> Result<(), DocumentError> {
    if content.trim().is_empty() {
        return Err(DocumentError::Empty);
    }
    if content.chars().count() > CONTENT_CHARACTERS_MAX {
        return Err(DocumentError::TooLarge);
    }
    let skeleton = Skeleton::of(content).map_err(|problem| match problem {
        Unbalanced::String { .. } => DocumentError::UnterminatedString,
        Unbalanced::Delimiter { .. } => DocumentError::UnbalancedDelimiters,
    })?;
    let package = skeleton.package().ok_or(DocumentError::MissingPackage)?;
    if !is_dotted_name(package) {
        return Err(DocumentError::InvalidPackage);
    }
    if let Some(builtin) = FORBIDDEN_BUILTINS
        .into_iter()
        .find(|builtin| skeleton.calls(builtin))
    {
        return Err(DocumentError::ForbiddenBuiltin(builtin));
    }
    if is_decision_policy(content) {
        return check_decision_policy(package, &skeleton.rule_heads());
    }
    if package != PACKAGE {
        return Err(DocumentError::OtherPackage);
    }
    if !is_marked(content, MARKER) {
        return Err(DocumentError::NotMarked);
    }
    check_rules(&skeleton.rule_heads())
}

pub(crate) fn is_marked(content: &str, marker: &str) -> bool {
    content.lines().any(|line| {
        line.trim()
            .strip_prefix('#')
            .is_some_and(|comment| comment.trim() == marker)
    })
}

/// Whether decision policies may not be in a package.
pub(crate) fn is_reserved(package: &str) -> bool {
    let first = package.split('.').next();
    package != PACKAGE && matches!(first, Some("caracal" | "system"))
}

fn check_decision_policy(package: &str, heads: &[&str]) -> Result<(), DocumentError> {
    if is_reserved(package) {
        return Err(DocumentError::ReservedPackage);
    }
    if heads.is_empty() {
        return Err(DocumentError::DecidesNothing);
    }
    match DATA_ROOTS.into_iter().find(|root| heads.contains(root)) {
        Some(root) if package == PACKAGE => Err(DocumentError::DefinesData(root)),
        _ => Ok(()),
    }
}

fn check_rules(heads: &[&str]) -> Result<(), DocumentError> {
    if heads.contains(&"result") {
        return Err(DocumentError::DefinesResult);
    }
    if heads.is_empty() {
        return Err(DocumentError::DefinesNothing);
    }
    match heads.iter().find(|head| !DATA_ROOTS.contains(head)) {
        None => Ok(()),
        Some(head) => Err(DocumentError::RuleNotAllowed(RuleName(
            head.chars().take(64).collect(),
        ))),
    }
}

#[cfg(test)]
mod tests;
