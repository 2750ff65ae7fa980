//! What does the service count? Names are part of the contract (`docs/contract/token-exchange.md`, section "Metrics").

use caracal_chassis::metrics::Registry;
use caracal_token::Use;
use prometheus::{Gauge, Histogram, HistogramTimer, IntCounter, IntCounterVec, IntGauge};
use serde_json::{Value, json};

use crate::exchange::client::Via;
use crate::exchange::refusal::Refusal;
use crate::exchange::request::ExchangeRequest;
use crate::session_graph::Timing;
use crate::state::Sts;

/// The metrics of the service.
#[derive(Debug)]
pub(crate) struct Metrics {
    exchanges: IntCounterVec,
    mandates: IntCounterVec,
    seconds: [Histogram; ExchangeClass::ALL.len()],
    graph_timing: Timing,
    pub(crate) zone_load_seconds: Histogram,
    pub(crate) policy_seconds: Histogram,
    pub(crate) policy_errors: IntCounter,
    pub(crate) subject_token_known: IntCounter,
    pub(crate) subject_token_verified: IntCounter,
    pub(crate) audit_sink_errors: IntCounter,
    pub(crate) denial_events_suppressed: IntCounter,
    pub(crate) policy_shadow: IntCounterVec,
    pub(crate) stream_entries: IntCounterVec,
    introspections: IntCounterVec,
    pub(crate) upstream_credentials: IntCounterVec,
    audit_dropped: IntCounter,
    gauges: Gauges,
}

/// What kind of exchange is asked for, as far as the request itself says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExchangeClass {
    /// By a gateway, with the mandate of a call.
    Gateway,
    /// By a client, within a governed session and a delegation.
    OneShot,
    /// By a client, with a token of a user or of its own.
    Subject,
    /// By a client, with nothing but its credentials.
    Session,
}

impl ExchangeClass {
    const ALL: [Self; 4] = [Self::Gateway, Self::OneShot, Self::Subject, Self::Session];

    fn of(via: Via, request: &ExchangeRequest) -> Self {
        if via == Via::Gateway {
            Self::Gateway
        } else if request.subject_token.is_some() {
            Self::Subject
        } else if request.agent_session_id.is_some() && request.delegation_edge_id.is_some() {
            Self::OneShot
        } else {
            Self::Session
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::OneShot => "one_shot",
            Self::Subject => "subject",
            Self::Session => "session",
        }
    }
}

/// Values that are looked up when the metrics are read.
#[derive(Debug)]
struct Gauges {
    audit_replay_pending: IntGauge,
    audit_replay_bytes: IntGauge,
    audit_replay_oldest_age_seconds: IntGauge,
    revocations_active: IntGauge,
    revocation_age_milliseconds: IntGauge,
    zones_loaded: IntGauge,
    zone_reloads: IntGauge,
    session_views: IntGauge,
    minted_tokens: IntGauge,
    approval_waiters: IntGauge,
    opa_max_policy_age_seconds: IntGauge,
    opa_eval: IntGauge,
    opa_eval_duration_seconds: Gauge,
    graph_traversals: IntGauge,
    database_statements: IntGauge,
    bus_round_trips: IntGauge,
}

