//! What becomes of the cost of a request with more connections, and with a body?

use std::time::Duration;

use crate::peer::Peer;
use crate::plot;
use crate::process;
use crate::report::{Report, progress};
use crate::scenario::Length;
use crate::site::{CONNECTIONS, Site};
use crate::summary::Repeats;
use crate::way::{Sent, Way};

/// Numbers of connections.
const CONNECTION_COUNTS: [usize; 6] = [1, 4, 16, 64, 256, 512];
/// Lengths of a body, with names.
const BODIES: [(&str, usize); 3] = [("none", 0), ("16 KiB", 16 * 1_024), ("1 MiB", 1_024 * 1_024)];

/// The bare proxy and the gateway, with mandates of both kinds.
fn ways(site: &Site, bare: &Peer) -> anyhow::Result<Vec<Way>> {
    let mut ways = vec![Way::through(bare)?];
    ways.extend(Way::through_gateway(site)?);
    Ok(ways)
}

/// What was measured of one shape: CPU microseconds and requests a second of each way.
struct Shape {
    name: String,
    each: Vec<(Repeats, Repeats)>,
}

async fn measure(
    site: &Site,
    ways: &mut [Way],
    name: String,
    sent: &Sent,
    length: Length,
    report: &mut Report,
) -> anyhow::Result<Shape> {
    progress(&name);
    let mut rounds: Vec<Vec<_>> = ways.iter().map(|_way| Vec::new()).collect();
    let warm_up = Sent {
        time: Duration::from_secs(1),
        ..*sent
    };
    for way in &mut *ways {
        way.measure(site, &warm_up).await?;
    }
    for _repeat in 0..length.repeats() {
        for (way, rounds) in ways.iter_mut().zip(&mut rounds) {
            let round = way.measure(site, sent).await?;
            report.errors("shapes", round.outcome.errors);
            rounds.push(round);
        }
    }
    let each = rounds.iter().map(|rounds| {
        let cpu_us = rounds.iter().map(|round| round.cpu_us).collect();
        let per_second = rounds.iter().map(|round| round.outcome.per_second()).collect();
        (Repeats::of(cpu_us), Repeats::of(per_second))
    });
    Ok(Shape {
        name,
        each: each.collect(),
    })
}

fn table(ways: &[Way], shapes: &[Shape]) -> (Vec<String>, Vec<Vec<String>>) {
    let head = ways
        .iter()
        .flat_map(|way| [format!("{}, CPU us", way.name), "per second".to_owned()]);
    let rows = shapes.iter().map(|shape| {
        let cells = shape.each.iter().flat_map(|(cpu_us, per_second)| {
            [
                format!("{:.0}", cpu_us.median),
                format!("{:.0}", per_second.median),
            ]
        });
        std::iter::once(shape.name.clone()).chain(cells).collect()
    });
    (head.collect(), rows.collect())
}

fn show(title: &str, first: &str, ways: &[Way], shapes: &[Shape], report: &mut Report) {
    let (head, rows) = table(ways, shapes);
    let head: Vec<&str> = std::iter::once(first)
        .chain(head.iter().map(String::as_str))
        .collect();
    report.table(title, &head, &rows);
}

/// More and more connections.
pub(crate) async fn connections(
    site: &Site,
    bare: &Peer,
    length: Length,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut ways = ways(site, bare)?;
    let time = length.pick(Duration::from_secs(1), Duration::from_secs(3));
    let mut shapes = Vec::new();
    for count in CONNECTION_COUNTS {
        let sent = Sent {
            connections: count,
            ..Sent::small(time)
        };
        shapes.push(
            measure(
                site,
                &mut ways,
                format!("{count} connections"),
                &sent,
                length,
                report,
            )
            .await?,
        );
    }
    let most_mib = process::resident_mib(site.gateway()?)?;
    report.figure("gateway_rss_512_connections_mib", most_mib);
    let series: Vec<(String, Vec<(f64, f64)>)> = ways
        .iter()
        .enumerate()
        .map(|(index, way)| {
            let points = shapes.iter().zip(CONNECTION_COUNTS).filter_map(|(shape, count)| {
                #[expect(clippy::cast_precision_loss, reason = "some hundred")]
                shape
                    .each
                    .get(index)
                    .map(|(cpu_us, _)| (count as f64, cpu_us.median))
            });
            (way.name.clone(), points.collect())
        })
        .collect();
    show("More connections", "closed loop of", &ways, &shapes, report);
    let title = "CPU per request by number of connections";
    if let Some(drawing) = plot::lines(title, "connections", "CPU us", &series) {
        report.plot(title, "connections.svg", drawing);
    }
    report.remark(&format!(
        "Proxies on one processor, everything else on the others. The gateway has {most_mib:.0} MiB resident at the end."
    ));
    Ok(())
}

/// Longer and longer bodies.
pub(crate) async fn bodies(
    site: &Site,
    bare: &Peer,
    length: Length,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut ways = ways(site, bare)?;
    let time = length.pick(Duration::from_secs(1), Duration::from_secs(3));
    let mut shapes = Vec::new();
    for (name, body_bytes) in BODIES {
        let sent = Sent {
            body_bytes,
            ..Sent::small(time)
        };
        shapes.push(measure(site, &mut ways, name.to_owned(), &sent, length, report).await?);
    }
    show("Requests with a body", "body", &ways, &shapes, report);
    let cost = |shape: usize| Some(shapes.get(shape)?.each.get(1)?.0.median);
    if let Some((none, some)) = cost(0).zip(cost(1)) {
        report.figure("body_16k_ratio", some / none);
        report.remark(&format!(
            "{CONNECTIONS} connections. A body of 16 KiB costs the gateway {:.2} times what a request without one does, with a one-shot mandate.",
            some / none
        ));
    }
    Ok(())
}
