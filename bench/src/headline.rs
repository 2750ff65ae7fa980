//! Which figures are the headline, and what are they called? Whoever compares runs reads them by these names.

use serde_json::{Map, Value};

use crate::report::Report;

/// Name of each, and what it is.
pub(crate) const HEADLINE: [(&str, &str); 19] = [
    (
        "governed_cpu_us",
        "CPU of gateway, STS, Redis and PostgreSQL for a governed call and its mint, us",
    ),
    (
        "gateway_cpu_us",
        "CPU of the gateway for a call with a one-shot mandate, us",
    ),
    (
        "sts_cpu_us",
        "CPU of the STS for a governed call and its mint, us",
    ),
    (
        "reusable_gateway_cpu_us",
        "CPU of the gateway for a call with a reusable mandate, us",
    ),
    ("bare_proxy_cpu_us", "CPU of Pingora alone for a request, us"),
    (
        "envoy_jwt_authz_cpu_us",
        "CPU of Envoy with jwt_authn and ext_authz, us",
    ),
    ("envoy_jwt_cpu_us", "CPU of Envoy with jwt_authn, us"),
    ("haproxy_jwt_cpu_us", "CPU of HAProxy with jwt_verify, us"),
    ("nginx_cpu_us", "CPU of nginx, us"),
    ("governed_per_s", "governed calls with their mint a second"),
    ("added_p50_ms", "time that the gateway adds at half load, p50, ms"),
    ("added_p99_ms", "the same, p99, ms"),
    ("sql_per_call", "SQL statements of a governed call and its mint"),
    ("redis_per_call", "round trips to Redis of the same"),
    (
        "allocs_per_call",
        "heap allocations in the gateway for a governed call",
    ),
    (
        "revocation_p99_ms",
        "from asking for a revocation to the gateway's refusal, p99, ms",
    ),
    (
        "stream_cut_p99_ms",
        "the same to the end of open responses, p99, ms",
    ),
    (
        "gateway_rss_mib",
        "resident memory of the gateway after that load, MiB",
    ),
    ("errors", "what failed, in all scenarios together"),
];

/// Adds them as a table. `run` says what they were measured on.
pub(crate) fn show(run: &str, report: &mut Report) {
    let rows: Vec<Vec<String>> = HEADLINE
        .iter()
        .filter_map(|(name, meaning)| {
            let figure = report.figures().get(*name)?.as_f64()?;
            let digits = if figure >= 10.0 || figure.fract() == 0.0 {
                0
            } else {
                2
            };
            Some(vec![(*meaning).to_owned(), format!("{figure:.digits$}")])
        })
        .collect();
    report.table("Headline", &["figure", "measured"], &rows);
    report.remark(run);
}

/// Whether a figure is one of them.
pub(crate) fn holds(figure: &str) -> bool {
    HEADLINE.iter().any(|(name, _meaning)| *name == figure)
}

/// Those that were measured.
pub(crate) fn of(figures: &Map<String, Value>) -> Map<String, Value> {
    let measured = HEADLINE
        .iter()
        .filter_map(|(name, _meaning)| figures.get_key_value(*name));
    measured
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_file_for_machines_is_flat_and_holds_the_headline_and_nothing_else() {
        let mut report = Report::default();
        for (name, _meaning) in HEADLINE {
            report.figure(name, 1.5);
        }
        report.figure("hops_3_sts_cpu_us", 7);
        report.errors("governed", 2);
        report.errors("peers", 3);
        let read: Map<String, Value> = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(read.len(), HEADLINE.len());
        assert!(read.values().all(Value::is_number), "{read:?}");
        assert_eq!(read["errors"], json!(5), "whatever failed is counted");
        assert_eq!(report.figures()["governed_errors"], json!(2));
    }

    #[test]
    fn a_scenario_that_fails_is_an_error_on_the_page() {
        let mut report = Report::default();
        report.errors("governed", 0);
        report.ended("governed", Ok(()));
        report.ended("soak", Err(anyhow::anyhow!("the gateway is gone")));
        assert_eq!(report.figures()["errors"], json!(1));
        assert_eq!(report.unfinished(), ["soak"]);
        assert!(report.sections()[0].text.contains("the gateway is gone"));
    }

    #[test]
    fn what_was_not_measured_is_absent() {
        let mut report = Report::default();
        report.figure("nginx_cpu_us", 31.0);
        assert_eq!(report.json(), "{\n  \"nginx_cpu_us\": 31.0\n}\n");
    }
}