impl Metrics {
    /// Registers every metric.
    pub(crate) fn new(registry: &Registry) -> Self {
        let name = |short: &str| format!("caracal_sts_{short}");
        let counter = |short: &str, help: &str| registry.counter(&name(short), help);
        let gauge = |short: &str, help: &str| registry.gauge(&name(short), help);
        let help = "Time from the parsed request to the answer.";
        let seconds = registry.histogram_vec(&name("exchange_seconds"), help, &["class"]);
        Self {
            exchanges: registry.counter_vec(
                &name("exchanges_total"),
                "Token exchanges by outcome: issued, or the kind of refusal.",
                &["outcome"],
            ),
            mandates: registry.counter_vec(&name("mandates_total"), "Mandates issued by class.", &["use"]),
            seconds: ExchangeClass::ALL.map(|class| seconds.with_label_values(&[class.label()])),
            graph_timing: Timing {
                seconds: registry.histogram(
                    &name("graph_read_seconds"),
                    "Time to read a session, its delegation and their lineage from the database.",
                ),
                errors: counter(
                    "graph_traversal_errors_total",
                    "Sessions and delegations that could not be read from the database.",
                ),
            },
            zone_load_seconds: registry.histogram(
                &name("zone_load_seconds"),
                "Time to read the configuration of a zone and to build what decides from it.",
            ),
            policy_seconds: registry.histogram(&name("policy_seconds"), "Time of one policy decision."),
            policy_errors: counter(
                "opa_eval_errors_total",
                "Policy decisions that could not be reached.",
            ),
            subject_token_known: counter(
                "subject_tokens_known_total",
                "Subject tokens this process minted, whose signature was not checked again.",
            ),
            subject_token_verified: counter(
                "subject_tokens_verified_total",
                "Subject tokens whose signature was checked.",
            ),
            audit_sink_errors: counter("audit_sink_errors_total", "Events that could not be spooled."),
            denial_events_suppressed: counter(
                "denial_events_suppressed_total",
                "Refusals not written to the ledger because their source exceeded its budget.",
            ),
            policy_shadow: registry.counter_vec(
                &name("policy_shadow_total"),
                "Decisions a policy on trial was asked about: same, different, or failed.",
                &["outcome"],
            ),
            stream_entries: registry.counter_vec(
                &name("stream_entries_total"),
                "Entries processed by stream.",
                &["stream"],
            ),
            introspections: registry.counter_vec(
                &name("introspections_total"),
                "Tokens introspected, by whether they held.",
                &["active"],
            ),
            upstream_credentials: registry.counter_vec(
                &name("upstream_credentials_total"),
                "Fetches of upstream credentials by outcome: fetched, failed, refreshed, waited, circuit_opened.",
                &["outcome"],
            ),
            audit_dropped: counter(
                "audit_dropped_total",
                "Events lost. Always 0: what cannot be recorded is refused.",
            ),
            gauges: Gauges {
                audit_replay_pending: gauge("audit_replay_pending", "Events in the spool."),
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
                opa_eval: gauge("opa_eval_total", "Policy decisions asked for."),
                opa_eval_duration_seconds: registry.float_gauge(
                    &name("opa_eval_duration_seconds_total"),
                    "Time of all policy decisions together.",
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
            },
        }
    }

    /// Where reading sessions and delegations is measured.
    pub(crate) fn graph_timing(&self) -> Timing {
        self.graph_timing.clone()
    }

    /// Counts a mandate that was released.
    pub(crate) fn minted(&self, r#use: Use) {
        self.mandates.with_label_values(&[r#use.as_str()]).inc();
        self.exchanges.with_label_values(&["issued"]).inc();
    }

    /// Counts an introspection.
    pub(crate) fn introspected(&self, active: bool) {
        let label = if active { "true" } else { "false" };
        self.introspections.with_label_values(&[label]).inc();
    }

    /// Counts a refusal.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.exchanges.with_label_values(&[refusal.label()]).inc();
    }

    /// Measures one exchange until the answer is dropped.
    pub(crate) fn exchange_timer(&self, via: Via, request: &ExchangeRequest) -> Option<HistogramTimer> {
        let class = ExchangeClass::of(via, request);
        let at = ExchangeClass::ALL.iter().position(|known| *known == class);
        Some(self.seconds.get(at?)?.start_timer())
    }

    /// Looks up the values that are not counted.
    pub(crate) fn refresh(&self, sts: &Sts) {
        let gauges = &self.gauges;
        let spool = sts.spool.stats();
        gauges.audit_replay_pending.set(signed(spool.pending_events));
        gauges.audit_replay_bytes.set(signed(spool.bytes));
        gauges
            .audit_replay_oldest_age_seconds
            .set(signed(spool.oldest_age.unwrap_or_default().as_secs()));
        gauges
            .revocations_active
            .set(i64::try_from(sts.revocations.len()).unwrap_or(i64::MAX));
        let age = sts.revocations.freshness().age(sts.clock.now());
        gauges
            .revocation_age_milliseconds
            .set(age.map_or(-1, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX)));
        gauges.zones_loaded.set(signed(sts.zones.len()));
        gauges.zone_reloads.set(signed(sts.zones.reloads()));
        gauges.session_views.set(signed(sts.graph.len()));
        gauges.minted_tokens.set(signed(sts.minted.len()));
        gauges
            .approval_waiters
            .set(i64::try_from(sts.waiters.len()).unwrap_or(i64::MAX));
        gauges
            .opa_max_policy_age_seconds
            .set(signed(sts.zones.oldest_policy().as_secs()));
        gauges
            .opa_eval
            .set(signed(self.policy_seconds.get_sample_count()));
        gauges
            .opa_eval_duration_seconds
            .set(self.policy_seconds.get_sample_sum());
        gauges
            .graph_traversals
            .set(signed(self.graph_timing.seconds.get_sample_count()));
        gauges.database_statements.set(signed(sts.database.statements()));
        gauges.bus_round_trips.set(signed(sts.bus.round_trips()));
    }

    /// The document of `/metrics.json`.
    pub(crate) fn json(&self, registry: &Registry) -> Value {
        let policies = &self.policy_seconds;
        json!({
            "sts": registry.json_without_prefix("caracal_sts_"),
            "opa": {
                "eval_total": policies.get_sample_count(),
                "eval_errors": self.policy_errors.get(),
                "eval_duration_seconds": policies.get_sample_sum(),
                "max_policy_age_seconds": self.gauges.opa_max_policy_age_seconds.get(),
            },
            "audit_dropped": self.audit_dropped.get(),
        })
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
