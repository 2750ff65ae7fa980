//! What does the ledger say about one requested resource? On the path of every governed request: nothing is built first and
//! written afterwards.

use caracal_model::UnixMicros;
use caracal_policy::Decision;
use caracal_wire::audit::{Details, EventLine, decision, event_type, status};
use serde::ser::SerializeSeq as _;
use serde::{Serialize, Serializer};
use serde_json::json;

use super::{Scribe, put_token, reason};
use crate::exchange::mint::Minted;
use crate::exchange::refusal::Refusal;
use crate::exchange::resources::{Outcome, Verdict};
use crate::unique_id::unique_id;

impl Scribe<'_> {
    /// One requested resource. `refusal` is why the whole exchange failed although this resource may have been granted.
    pub(super) fn about_resource(
        &self,
        verdict: &Verdict,
        minted: Option<&Minted>,
        refusal: Option<&Refusal>,
    ) -> Option<Vec<u8>> {
        let mut metadata = self.metadata();
        let named = verdict
            .resource
            .as_ref()
            .map(|resource| resource.identifier.as_str());
        metadata.add_text("resource", named.unwrap_or(&verdict.asked));
        if let Some(shadow) = &verdict.shadow {
            let trial = json!({
                "policy_set_version_id": shadow.version_id,
                "manifest_sha256": shadow.manifest_sha256,
                "result": shadow.decision,
            });
            metadata.add("policy_shadow", &trial);
        }
        let (status, basis) = match &verdict.outcome {
            Outcome::Refused(status) => (*status, Basis::Nothing),
            Outcome::Spent(_) => (status::RATE_LIMITED, Basis::Nothing),
            Outcome::ControlKey => (status::COMPLETE, Basis::ControlKey),
            Outcome::Decided(decided) => (status::COMPLETE, Basis::Decided(decided)),
        };
        let mut end = End {
            decision: decision::DENY,
            status,
            reason: None,
        };
        if basis.grants() {
            end.conclude(&mut metadata, minted, refusal);
        }
        if end.status == status::OPERATION_NOT_PERMITTED {
            metadata.add_text("method", &self.request.unverified_method);
            metadata.add_text("path", &self.request.unverified_path);
        }
        let policy = basis.decision().map(|_| self.zone.policy.identity());
        let set = policy.and_then(|policy| policy.policy_set_id.as_ref());
        let version = policy.and_then(|policy| policy.version_id.as_ref());
        let line = EventLine {
            id: &unique_id(self.sts.clock.unix_millis()).ok()?,
            zone_id: self.zone.id.as_str(),
            event_type: event_type::TOKEN_EXCHANGE,
            request_id: &self.origin.request_id,
            decision: end.decision,
            policy_set_id: set.map(AsRef::as_ref).unwrap_or_default(),
            policy_set_version_id: version.map(AsRef::as_ref).unwrap_or_default(),
            manifest_sha: policy
                .map(|policy| policy.manifest_sha256.as_str())
                .unwrap_or_default(),
            evaluation_status: end.status,
            occurred_at: UnixMicros(self.sts.clock.unix_micros()),
        };
        let diagnostics = Diagnostics {
            decided: basis.decision(),
            reason: end.reason.as_deref(),
        };
        line.write(&basis, &diagnostics, &metadata).ok()
    }
}

/// What an outcome stands on.
enum Basis<'a> {
    Nothing,
    ControlKey,
    Decided(&'a Decision),
}

impl<'a> Basis<'a> {
    fn grants(&self) -> bool {
        match self {
            Self::Nothing => false,
            Self::ControlKey => true,
            Self::Decided(decided) => decided.allow(),
        }
    }

    fn decision(&self) -> Option<&'a Decision> {
        match self {
            Self::Decided(decided) => Some(decided),
            Self::Nothing | Self::ControlKey => None,
        }
    }
}

/// The policies that decided.
impl Serialize for Basis<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nothing => serializer.collect_seq(std::iter::empty::<()>()),
            Self::ControlKey => [json!({ "policy": "control-key" })].serialize(serializer),
            Self::Decided(decided) => decided.determining_policies().serialize(serializer),
        }
    }
}

/// What the policy said besides, and why the exchange failed nevertheless.
struct Diagnostics<'a> {
    decided: Option<&'a Decision>,
    reason: Option<&'a str>,
}

impl Serialize for Diagnostics<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        for said in self.decided.map(Decision::diagnostics).unwrap_or_default() {
            list.serialize_element(said)?;
        }
        if let Some(reason) = self.reason {
            list.serialize_element(&json!({ "reason": reason }))?;
        }
        list.end()
    }
}

/// How the exchange ended for a resource.
struct End {
    decision: &'static str,
    status: &'static str,
    reason: Option<String>,
}

impl End {
    /// For one that the policy granted.
    fn conclude(&mut self, metadata: &mut Details, minted: Option<&Minted>, refusal: Option<&Refusal>) {
        if let Some(minted) = minted {
            self.decision = decision::ALLOW;
            put_token(metadata, minted);
        }
        if let Some(refusal) = refusal {
            self.status = refusal.evaluation_status().unwrap_or(status::EXCHANGE_DENIED);
            if matches!(refusal, Refusal::Hold(_)) {
                self.decision = decision::PENDING;
            }
            self.reason = Some(reason(refusal));
        }
    }
}
