//! What does the gateway count? Names are the contract's (docs/contract/gateway.md, "Metrics").

use std::future::Future;
use std::pin::pin;

use caracal_chassis::metrics::Registry;
use caracal_token::Proof;
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use tokio::time::Instant;
use tracing::Instrument;

use crate::Gateway;
use crate::denial::Denial;

/// Prefix of every name; the flat JSON snapshot drops it.
pub(crate) const PREFIX: &str = "caracal_gateway_";

/// A part of the work on a request that is timed by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stage {
    /// Which line of the route table.
    Route,
    /// Signature and claims of the bearer.
    Authenticate,
    /// What memory says about the operation.
    Operation,
    /// What is revoked, asked the first time.
    Revocation,
    /// The call to the STS and the check of its answer.
    Exchange,
    /// The shared replay table.
    Replay,
    /// The upstream's addresses.
    Resolve,
    /// The head of the upstream request.
    Inject,
    /// The intent in the spool.
    Record,
    /// From the decision to the head of the upstream's answer.
    Forward,
    /// From that head to the end of the exchange.
    Stream,
}

/// Times of the stages.
#[derive(Debug)]
pub(crate) struct StageTimes {
    route: Histogram,
    authenticate: Histogram,
    operation: Histogram,
    revocation: Histogram,
    exchange: Histogram,
    replay: Histogram,
    resolve: Histogram,
    inject: Histogram,
    record: Histogram,
    forward: Histogram,
    stream: Histogram,
}

impl StageTimes {
    /// Runs the work of a stage that may wait, and notes how long it took. The work begins here: a future that is given away is
    /// copied whole, and kept twice.
    pub(crate) async fn time<F: Future>(&self, stage: Stage, work: impl FnOnce() -> F) -> F::Output {
        let span = match stage {
            Stage::Authenticate => tracing::debug_span!("authenticate"),
            Stage::Exchange => tracing::debug_span!("exchange"),
            Stage::Replay => tracing::debug_span!("replay"),
            Stage::Resolve => tracing::debug_span!("forward"),
            Stage::Record => tracing::debug_span!("audit"),
            Stage::Route
            | Stage::Operation
            | Stage::Revocation
            | Stage::Inject
            | Stage::Forward
            | Stage::Stream => tracing::Span::none(),
        };
        let started = Instant::now();
        let work = pin!(work());
        let output = work.instrument(span).await;
        self.note(stage, started);
        output
    }

    /// The same for work in memory. Two looks at the clock.
    pub(crate) fn run<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let output = work();
        self.note(stage, started);
        output
    }

    /// Notes a stage that began at `started` and ends now.
    pub(crate) fn note(&self, stage: Stage, started: Instant) {
        let histogram = match stage {
            Stage::Route => &self.route,
            Stage::Authenticate => &self.authenticate,
            Stage::Operation => &self.operation,
            Stage::Revocation => &self.revocation,
            Stage::Exchange => &self.exchange,
            Stage::Replay => &self.replay,
            Stage::Resolve => &self.resolve,
            Stage::Inject => &self.inject,
            Stage::Record => &self.record,
            Stage::Forward => &self.forward,
            Stage::Stream => &self.stream,
        };
        histogram.observe(started.elapsed().as_secs_f64());
    }
}

