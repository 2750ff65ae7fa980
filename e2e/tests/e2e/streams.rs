//! Very many open responses through one gateway: a revocation ends those of its session and no other.

use std::time::{Duration, Instant};

use caracal_testing::{Behaviour, OpenStream, Service, StackOptions, wait_until};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::iter;

use crate::world::{Agent, RESOURCE, SOON, World};

const SESSIONS: usize = 100;
/// Event streams of one session, and as many `WebSockets`.
const STREAMS: usize = 10;
/// Sessions whose streams are opened at the same time.
const AT_ONCE: usize = 8;

/// What one session has open.
struct Held {
    events: Vec<OpenStream>,
    sockets: Vec<OpenStream>,
}

async fn open(world: &World, agent: &Agent, is_socket: bool) -> Vec<OpenStream> {
    let mut streams = Vec::new();
    for _stream in 0..STREAMS {
        let bearer = format!("Bearer {}", world.one_shot(agent).await);
        let headers = [
            ("authorization", bearer.as_str()),
            ("x-caracal-resource", RESOURCE),
        ];
        let url = world.stack.gateway_url();
        streams.push(if is_socket {
            OpenStream::web_socket(url, "/socket", &headers).await
        } else {
            OpenStream::events(url, "/events", &headers).await
        });
    }
    streams
}

/// The streams of each agent, in order.
async fn open_all(world: &World, agents: &[Agent], is_socket: bool) -> Vec<Vec<OpenStream>> {
    let opening = iter(agents).map(|agent| open(world, agent, is_socket));
    opening.buffered(AT_ONCE).collect().await
}

/// When each stream ended, and what came before.
async fn ends(streams: &mut [OpenStream]) -> Vec<(Instant, String)> {
    let ends = streams.iter_mut().map(async |stream| {
        let rest = stream.ended().await;
        (Instant::now(), rest)
    });
    tokio::time::timeout(SOON, join_all(ends))
        .await
        .expect("the session's streams end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_thousand_streams_exactly_those_of_the_revoked_session_end() {
    caracal_chassis::open_files::raise_limit().unwrap();
    let options = StackOptions::default()
        .set_for(Service::Sts, "STS_MINT_RATE_LIMIT_PER_MIN", "1000000")
        // However long it takes to open them all.
        .set_for(Service::Gateway, "STREAM_IDLE_TIMEOUT", "10m")
        .set_for(Service::Coordinator, "MAX_AGENTS_PER_ZONE", "1000");
    let world = World::start(options).await;
    let agents = world.agents(SESSIONS).await;
    world.upstream.set(Behaviour::SseOnRelease);
    let events = open_all(&world, &agents, false).await;
    world.upstream.set(Behaviour::Upgrade);
    let sockets = open_all(&world, &agents, true).await;
    let mut held: Vec<Held> = events
        .into_iter()
        .zip(sockets)
        .map(|(events, sockets)| Held { events, sockets })
        .collect();
    wait_until(SOON, async || {
        world.upstream.open_streams() == 2 * STREAMS * SESSIONS
    })
    .await;

    let ended = SESSIONS / 2;
    let mut doomed = held.remove(ended);
    let agent = &agents[ended];
    let coordinator = world.stack.coordinator_as(&agent.lifecycle);
    let path = format!("/zones/{}/agents/{}", world.zone, agent.session);
    let revoke = async {
        coordinator.delete(&path).await.expect(204);
        Instant::now()
    };
    let (revoked, events, sockets) =
        tokio::join!(revoke, ends(&mut doomed.events), ends(&mut doomed.sockets));
    for (_at, rest) in &events {
        assert!(rest.ends_with("0\r\nX-Caracal-Revoked: true\r\n\r\n"), "{rest}");
    }
    let mut times: Vec<Duration> = events
        .iter()
        .chain(&sockets)
        .map(|(at, _rest)| at.saturating_duration_since(revoked))
        .collect();
    times.sort();
    println!("20 streams cut after the end was answered: {times:?}");

    // Nobody else noticed: each gets the event that comes now, or its echo.
    wait_until(SOON, async || {
        world.upstream.open_streams() == 2 * STREAMS * (SESSIONS - 1)
    })
    .await;
    world.upstream.release();
    for session in &mut held {
        for stream in &mut session.events {
            stream.until("id: 2\n").await;
        }
        for socket in &mut session.sockets {
            socket.send("still there?").await;
            assert_eq!(socket.until("there?").await, "still there?");
        }
    }
    assert_eq!(world.upstream.open_streams(), 2 * STREAMS * (SESSIONS - 1));
}
