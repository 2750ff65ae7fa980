//! What does the service count? Names are part of the contract (`docs/contract/token-exchange.md`, section "Metrics").

mod gauges;

use std::time::Duration;

use caracal_chassis::metrics::Registry;
use caracal_token::Use;
use prometheus::{Histogram, HistogramTimer, IntCounter, IntCounterVec, IntGauge};
use serde_json::{Value, json};

use self::gauges::Gauges;
use crate::exchange::client::Via;
use crate::exchange::refusal::Refusal;
use crate::exchange::request::ExchangeRequest;
use crate::session_graph::Timing;
use crate::state::Sts;
use crate::upstream_credential::Counters;
use crate::workload::refusal::RunRefusal;
use crate::zone::Loading;

/// The metrics of the service.
#[derive(Debug)]
pub(crate) struct Metrics {
    exchanges: IntCounterVec,
    run_refusals: IntCounterVec,
    mandates: IntCounterVec,
    seconds: [Histogram; ExchangeClass::ALL.len()],
    graph_timing: Timing,
    loading: Loading,
    pub(crate) stages: StageTimes,
    pub(crate) policy_seconds: Histogram,
    pub(crate) policy_errors: IntCounter,
    pub(crate) subject_token_known: IntCounter,
    pub(crate) subject_token_verified: IntCounter,
    pub(crate) audit_sink_errors: IntCounter,
    pub(crate) denial_events_suppressed: IntCounter,
    pub(crate) mac_questions_unproven: IntCounter,
    pub(crate) gateway_channels: IntGauge,
    pub(crate) policy_shadow: IntCounterVec,
    pub(crate) stream_entries: IntCounterVec,
    introspections: IntCounterVec,
    policy_questions: IntCounterVec,
    pub(crate) policy_question_seconds: Histogram,
    pub(crate) upstream_credentials: Counters,
    audit_replayed: IntCounter,
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

/// A part of the work on an exchange that is timed by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stage {
    /// Who asks.
    Client,
    /// What is granted, resource by resource.
    Policy,
    /// The signature, and the record where there is one.
    Mint,
}

/// Times of the stages.
#[derive(Debug)]
pub(crate) struct StageTimes {
    client: Histogram,
    policy: Histogram,
    mint: Histogram,
}

impl StageTimes {
    fn new(registry: &Registry, name: &str) -> Self {
        let stages = registry.histogram_vec(name, "Time of a stage of an exchange.", &["stage"]);
        Self {
            client: stages.with_label_values(&["client"]),
            policy: stages.with_label_values(&["policy"]),
            mint: stages.with_label_values(&["mint"]),
        }
    }

    /// Times the work of a stage until it is dropped, whatever came of it. Two readings of the clock.
    pub(crate) fn timer(&self, stage: Stage) -> HistogramTimer {
        let histogram = match stage {
            Stage::Client => &self.client,
            Stage::Policy => &self.policy,
            Stage::Mint => &self.mint,
        };
        histogram.start_timer()
    }
}

impl Metrics {
    /// Registers every metric.
    pub(crate) fn new(registry: &Registry) -> Self {
        let name = |short: &str| format!("caracal_sts_{short}");
        let counter = |short: &str, help: &str| registry.counter(&name(short), help);
        let help = "Time from the parsed request to the answer.";
        let seconds = registry.histogram_vec(&name("exchange_seconds"), help, &["class"]);
        Self {
            exchanges: registry.counter_vec(
                &name("exchanges_total"),
                "Token exchanges by outcome: issued, or the kind of refusal.",
                &["outcome"],
            ),
            run_refusals: registry.counter_vec(
                &name("run_refusals_total"),
                "Refusals of the run endpoints, by kind.",
                &["refusal"],
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
            loading: Loading::new(registry, name),
            stages: StageTimes::new(registry, &name("stage_seconds")),
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
            mac_questions_unproven: counter(
                "mac_questions_unproven_total",
                "Exchanges of gateways with another MANDATE_MAC_KEY, answered with a signature.",
            ),
            gateway_channels: registry
                .gauge(&name("gateway_channels"), "Channels on which gateways exchange."),
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
            policy_questions: registry.counter_vec(
                &name("policy_questions_total"),
                "Questions about policies: answered, undefined, failed, or refused.",
                &["outcome"],
            ),
            policy_question_seconds: registry.histogram(
                &name("policy_question_seconds"),
                "Time to evaluate one question about policies, the queue included.",
            ),
            upstream_credentials: Counters::new(registry, name),
            audit_replayed: counter(
                "audit_replay_replayed_total",
                "Events an earlier process left in the spool, which this one publishes.",
            ),
            audit_dropped: counter(
                "audit_dropped_total",
                "Events lost. Always 0: what cannot be recorded is refused.",
            ),
            gauges: Gauges::new(registry, name),
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

    /// Counts a question about policies.
    pub(crate) fn asked(&self, outcome: &str) {
        self.policy_questions.with_label_values(&[outcome]).inc();
    }

    /// Counts a refusal.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.exchanges.with_label_values(&[refusal.label()]).inc();
    }

    /// Counts a refusal of a run endpoint.
    pub(crate) fn run_refused(&self, refusal: &RunRefusal) {
        self.run_refusals.with_label_values(&[refusal.label()]).inc();
    }

    /// Measures one exchange until the answer is dropped.
    pub(crate) fn exchange_timer(&self, via: Via, request: &ExchangeRequest) -> Option<HistogramTimer> {
        let class = ExchangeClass::of(via, request);
        let at = ExchangeClass::ALL.iter().position(|known| *known == class);
        Some(self.seconds.get(at?)?.start_timer())
    }

    /// Takes note of what an earlier process left in the spool, and of how often versions of zones are compared.
    pub(crate) fn started(&self, replayed: u64, poll: Duration) {
        self.audit_replayed.inc_by(replayed);
        self.gauges.opa_poll_interval_seconds.set(signed(poll.as_secs()));
    }

    /// Where the loading of zones is measured.
    pub(crate) fn loading(&self) -> Loading {
        self.loading.clone()
    }

    /// Looks up the values that are not counted.
    pub(crate) fn refresh(&self, sts: &Sts) {
        self.gauges.refresh(sts);
        self.gauges.derive(
            &self.policy_seconds,
            &self.loading.compiling.seconds,
            &self.graph_timing.seconds,
        );
    }

    /// The document of `/metrics.json`.
    pub(crate) fn json(&self, registry: &Registry) -> Value {
        let (policies, compilations) = (&self.policy_seconds, &self.loading.compiling);
        json!({
            "sts": registry.json_without_prefix("caracal_sts_"),
            "opa": {
                "eval_total": policies.get_sample_count(),
                "eval_errors": self.policy_errors.get(),
                "eval_duration_seconds": policies.get_sample_sum(),
                "compile_total": compilations.seconds.get_sample_count(),
                "compile_errors": compilations.errors.get(),
                "compile_duration_seconds": compilations.seconds.get_sample_sum(),
                "poll_interval_seconds": self.gauges.opa_poll_interval_seconds.get(),
                "max_policy_age_seconds": self.gauges.opa_max_policy_age_seconds.get(),
            },
            "audit_dropped": self.audit_dropped.get(),
        })
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
