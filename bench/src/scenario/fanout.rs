//! What does an event on an open stream cost the gateway, and a message through a web socket, beside the bare proxy?

use std::time::{Duration, Instant};

use caracal_testing::OpenStream;
use futures_util::future::join_all;

use crate::peer::Peer;
use crate::process;
use crate::report::{Report, progress};
use crate::scenario::Length;
use crate::site::Site;
use crate::world::RESOURCE;

/// Events that the origin sends on each stream in a second.
const EVENTS_PER_SECOND: f64 = 10.0;
/// Web sockets, each of which sends as soon as its message came back.
const SOCKETS: usize = 64;

/// Runs the scenario in a site whose gateway is bound to one processor.
pub(crate) async fn run(site: &Site, bare: &Peer, length: Length, report: &mut Report) -> anyhow::Result<()> {
    caracal_chassis::open_files::raise_limit()?;
    let streams = length.pick(200, 1_000);
    let window = length.pick(Duration::from_secs(3), Duration::from_secs(10));
    let bare_id = bare.process.id().unwrap_or_default();
    let gateway_id = site.gateway()?.id().unwrap_or_default();
    let ways = [
        ("bare Pingora", "bare_proxy", bare.url.as_str(), bare_id),
        ("gateway", "gateway", site.world.stack.gateway_url(), gateway_id),
    ];
    let mut rows = Vec::new();
    for (name, key, url, id) in ways {
        progress(&format!("event streams and web sockets through the {name}"));
        let event_us = events(site, url, id, streams, window).await?;
        let (message_us, per_second) = sockets(site, url, id, window).await?;
        report.figure(format!("{key}_event_cpu_us"), event_us);
        report.figure(format!("{key}_socket_message_cpu_us"), message_us);
        rows.push(vec![
            name.to_owned(),
            format!("{event_us:.1}"),
            format!("{message_us:.1}"),
            format!("{per_second:.0}"),
        ]);
    }
    let head = [
        "through",
        "CPU us an event",
        "CPU us a message there and back",
        "messages per second",
    ];
    report.table("Open streams", &head, &rows);
    report.remark(&format!(
        "{streams} event streams open at once, with {EVENTS_PER_SECOND:.0} events a second on each; {SOCKETS} web sockets, each with one message under way. Windows of {} s.",
        window.as_secs()
    ));
    Ok(())
}

async fn open(site: &Site, url: &str, count: usize, is_socket: bool) -> anyhow::Result<Vec<OpenStream>> {
    let mut open = Vec::new();
    for mandate in site.one_shot(count).await? {
        let bearer = format!("Bearer {mandate}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("x-caracal-resource", RESOURCE),
        ];
        open.push(if is_socket {
            OpenStream::web_socket(url, "/socket", &headers).await
        } else {
            OpenStream::events(url, "/events", &headers).await
        });
    }
    Ok(open)
}

/// Processor time of the proxy for one event.
async fn events(site: &Site, url: &str, id: u32, count: usize, window: Duration) -> anyhow::Result<f64> {
    let mut streams = open(site, url, count, false).await?;
    let (before, began) = (process::tree_time(id)?, Instant::now());
    let read = join_all(streams.iter_mut().map(OpenStream::ended));
    // They do not end by themselves.
    let _still_open = tokio::time::timeout(window, read).await;
    let used = process::tree_time(id)?.saturating_sub(before);
    #[expect(clippy::cast_precision_loss, reason = "some thousand")]
    let events = count as f64 * EVENTS_PER_SECOND * began.elapsed().as_secs_f64();
    Ok(used.as_secs_f64() * 1e6 / events)
}

/// The same for one message through a web socket and back, and how many there were in a second.
async fn sockets(site: &Site, url: &str, id: u32, window: Duration) -> anyhow::Result<(f64, f64)> {
    let mut sockets = open(site, url, SOCKETS, true).await?;
    site.settle().await?;
    let (before, began) = (process::tree_time(id)?, Instant::now());
    let counts = join_all(sockets.iter_mut().map(async |socket| {
        let mut count = 0_u32;
        while began.elapsed() < window {
            socket.send("message\n").await;
            socket.until("message\n").await;
            count += 1;
        }
        count
    }));
    let messages: f64 = counts.await.into_iter().map(f64::from).sum();
    let used = process::tree_time(id)?.saturating_sub(before);
    Ok((
        used.as_secs_f64() * 1e6 / messages,
        messages / began.elapsed().as_secs_f64(),
    ))
}