/// The counters of one gateway.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) stages: StageTimes,
    /// From the complete request head to the decision.
    pub(crate) admission: Histogram,
    /// From the decision to the head of the upstream's answer.
    pub(crate) upstream: Histogram,
    pub(crate) requests: IntCounter,
    pub(crate) allowed: IntCounter,
    pub(crate) public: IntCounter,
    pub(crate) redirected: IntCounter,
    pub(crate) config_reloads: IntCounter,
    pub(crate) config_reload_errors: IntCounter,
    macs: IntCounter,
    signatures: IntCounter,
    pub(crate) sealed_answers: IntCounter,
    /// Answers of the STS that came on a channel.
    pub(crate) channel_answers: IntCounter,
    /// Round trips to the bus on the path of a request: one for each one-shot mandate.
    pub(crate) replay_claims: IntCounter,
    pub(crate) replay_given_back: IntCounter,
    pub(crate) streams_cut: IntCounterVec,
    /// Connections that ended before a request.
    pub(crate) connections_refused: IntCounterVec,
    denied: IntCounter,
    denials: IntCounterVec,
    missing_auth: IntCounter,
    bad_bearer: IntCounter,
    expiring: IntCounter,
    bad_routing: IntCounter,
    path_traversal: IntCounter,
    signature: IntCounter,
    jti_replay: IntCounter,
    revoked: IntCounter,
    revocation_stale: IntCounter,
    sts_exchange_errors: IntCounter,
    sts_circuit_fast_fail: IntCounter,
    upstream_errors: IntCounter,
    /// Attempts after the first.
    pub(crate) upstream_retries: IntCounter,
    /// By result, `ok` or `failed`.
    pub(crate) health_checks: IntCounterVec,
    state: State,
}

/// What is read when somebody asks.
#[derive(Debug)]
struct State {
    sts_circuit_open: IntGauge,
    sts_circuit_opened: IntGauge,
    sts_exchanges: IntGauge,
    bus_round_trips: IntGauge,
    revocations_active: IntGauge,
    revocation_age: Gauge,
    revocation_fresh: IntGauge,
    revocation_messages: IntGauge,
    revocation_reloads: IntGauge,
    revocation_reload_errors: IntGauge,
    replay_table: IntGauge,
    give_backs: IntGauge,
    upstream_ejected: IntGauge,
    upstream_ejections: IntGauge,
    upstream_unhealthy: IntGauge,
    audit_pending: IntGauge,
    audit_bytes: IntGauge,
    audit_files: IntGauge,
    audit_oldest_age: Gauge,
    tls_reload_errors: IntGauge,
    tls_certificate_expires: IntGaugeVec,
    acme_issued: IntGauge,
    acme_failed: IntGauge,
}

