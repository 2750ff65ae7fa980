//! Which policy decides in a zone?

use std::sync::Arc;
use std::time::Duration;

use caracal_model::{PolicySetId, PolicySetVersionId, PolicyVersionId, ZoneId};
use caracal_policy::{Bundle, CompileError, Reason};
use caracal_storage::zone_model::PolicyRows;
use caracal_wire::manifest;

use super::loading::Compiling;

/// The manifest named in the evidence of a zone without an active policy set.
const NO_POLICY_MANIFEST: &str = "no_active_policy_set";

/// The policy of one zone, as of one version of its configuration.
#[derive(Debug)]
pub(crate) struct ZonePolicy {
    identity: PolicyIdentity,
    /// `None` when the active policy cannot be used, and none before it could.
    bundle: Option<Arc<Bundle>>,
    /// When the bundle was compiled, in Unix seconds.
    loaded_at: i64,
    /// A version on trial.
    shadow: Option<Shadow>,
}

/// A version that is asked as well and never obeyed. Its documents are tables.
#[derive(Debug, Clone)]
pub(crate) struct Shadow {
    pub(crate) version_id: PolicySetVersionId,
    pub(crate) manifest_sha256: String,
    pub(crate) bundle: Arc<Bundle>,
}

/// What the evidence says about the policy that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PolicyIdentity {
    pub(crate) policy_set_id: Option<PolicySetId>,
    pub(crate) version_id: Option<PolicySetVersionId>,
    /// Hash of the manifest in hex, or a word when there is no policy.
    pub(crate) manifest_sha256: String,
}

/// Why a stored policy cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("the manifest does not match its hash")]
    Manifest,
    #[error("policy version {0} of the manifest does not exist")]
    Missing(PolicyVersionId),
    #[error("the policy does not compile")]
    Compile(#[from] CompileError),
}

/// The active policy of a zone cannot be used, and there is none from before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the active policy set cannot be used")]
pub(crate) struct NoUsablePolicy;

impl ZonePolicy {
    /// Takes over the stored policy. An unchanged one is not compiled again; one that cannot be used leaves the one before
    /// it in force, which is logged. `now` is in Unix seconds.
    pub(super) fn load(
        zone: &ZoneId,
        rows: Option<PolicyRows>,
        previous: Option<&Self>,
        now: i64,
        compiling: &Compiling,
    ) -> Self {
        let Some(rows) = rows else {
            return Self::deny_all(now);
        };
        let identity = PolicyIdentity {
            policy_set_id: Some(rows.policy_set_id.clone()),
            version_id: Some(rows.version_id.clone()),
            manifest_sha256: rows.manifest_sha256.clone(),
        };
        let unchanged =
            previous.filter(|previous| previous.identity == identity && previous.bundle.is_some());
        if let Some(previous) = unchanged {
            return Self {
                identity,
                bundle: previous.bundle.clone(),
                loaded_at: previous.loaded_at,
                shadow: None,
            };
        }
        match compiling.time(|| compile(&rows)) {
            Ok(bundle) => Self {
                identity,
                bundle: Some(Arc::new(bundle)),
                loaded_at: now,
                shadow: None,
            },
            Err(error) => {
                tracing::error!(
                    zone.id = %zone,
                    policy_set_version.id = %rows.version_id,
                    error = &error as &dyn std::error::Error,
                    "the active policy set cannot be used; the one before it stays in force"
                );
                match previous {
                    Some(previous) => Self {
                        identity: previous.identity.clone(),
                        bundle: previous.bundle.clone(),
                        loaded_at: previous.loaded_at,
                        shadow: None,
                    },
                    None => Self {
                        identity,
                        bundle: None,
                        loaded_at: now,
                        shadow: None,
                    },
                }
            }
        }
    }

    /// Takes over the version on trial. One that cannot be used is left alone, which is logged: nothing depends on it.
    pub(super) fn with_shadow(
        mut self,
        zone: &ZoneId,
        rows: Option<PolicyRows>,
        previous: Option<&Self>,
        compiling: &Compiling,
    ) -> Self {
        let Some(rows) = rows else { return self };
        let known = previous
            .and_then(|previous| previous.shadow.as_ref())
            .filter(|shadow| shadow.version_id == rows.version_id);
        self.shadow = match known {
            Some(shadow) => Some(shadow.clone()),
            None => match compiling.time(|| compile(&rows)) {
                Ok(bundle) if !bundle.reads_input() => Some(Shadow {
                    version_id: rows.version_id,
                    manifest_sha256: rows.manifest_sha256,
                    bundle: Arc::new(bundle),
                }),
                unusable => {
                    let error = unusable.err();
                    let error = error.as_ref().map(|error| error as &dyn std::error::Error);
                    tracing::warn!(zone.id = %zone, policy_set_version.id = %rows.version_id, error, "a policy on trial cannot be used");
                    None
                }
            },
        };
        self
    }

