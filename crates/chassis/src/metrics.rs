//! How does a service count, and in which two formats is it read?

use prometheus::core::Collector;
use prometheus::proto::{Metric, MetricFamily, MetricType};
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    TextEncoder,
};
use serde_json::{Map, Value, json};

/// Upper bounds of the buckets of every duration, in seconds: 50 microseconds (one signature check) to 10 seconds
/// (the longest request any service allows).
pub const SECONDS_BUCKETS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_35, 0.000_5, 0.000_75, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.5, 1.0, 2.5, 10.0,
];

/// The metrics of one service. Cheap to clone. Several services in one process have one each.
///
/// Names and labels are literals in the code: a wrong or repeated one panics where the metrics are built, which is
/// at start, so that the first test of the service shows it.
#[derive(Clone, Debug, Default)]
pub struct Registry(prometheus::Registry);

impl Registry {
    /// No metric yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A count that only grows. Name: `caracal_<service>_<noun>_total`. Counting costs one atomic addition.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    /// A count per combination of labels. Label values come from enums, never from requests.
    pub fn counter_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// A whole number that goes up and down.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    /// A whole number per combination of labels.
    pub fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// A fraction or a number of seconds that goes up and down.
    pub fn float_gauge(&self, name: &str, help: &str) -> Gauge {
        self.add(Gauge::new(name, help))
    }

    /// Durations in seconds, in [`SECONDS_BUCKETS`]. Observing costs three atomic operations.
    pub fn histogram(&self, name: &str, help: &str) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(SECONDS_BUCKETS.to_vec());
        self.add(Histogram::with_opts(options))
    }

    /// Durations in seconds per combination of labels. Keep the child of each label (`with_label_values`) rather than
    /// looking it up for every observation.
    pub fn histogram_vec(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(SECONDS_BUCKETS.to_vec());
        self.add(HistogramVec::new(options, labels))
    }

    /// Every metric in the Prometheus text format, version 0.0.4.
    pub fn text(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.0.gather())
            .unwrap_or_default()
    }

    /// Every metric as one JSON object, by full name: a number; for a metric with labels an array of
    /// `{labels, value}`; for a histogram `{count, sum}`.
    pub fn json(&self) -> Value {
        let families = self.0.gather();
        families
            .iter()
            .map(|family| (family.name().to_owned(), family_value(family)))
            .collect::<Map<_, _>>()
            .into()
    }

    /// The same as [`Registry::json`] with `prefix` and a trailing `_total` taken off each name, and without the names
    /// that lack the prefix: the flat snapshot some services serve.
    pub fn json_without_prefix(&self, prefix: &str) -> Value {
        let families = self.0.gather();
        let short = |family: &MetricFamily| {
            let name = family.name().strip_prefix(prefix)?;
            Some((
                name.strip_suffix("_total").unwrap_or(name).to_owned(),
                family_value(family),
            ))
        };
        families.iter().filter_map(short).collect::<Map<_, _>>().into()
    }

    #[expect(
        clippy::expect_used,
        reason = "a wrong literal must show at start, not count invisibly"
    )]
    fn add<C: Collector + Clone + 'static>(&self, metric: prometheus::Result<C>) -> C {
        let metric = metric.expect("the metric's name and labels are valid literals");
        self.0
            .register(Box::new(metric.clone()))
            .expect("the metric's name is registered once");
        metric
    }
}

fn family_value(family: &MetricFamily) -> Value {
    let kind = family.get_field_type();
    match family.get_metric() {
        [only] if only.get_label().is_empty() => metric_value(kind, only),
        several => several
            .iter()
            .map(|metric| {
                let labels: Map<_, _> = metric
                    .get_label()
                    .iter()
                    .map(|label| (label.name().to_owned(), Value::from(label.value())))
                    .collect();
                json!({"labels": labels, "value": metric_value(kind, metric)})
            })
            .collect(),
    }
}

fn metric_value(kind: MetricType, metric: &Metric) -> Value {
    match kind {
        MetricType::COUNTER => number(metric.get_counter().get_value()),
        MetricType::GAUGE => number(metric.get_gauge().get_value()),
        MetricType::HISTOGRAM => {
            let histogram = metric.get_histogram();
            json!({"count": histogram.get_sample_count(), "sum": histogram.get_sample_sum()})
        }
        MetricType::SUMMARY | MetricType::UNTYPED => Value::Null,
    }
}

/// Prometheus keeps every number as a float; whole ones read better without `.0`.
fn number(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "whole and within the exact range, checked above"
        )]
        return Value::from(value as i64);
    }
    Value::from(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Registry {
        let registry = Registry::new();
        registry
            .counter("caracal_demo_requests_total", "Requests.")
            .inc_by(3);
        let denials = registry.counter_vec("caracal_demo_denials_total", "Denials.", &["reason"]);
        denials.with_label_values(&["revoked"]).inc();
        registry.float_gauge("caracal_demo_age_seconds", "Age.").set(1.5);
        registry
            .histogram("caracal_demo_seconds", "Time.")
            .observe(0.000_3);
        registry.gauge("other_open", "Open.").set(-2);
        registry
    }

    #[test]
    fn text_has_help_type_and_buckets() {
        let text = sample().text();
        assert!(
            text.contains("# TYPE caracal_demo_requests_total counter"),
            "{text}"
        );
        assert!(text.contains("caracal_demo_requests_total 3"), "{text}");
        assert!(
            text.contains("caracal_demo_denials_total{reason=\"revoked\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("caracal_demo_seconds_bucket{le=\"0.0002\"} 0"),
            "{text}"
        );
        assert!(
            text.contains("caracal_demo_seconds_bucket{le=\"0.00035\"} 1"),
            "{text}"
        );
    }

    #[test]
    fn json_has_numbers_labels_and_histogram_totals() {
        assert_eq!(
            sample().json(),
            json!({
                "caracal_demo_requests_total": 3,
                "caracal_demo_denials_total": [{"labels": {"reason": "revoked"}, "value": 1}],
                "caracal_demo_age_seconds": 1.5,
                "caracal_demo_seconds": {"count": 1, "sum": 0.000_3},
                "other_open": -2,
            })
        );
    }

    #[test]
    fn the_flat_snapshot_has_short_names_of_its_own_metrics_only() {
        let flat = sample().json_without_prefix("caracal_demo_");
        assert_eq!(flat.get("requests"), Some(&json!(3)));
        assert!(flat.get("other_open").is_none());
    }

    #[test]
    #[should_panic(expected = "registered once")]
    fn a_name_used_twice_shows_at_start() {
        let registry = sample();
        registry.counter("caracal_demo_requests_total", "Again.");
    }
}