impl Metrics {
    /// Registers every metric.
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let name = |short: &str| format!("{PREFIX}{short}");
        let counter = |short: &str, help: &str| registry.counter(&name(short), help);
        let gauge = |short: &str, help: &str| registry.gauge(&name(short), help);
        let denial = |reason: &str| {
            counter(
                &format!("denials_{reason}_total"),
                "Requests denied for this reason.",
            )
        };
        let stages = registry.histogram_vec(&name("stage_seconds"), "Time of a stage.", &["stage"]);
        Self {
            stages: StageTimes {
                route: stages.with_label_values(&["route"]),
                authenticate: stages.with_label_values(&["authenticate"]),
                operation: stages.with_label_values(&["operation"]),
                revocation: stages.with_label_values(&["revocation"]),
                exchange: stages.with_label_values(&["exchange"]),
                replay: stages.with_label_values(&["replay"]),
                resolve: stages.with_label_values(&["resolve"]),
                inject: stages.with_label_values(&["inject"]),
                record: stages.with_label_values(&["record"]),
                forward: stages.with_label_values(&["forward"]),
                stream: stages.with_label_values(&["stream"]),
            },
            admission: registry.histogram(&name("admission_seconds"), "Request head to decision."),
            upstream: registry.histogram(
                &name("upstream_seconds"),
                "Decision to head of the upstream's answer.",
            ),
            requests: counter("requests_total", "Requests received."),
            allowed: counter("requests_allowed_total", "Requests forwarded."),
            public: counter("requests_public_total", "Requests forwarded on public routes."),
            config_reloads: counter("config_reloads_total", "Route tables put in force."),
            config_reload_errors: counter("config_reload_errors_total", "Configurations that were wrong."),
            redirected: counter("requests_redirected_total", "Requests sent elsewhere by a route."),
            macs: counter("mandates_by_mac_total", "Mandates proven by the MAC in them."),
            signatures: counter(
                "mandates_by_signature_total",
                "Mandates proven by their signature.",
            ),
            sealed_answers: counter(
                "sts_answers_by_mac_total",
                "Answers of the STS proven by their MAC.",
            ),
            channel_answers: counter(
                "sts_answers_by_channel_total",
                "Answers of the STS that came on a channel, refusals included.",
            ),
            replay_claims: counter(
                "replay_claims_total",
                "Uses claimed in the shared table, or tried to.",
            ),
            replay_given_back: counter(
                "replay_given_back_total",
                "Burns taken back from what had a mandate's MAC and another signature.",
            ),
            streams_cut: registry.counter_vec(
                &name("responses_cut_total"),
                "Open responses cut.",
                &["reason"],
            ),
            connections_refused: registry.counter_vec(
                &name("connections_refused_total"),
                "Connections that ended before a request.",
                &["reason"],
            ),
            denied: counter("requests_denied_total", "Requests denied."),
            denials: registry.counter_vec(&name("denials_total"), "Requests denied, by reason.", &["reason"]),
            missing_auth: denial("missing_auth"),
            bad_bearer: denial("bad_bearer"),
            expiring: denial("expiring"),
            bad_routing: denial("bad_routing"),
            path_traversal: denial("path_traversal"),
            signature: denial("signature"),
            jti_replay: denial("jti_replay"),
            revoked: denial("revoked"),
            revocation_stale: denial("revocation_stale"),
            sts_exchange_errors: counter("sts_exchange_errors_total", "Exchanges that gave no authority."),
            sts_circuit_fast_fail: counter(
                "sts_circuit_fast_fail_total",
                "Requests denied by an open breaker.",
            ),
            upstream_errors: counter("upstream_errors_total", "Admitted requests that got no answer."),
            upstream_retries: counter(
                "upstream_retries_total",
                "Attempts to reach an upstream after the first.",
            ),
            health_checks: registry.counter_vec(
                &name("upstream_health_checks_total"),
                "Health checks of upstream addresses.",
                &["result"],
            ),
            state: State {
                sts_circuit_open: gauge("sts_circuit_open", "1 while the STS is left alone."),
                sts_circuit_opened: gauge("sts_circuit_opened_total", "Times a breaker opened."),
                sts_exchanges: gauge("sts_exchanges_total", "Exchanges begun."),
                bus_round_trips: gauge("bus_round_trips_total", "Round trips to the event bus."),
                revocations_active: gauge("revocations_active", "Revoked anchors known."),
                revocation_age: registry.float_gauge(
                    &name("revocation_snapshot_age_seconds"),
                    "Age of what is known; -1 for nothing.",
                ),
                revocation_fresh: gauge(
                    "revocation_snapshot_fresh",
                    "1 while revocations are known well enough.",
                ),
                revocation_messages: gauge("revocation_messages_total", "Revocation messages applied."),
                revocation_reloads: gauge("revocation_reloads_total", "Revocation snapshots loaded."),
                revocation_reload_errors: gauge("revocation_reload_errors_total", "Snapshots that failed."),
                replay_table: gauge("replay_table_entries", "Burned mandates this process remembers."),
                give_backs: gauge(
                    "replay_give_backs_waiting",
                    "Burns to be taken back that Redis has not confirmed.",
                ),
                upstream_ejected: gauge("upstream_addresses_ejected", "Upstream addresses left alone."),
                upstream_ejections: gauge(
                    "upstream_ejections_total",
                    "Times an upstream address was left alone.",
                ),
                upstream_unhealthy: gauge(
                    "upstream_addresses_unhealthy",
                    "Upstream addresses that fail their health check.",
                ),
                audit_pending: gauge("audit_queue_depth", "Events the bus has not taken yet."),
                audit_bytes: gauge("audit_replay_bytes", "Size of the evidence spool."),
                audit_files: gauge("audit_replay_files", "Files of the evidence spool."),
                audit_oldest_age: registry.float_gauge(
                    &name("audit_replay_oldest_age_seconds"),
                    "Age of the oldest pending event.",
                ),
                tls_reload_errors: gauge(
                    "tls_reload_errors_total",
                    "New certificate files that could not be used.",
                ),
                acme_issued: gauge(
                    "acme_certificates_issued_total",
                    "Certificates this process has obtained.",
                ),
                acme_failed: gauge(
                    "acme_orders_failed_total",
                    "Orders of this process that gave none.",
                ),
                tls_certificate_expires: registry.gauge_vec(
                    &name("tls_certificate_expires_seconds"),
                    "Time until a certificate of the listener expires; negative afterwards.",
                    &["name"],
                ),
            },
            registry,
        }
    }

    /// The registry to serve.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Counts a proven mandate.
    pub(crate) fn proven_by(&self, proof: Proof) {
        match proof {
            Proof::Mac => self.macs.inc(),
            Proof::Signature => self.signatures.inc(),
        }
    }

    /// Counts a refusal.
    pub(crate) fn count_denial(&self, denial: &Denial) {
        let label = denial.face().label;
        self.denials.with_label_values(&[label]).inc();
        if *denial == Denial::StsCircuitOpen {
            self.sts_circuit_fast_fail.inc();
        }
        if denial.is_exchange() {
            self.sts_exchange_errors.inc();
        }
        if denial.is_upstream() {
            self.upstream_errors.inc();
            return;
        }
        self.denied.inc();
        let own = match label {
            "missing_auth" => &self.missing_auth,
            "bad_bearer" => &self.bad_bearer,
            "expiring" => &self.expiring,
            "bad_routing" => &self.bad_routing,
            "path_traversal" => &self.path_traversal,
            "signature" => &self.signature,
            "jti_replay" => &self.jti_replay,
            "revoked" => &self.revoked,
            "revocation_stale" => &self.revocation_stale,
            _ => return,
        };
        own.inc();
    }

    /// Reads the state of the gateway's parts into the gauges; called when somebody asks.
    pub(crate) fn read_state(&self, gateway: &Gateway) {
        let now = gateway.clock.now();
        let state = &self.state;
        let (exchanges, opened) = gateway.sts.counts();
        state
            .sts_circuit_open
            .set(i64::from(gateway.sts.is_circuit_open()));
        set(&state.sts_circuit_opened, opened);
        set(&state.sts_exchanges, exchanges);
        set(&state.bus_round_trips, gateway.bus.round_trips());
        set_len(&state.revocations_active, gateway.revocations.set().len());
        state
            .revocation_age
            .set(gateway.revocations.age(now).map_or(-1.0, |age| age.as_secs_f64()));
        state
            .revocation_fresh
            .set(i64::from(gateway.revocations.is_fresh(now)));
        let (messages, reloads, failed) = gateway.revocations.counts();
        set(&state.revocation_messages, messages);
        set(&state.revocation_reloads, reloads);
        set(&state.revocation_reload_errors, failed);
        set_len(&state.replay_table, gateway.burned.len());
        set_len(&state.give_backs, gateway.give_backs.len());
        let (ejected, ejections) = gateway.outliers.counts();
        set_len(&state.upstream_ejected, ejected);
        set(&state.upstream_ejections, ejections);
        let table = gateway.routes.load();
        let ill = table.checks().values().map(|check| check.ill_count()).sum();
        set_len(&state.upstream_unhealthy, ill);
        let spool = gateway.evidence.spool().stats();
        set(&state.audit_pending, spool.pending_events);
        set(&state.audit_bytes, spool.bytes);
        set_len(&state.audit_files, spool.files);
        state
            .audit_oldest_age
            .set(spool.oldest_age.map_or(0.0, |age| age.as_secs_f64()));
        if let Some(acme) = &gateway.acme {
            let (issued, failed) = acme.counts();
            set(&state.acme_issued, issued);
            set(&state.acme_failed, failed);
        }
        if let Some(tls) = &gateway.tls {
            set(&state.tls_reload_errors, tls.reload_errors());
            state.tls_certificate_expires.reset();
            // Of several for one name the one that ends first.
            let mut expiries = tls.expiries();
            expiries.sort_by_key(|(_name, expires_unix_s)| std::cmp::Reverse(*expires_unix_s));
            for (name, expires_unix_s) in expiries {
                let left = expires_unix_s.saturating_sub(gateway.clock.unix_seconds());
                state
                    .tls_certificate_expires
                    .with_label_values(&[&name])
                    .set(left);
            }
        }
    }
}

fn set(gauge: &IntGauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

fn set_len(gauge: &IntGauge, value: usize) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}
