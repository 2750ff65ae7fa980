//! What is looked up when somebody reads the metrics?

use caracal_chassis::metrics::Registry;
use prometheus::{Gauge, Histogram, IntGauge};

use super::signed;
use crate::state::Sts;

/// Values that are not counted but looked up, and names of older dashboards for what histograms hold.
#[derive(Debug)]
pub(super) struct Gauges {
    audit_replay_pending: IntGauge,
    audit_replay_files: IntGauge,
    audit_replay_bytes: IntGauge,
    audit_replay_oldest_age_seconds: IntGauge,
    revocations_active: IntGauge,
    revocation_age_milliseconds: IntGauge,
    zones_loaded: IntGauge,
    zone_reloads: IntGauge,
    session_views: IntGauge,
    minted_tokens: IntGauge,
    approval_waiters: IntGauge,
    pub(super) opa_max_policy_age_seconds: IntGauge,
    pub(super) opa_poll_interval_seconds: IntGauge,
    opa_eval: IntGauge,
    opa_eval_duration_seconds: Gauge,
    opa_compile: IntGauge,
    opa_compile_duration_seconds: Gauge,
    graph_traversals: IntGauge,
    database_statements: IntGauge,
    bus_round_trips: IntGauge,
}

impl Gauges {
    pub(super) fn new(registry: &Registry, name: impl Fn(&str) -> String) -> Self {
        let gauge = |short: &str, help: &str| registry.gauge(&name(short), help);
        let seconds = |short: &str, help: &str| registry.float_gauge(&name(short), help);
        Self {
            audit_replay_pending: gauge("audit_replay_pending", "Events in the spool."),
            audit_replay_files: gauge("audit_replay_files", "Files of the spool."),
            audit_replay_bytes: gauge("audit_replay_bytes", "Bytes in the spool."),
            audit_replay_oldest_age_seconds: gauge(
                "audit_replay_oldest_age_seconds",
                "Age of the oldest event in the spool.",
            ),
            revocations_active: gauge("revocations_active", "Revoked anchors in memory."),
            revocation_age_milliseconds: gauge(
                "revocation_age_milliseconds",
                "How old the knowledge of revocations is; -1 when nothing is proved.",
            ),
            zones_loaded: gauge("zones_loaded", "Zones in memory."),
            zone_reloads: gauge("zone_reloads", "Zones read again since start."),
            session_views: gauge("session_views", "Sessions and delegations in memory."),
            minted_tokens: gauge("minted_tokens", "Tokens remembered by digest."),
            approval_waiters: gauge(
                "approval_waiters",
                "Requests that wait for a decision about an approval.",
            ),
            opa_max_policy_age_seconds: gauge(
                "opa_max_policy_age_seconds",
                "Age of the policy compiled first.",
            ),
            opa_poll_interval_seconds: gauge(
                "opa_poll_interval_seconds",
                "How often versions of zones are compared with the database.",
            ),
            opa_eval: gauge("opa_eval_total", "Policy decisions asked for."),
            opa_eval_duration_seconds: seconds(
                "opa_eval_duration_seconds_total",
                "Time of all policy decisions together.",
            ),
            opa_compile: gauge("opa_compile_total", "Policy set versions compiled."),
            opa_compile_duration_seconds: seconds(
                "opa_compile_duration_seconds_total",
                "Time of all compilations together.",
            ),
            graph_traversals: gauge(
                "graph_traversals_total",
                "Sessions and delegations read from the database.",
            ),
            database_statements: gauge("database_statements", "Statements sent since start."),
            bus_round_trips: gauge(
                "bus_round_trips",
                "Round trips to the event bus since start, background work included.",
            ),
        }
    }

    /// Looks up how the parts of the service stand.
    pub(super) fn refresh(&self, sts: &Sts) {
        let spool = sts.spool.stats();
        self.audit_replay_pending.set(signed(spool.pending_events));
        set_len(&self.audit_replay_files, spool.files);
        self.audit_replay_bytes.set(signed(spool.bytes));
        self.audit_replay_oldest_age_seconds
            .set(signed(spool.oldest_age.unwrap_or_default().as_secs()));
        set_len(&self.revocations_active, sts.revocations.len());
        let age = sts.revocations.freshness().age(sts.clock.now());
        self.revocation_age_milliseconds
            .set(age.map_or(-1, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX)));
        self.zones_loaded.set(signed(sts.zones.len()));
        self.zone_reloads.set(signed(sts.zones.reloads()));
        self.session_views.set(signed(sts.graph.len()));
        self.minted_tokens.set(signed(sts.minted.len()));
        set_len(&self.approval_waiters, sts.waiters.len());
        self.opa_max_policy_age_seconds
            .set(signed(sts.zones.oldest_policy().as_secs()));
        self.database_statements.set(signed(sts.database.statements()));
        self.bus_round_trips.set(signed(sts.bus.round_trips()));
    }

    /// Says under the older names what the histograms of decisions, compilations and readings of the graph hold.
    pub(super) fn derive(&self, decisions: &Histogram, compilations: &Histogram, traversals: &Histogram) {
        self.opa_eval.set(signed(decisions.get_sample_count()));
        self.opa_eval_duration_seconds.set(decisions.get_sample_sum());
        self.opa_compile.set(signed(compilations.get_sample_count()));
        self.opa_compile_duration_seconds
            .set(compilations.get_sample_sum());
        self.graph_traversals.set(signed(traversals.get_sample_count()));
    }
}

fn set_len(gauge: &IntGauge, len: usize) {
    gauge.set(i64::try_from(len).unwrap_or(i64::MAX));
}
