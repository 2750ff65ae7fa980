//! One credential a workload is launched with, as it is configured.

use serde::{Deserialize, Serialize};

/// A binding, in its stored form, which is also the one that is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Binding {
    /// The environment variable.
    pub(crate) env: String,
    /// The identifier of the resource.
    pub(crate) resource: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) optional: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) on_failure: Option<String>,
}
