//! How long after a session ended do its open responses end, among very many that stay open?

use std::time::{Duration, Instant};

use caracal_testing::{Behaviour, OpenStream, Service, Upstream};
use futures_util::future::join_all;

use crate::report::{Report, progress};
use crate::scenario::Length;
use crate::summary::Times;
use crate::world::{self, Agent, RESOURCE, World};

/// Event streams of one session, and as many web sockets.
const STREAMS: usize = 10;
/// Longest wait for an end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the scenario.
pub(crate) async fn run(length: Length, report: &mut Report) -> anyhow::Result<()> {
    let (sessions, ended) = length.pick((20, 10), (100, 50));
    caracal_chassis::open_files::raise_limit()?;
    progress("starting a stack for open streams");
    let upstream = Upstream::start(Behaviour::SseOnRelease).await;
    let options = world::options()
        .set_for(Service::Gateway, "STREAM_IDLE_TIMEOUT", "10m")
        .set_for(Service::Coordinator, "MAX_AGENTS_PER_ZONE", "1000");
    let world = World::start(options, &upstream.url()).await;
    let lifecycle = world.lifecycle().await;
    let coordinator = world.stack.coordinator_as(&lifecycle);
    let source = world.session(&coordinator).await;
    let mut held = Vec::new();
    for _session in 0..sessions {
        let agent = world.agent_below(&coordinator, &source, 1).await;
        upstream.set(Behaviour::SseOnRelease);
        let mut streams = open(&world, &agent, false).await;
        upstream.set(Behaviour::Upgrade);
        streams.append(&mut open(&world, &agent, true).await);
        held.push((agent, streams));
    }
    progress("ending sessions");
    let (mut from_request, mut from_answer) = (Vec::new(), Vec::new());
    for (agent, mut streams) in held.drain(..ended) {
        let path = format!("/zones/{}/agents/{}", world.zone, agent.session);
        let asked = Instant::now();
        let end = async {
            coordinator.delete(&path).await.expect(204);
            Instant::now()
        };
        let cuts = join_all(streams.iter_mut().map(async |stream| {
            let _rest = stream.ended().await;
            Instant::now()
        }));
        let (answered, cuts) = tokio::time::timeout(PATIENCE, async { tokio::join!(end, cuts) }).await?;
        from_request.extend(cuts.iter().map(|cut| cut.saturating_duration_since(asked)));
        from_answer.extend(cuts.iter().map(|cut| cut.saturating_duration_since(answered)));
    }
    // Exactly those of the other sessions.
    let left = 2 * STREAMS * held.len();
    caracal_testing::wait_until(PATIENCE, async || upstream.open_streams() == left).await;
    let (from_request, from_answer) = (Times::of(from_request), Times::of(from_answer));
    report.figure("streams_cut_p50_ms", from_request.percentile_ms(50));
    report.figure("streams_cut_p99_ms", from_request.percentile_ms(99));
    // The commit lies between the two; this is the later time.
    report.figure("stream_cut_p99_ms", from_request.percentile_ms(99));
    let row = |name: &str, times: &Times| {
        let figures = [times.percentile_ms(50), times.percentile_ms(99), times.max_ms()];
        let figures = figures.map(|ms| format!("{ms:.1}"));
        std::iter::once(name.to_owned()).chain(figures).collect()
    };
    let rows: [Vec<String>; 2] = [row("asked for", &from_request), row("answered", &from_answer)];
    report.table(
        "From the end of a session to the end of its streams",
        &["since it was", "p50 ms", "p99 ms", "max ms"],
        &rows,
    );
    report.remark(&format!(
        "{STREAMS} event streams and {STREAMS} web sockets for each of {sessions} sessions, all open at the same time; {ended} sessions ended one after the \
         other, and exactly their streams did."
    ));
    Ok(())
}

async fn open(world: &World, agent: &Agent, is_socket: bool) -> Vec<OpenStream> {
    let url = world.stack.gateway_url();
    let mut streams = Vec::new();
    for _stream in 0..STREAMS {
        let bearer = format!("Bearer {}", world.one_shot(agent).await);
        let headers = [
            ("authorization", bearer.as_str()),
            ("x-caracal-resource", RESOURCE),
        ];
        streams.push(if is_socket {
            OpenStream::web_socket(url, "/socket", &headers).await
        } else {
            OpenStream::events(url, "/events", &headers).await
        });
    }
    streams
}
