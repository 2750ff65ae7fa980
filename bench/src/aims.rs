//! What is aimed at, and is it met?

use serde_json::{Map, Value};

use crate::report::Report;

/// One aim: a figure, or one made of several, that may be so much at most.
struct Aim {
    what: &'static str,
    most: f64,
    /// Digits shown after the point.
    digits: usize,
    figure: fn(&Figures<'_>) -> Option<f64>,
}

/// What a run has measured.
struct Figures<'a>(&'a Map<String, Value>);

impl Figures<'_> {
    fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name)?.as_f64()
    }

    fn ratio(&self, name: &str, to: &str) -> Option<f64> {
        Some(self.get(name)? / self.get(to)?)
    }

    /// What a hop costs from the third to the tenth, compared with the first three.
    fn later_hops_to_first(&self) -> Option<f64> {
        let cost = |hops: &str| {
            let of = |process: &str| self.get(&format!("hops_{hops}_{process}_cpu_us"));
            Some(of("gateway")? + of("sts")?)
        };
        let (one, three, ten) = (cost("1")?, cost("3")?, cost("10")?);
        // Less than the noise of a run is no slope to compare with.
        let first = ((three - one) / 2.0).max(0.01 * one);
        Some(((ten - three) / 7.0 / first).max(0.0))
    }
}

const AIMS: [Aim; 22] = [
    Aim {
        what: "CPU of gateway, STS, Redis and PostgreSQL per governed call with its mint, us",
        most: 350.0,
        digits: 0,
        figure: |run| run.get("governed_cpu_us"),
    },
    Aim {
        what: "gateway's CPU per governed call, to Envoy's with `jwt_authn` and `ext_authz`",
        most: 0.4,
        digits: 2,
        figure: |run| run.ratio("gateway_cpu_us", "envoy_jwt_authz_cpu_us"),
    },
    Aim {
        what: "the same to HAProxy's that only verifies the same token",
        most: 1.0,
        digits: 2,
        figure: |run| run.ratio("gateway_cpu_us", "haproxy_jwt_cpu_us"),
    },
    Aim {
        what: "the gateway's whole step `authenticate` under load, us",
        most: 10.0,
        digits: 1,
        figure: |run| run.get("gateway_stage_authenticate_us"),
    },
    Aim {
        what: "gateway's CPU with a reusable mandate, to bare Pingora's",
        most: 2.0,
        digits: 2,
        figure: |run| run.ratio("reusable_gateway_cpu_us", "bare_proxy_cpu_us"),
    },
    Aim {
        what: "added latency over the bare proxy at half load, p50, ms",
        most: 0.3,
        digits: 2,
        figure: |run| run.get("added_p50_ms"),
    },
    Aim {
        what: "the same, p99, ms",
        most: 1.5,
        digits: 2,
        figure: |run| run.get("added_p99_ms"),
    },
    Aim {
        what: "SQL statements per governed call with its mint (0, background aside)",
        most: 0.01,
        digits: 3,
        figure: |run| run.get("sql_per_call"),
    },
    Aim {
        what: "round trips to Redis per governed call with its mint (1, evidence in batches aside)",
        most: 1.25,
        digits: 2,
        figure: |run| run.get("redis_per_call"),
    },
    Aim {
        what: "calls of the gateway to the STS per governed call",
        most: 1.0,
        digits: 2,
        figure: |run| run.get("sts_calls_per_call"),
    },
    Aim {
        what: "heap allocations in the gateway per governed call",
        most: 60.0,
        digits: 0,
        figure: |run| run.get("allocs_per_call"),
    },
    Aim {
        what: "a body of 16 KiB, to an empty one",
        most: 1.5,
        digits: 2,
        figure: |run| run.get("body_16k_ratio"),
    },
    Aim {
        what: "revocation, from asking for it to the gateway's refusal, p99, ms",
        most: 50.0,
        digits: 0,
        figure: |run| run.get("revocation_p99_ms"),
    },
    Aim {
        what: "the same to the end of open streams, p99, ms",
        most: 100.0,
        digits: 0,
        figure: |run| run.get("stream_cut_p99_ms"),
    },
    Aim {
        what: "resident memory of the gateway with 512 connections, MiB",
        most: 60.0,
        digits: 0,
        figure: |run| run.get("gateway_rss_512_connections_mib"),
    },
    Aim {
        what: "what a million revocations add to it, MiB",
        most: 100.0,
        digits: 0,
        figure: |run| run.get("million_revocations_added_mib"),
    },
    Aim {
        what: "what a million remembered mandates add to it, MiB",
        most: 100.0,
        digits: 0,
        figure: |run| run.get("million_jtis_added_mib"),
    },
    Aim {
        what: "cost of a governed call with 10,000 applications and resources, to a small zone",
        most: 1.2,
        digits: 2,
        figure: |run| run.get("crowd_ratio"),
    },
    Aim {
        what: "the same with a million revocations, to a thousand",
        most: 1.2,
        digits: 2,
        figure: |run| run.get("million_revocations_ratio"),
    },
    Aim {
        what: "what each hop from the third to the tenth adds, to each of the first three",
        most: 1.2,
        digits: 2,
        figure: |run| run.later_hops_to_first(),
    },
    Aim {
        what: "CPU of one exchange of the gateway leg in the STS, us",
        most: 100.0,
        digits: 0,
        figure: |run| run.get("sts_gateway_leg_cpu_us"),
    },
    Aim {
        what: "failed requests in all scenarios",
        most: 0.0,
        digits: 0,
        figure: |run| run.get("errors"),
    },
];