    /// The version on trial, if there is one.
    pub(crate) fn shadow(&self) -> Option<&Shadow> {
        self.shadow.as_ref()
    }

    /// The compiled policy.
    ///
    /// # Errors
    /// [`NoUsablePolicy`]; nothing may then be decided.
    pub(crate) fn bundle(&self) -> Result<&Arc<Bundle>, NoUsablePolicy> {
        self.bundle.as_ref().ok_or(NoUsablePolicy)
    }

    pub(crate) fn identity(&self) -> &PolicyIdentity {
        &self.identity
    }

    /// When the bundle was compiled, in Unix seconds.
    pub(crate) fn loaded_at(&self) -> i64 {
        self.loaded_at
    }

    /// How long ago the bundle was compiled.
    pub(crate) fn age(&self, now: i64) -> Duration {
        Duration::from_secs(u64::try_from(now - self.loaded_at).unwrap_or_default())
    }

    fn deny_all(now: i64) -> Self {
        Self {
            identity: PolicyIdentity {
                policy_set_id: None,
                version_id: None,
                manifest_sha256: NO_POLICY_MANIFEST.to_owned(),
            },
            bundle: Some(Arc::new(Bundle::deny_all(Reason::NoActivePolicySet))),
            loaded_at: now,
            shadow: None,
        }
    }
}

fn compile(rows: &PolicyRows) -> Result<Bundle, Unusable> {
    let ids: Vec<PolicyVersionId> = rows
        .documents
        .iter()
        .map(|document| document.id.clone())
        .collect();
    if manifest::sha256(&ids) != rows.manifest_sha256 {
        return Err(Unusable::Manifest);
    }
    let mut modules = Vec::with_capacity(rows.documents.len());
    for document in &rows.documents {
        let content = document
            .content
            .as_deref()
            .ok_or_else(|| Unusable::Missing(document.id.clone()))?;
        modules.push((document.id.as_str(), content));
    }
    Ok(Bundle::compile(&modules)?)
}

#[cfg(test)]
mod tests {
    use caracal_chassis::metrics::Registry;
    use caracal_storage::zone_model::PolicyDocumentRow;

    use super::super::Loading;
    use super::*;

    const DOCUMENT: &str =
        "# caracal:data-document\npackage caracal.authz\n\nimport rego.v1\n\napp_ids := {\"k\": \"app-1\"}\n";

    fn rows(version: &str, content: Option<&str>) -> PolicyRows {
        let id = PolicyVersionId::try_from("pv-1").unwrap();
        PolicyRows {
            policy_set_id: PolicySetId::try_from("ps-1").unwrap(),
            version_id: PolicySetVersionId::try_from(version).unwrap(),
            manifest_sha256: manifest::sha256(std::slice::from_ref(&id)),
            documents: vec![PolicyDocumentRow {
                id,
                content: content.map(str::to_owned),
            }],
        }
    }

    fn load(rows: Option<PolicyRows>, previous: Option<&ZonePolicy>) -> ZonePolicy {
        let compiling = Loading::new(&Registry::new(), str::to_owned).compiling;
        ZonePolicy::load(&ZoneId::try_from("z1").unwrap(), rows, previous, 100, &compiling)
    }

    #[test]
    fn a_zone_without_a_policy_denies_everything() {
        let policy = load(None, None);
        assert!(policy.bundle().is_ok());
        assert_eq!(policy.identity().manifest_sha256, "no_active_policy_set");
    }

    #[test]
    fn an_unchanged_policy_is_not_compiled_again() {
        let first = load(Some(rows("v1", Some(DOCUMENT))), None);
        let second = load(Some(rows("v1", Some(DOCUMENT))), Some(&first));
        assert!(Arc::ptr_eq(first.bundle().unwrap(), second.bundle().unwrap()));
    }

    #[test]
    fn a_policy_that_cannot_be_used_leaves_the_one_before_in_force() {
        let first = load(Some(rows("v1", Some(DOCUMENT))), None);
        for broken in [
            rows("v2", None),
            rows("v2", Some("package caracal.authz\nallow := true")),
            {
                PolicyRows {
                    manifest_sha256: "0".repeat(64),
                    ..rows("v2", Some(DOCUMENT))
                }
            },
        ] {
            let second = load(Some(broken.clone()), Some(&first));
            assert_eq!(
                second.identity(),
                first.identity(),
                "the evidence names what decided"
            );
            assert!(second.bundle().is_ok());
            assert!(
                load(Some(broken), None).bundle().is_err(),
                "without one before, nothing is decided"
            );
        }
    }

    #[test]
    fn a_removed_policy_denies_everything_at_once() {
        let first = load(Some(rows("v1", Some(DOCUMENT))), None);
        let second = load(None, Some(&first));
        assert_eq!(second.identity().manifest_sha256, "no_active_policy_set");
    }
}