/// Adds the table of all aims.
pub(crate) fn show(report: &mut Report) {
    let figures = Figures(report.figures());
    let rows: Vec<Vec<String>> = AIMS.iter().map(|aim| aim.row(&figures)).collect();
    report.table("Aims", &["figure", "at most", "measured", "of it", "met"], &rows);
    report.remark(
        "`of it`: measured, divided by the aim. A figure without a measurement belongs to a scenario that this run left out. The last digit of a processor time is noise: two runs on the same machine differ by some percent.",
    );
}

impl Aim {
    fn row(&self, figures: &Figures<'_>) -> Vec<String> {
        let digits = self.digits;
        let mut row = vec![self.what.to_owned(), format!("{:.digits$}", self.most)];
        row.extend(match (self.figure)(figures) {
            None => ["-", "-", "not measured"].map(str::to_owned),
            Some(measured) => {
                let met = if measured <= self.most { "yes" } else { "**no**" };
                let of_it = if self.most > 0.0 {
                    format!("{:.2}", measured / self.most)
                } else {
                    "-".to_owned()
                };
                [format!("{measured:.digits$}"), of_it, met.to_owned()]
            }
        });
        row
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows(figures: &Value) -> Vec<Vec<String>> {
        let figures = figures.as_object().unwrap();
        AIMS.iter().map(|aim| aim.row(&Figures(figures))).collect()
    }

    #[test]
    fn an_aim_is_met_missed_or_not_measured() {
        let rows = rows(&json!({
            "governed_cpu_us": 700.0, "reusable_gateway_cpu_us": 150.0, "bare_proxy_cpu_us": 100.0, "errors": 1,
        }));
        let row = |begins: &str| rows.iter().find(|row| row[0].starts_with(begins)).unwrap()[1..].to_vec();
        assert_eq!(row("CPU of gateway, STS"), ["350", "700", "2.00", "**no**"]);
        assert_eq!(
            row("gateway's CPU with a reusable"),
            ["2.00", "1.50", "0.75", "yes"]
        );
        assert_eq!(row("failed requests"), ["0", "1", "-", "**no**"]);
        assert_eq!(row("heap allocations"), ["60", "-", "-", "not measured"]);
    }

    #[test]
    fn hops_are_linear_when_each_costs_the_same() {
        let chain = |hops: f64| 100.0 + 5.0 * hops;
        let mut figures = Map::new();
        for (name, hops) in [("1", 1.0), ("3", 3.0), ("10", 10.0)] {
            figures.insert(format!("hops_{name}_gateway_cpu_us"), json!(chain(hops) / 2.0));
            figures.insert(format!("hops_{name}_sts_cpu_us"), json!(chain(hops) / 2.0));
        }
        let ratio = Figures(&figures).later_hops_to_first().unwrap();
        assert!((ratio - 1.0).abs() < 1e-9, "{ratio}");
        figures.insert("hops_10_sts_cpu_us".to_owned(), json!(chain(30.0)));
        assert!(Figures(&figures).later_hops_to_first().unwrap() > 2.0);
    }
}
