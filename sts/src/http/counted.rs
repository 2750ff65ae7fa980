//! The two exchanges of a governed call, each in a function that a tool can count (docs/performance.md, "How to look").
//!
//! A mint comes by HTTP over a connection of this machine, what its client does included; a gateway's exchange is what is done
//! with a call of a channel. Both run on one thread, so that callgrind counts the same each time.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caracal_chassis::server::{self, Limits, Peer};
use caracal_chassis::shutdown::Shutdown;
use caracal_wire::channel::{Answer, Call};
use caracal_wire::form;
use caracal_wire::sts::{ACCESS_TOKEN_TYPE, TOKEN_EXCHANGE_GRANT};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

use super::channel;
use crate::rig::{Rig, seed};

/// How often each is done, after it was done once to warm up.
const REPEATS: usize = 20;
const NAME: &str = "0199a1b2-0000-7000-8000-000000000002";

#[test]
fn a_mint_is_repeated_without_a_statement() {
    let (runtime, rig) = rig();
    let shutdown = Shutdown::new();
    let mut connection = runtime.block_on(async {
        let listener = server::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0).into())
            .await
            .unwrap();
        let address = listener.local_addr().unwrap();
        let router = super::router(Arc::clone(&rig.sts), axum::Router::new());
        let tokens = super::TokenEndpoint::new(Arc::clone(&rig.sts));
        tokio::spawn(server::serve_direct(
            listener,
            tokens,
            router,
            Limits::default(),
            shutdown.clone(),
        ));
        TcpStream::connect(address).await.unwrap()
    });
    let request = mint_request();
    let mut mint = || runtime.block_on(ask(&mut connection, &request));
    assert_eq!(mint(), 200);
    let before = rig.counts();
    assert_eq!(counted_mints(&mut mint), [200; REPEATS]);
    let after = rig.counts();
    assert_eq!(
        (after.statements, after.events),
        (before.statements, before.events + 20)
    );
    drop(connection);
    shutdown.trigger();
}

#[test]
fn an_exchange_of_a_gateway_is_repeated_without_a_statement() {
    let (runtime, rig) = rig();
    let form = Bytes::from(leg_form(&runtime.block_on(rig.one_shot())));
    let mut leg = || runtime.block_on(exchange(&rig, form.clone())).status;
    assert_eq!(leg(), 200);
    let before = rig.counts();
    assert_eq!(counted_legs(&mut leg), [200; REPEATS]);
    let after = rig.counts();
    assert_eq!(
        (after.statements, after.events),
        (before.statements, before.events + 20)
    );
}

/// A future is copied wherever it is passed on, all of it: work that is not done for most exchanges has to be in a box.
#[test]
fn the_work_on_an_exchange_is_no_burden_to_carry() {
    let (_runtime, rig) = rig();
    let bytes = size_of_val(&*exchange(&rig, Bytes::new()));
    assert!(bytes <= 4_096, "{bytes} bytes");
}

/// What callgrind counts: this function and everything below it.
#[inline(never)]
fn counted_mints(mint: &mut dyn FnMut() -> u16) -> [u16; REPEATS] {
    std::array::from_fn(|_repeat| mint())
}

/// The same.
#[inline(never)]
fn counted_legs(leg: &mut dyn FnMut() -> u16) -> [u16; REPEATS] {
    std::array::from_fn(|_repeat| leg())
}

/// A service whose tokens carry a MAC, and which knows all it needs.
fn rig() -> (Runtime, Rig) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let rig = runtime.block_on(async {
        let rig = Rig::new().await;
        rig.one_shot().await;
        rig
    });
    (runtime, rig)
}

fn mint_request() -> Vec<u8> {
    let body = form::encode(&[
        ("grant_type", TOKEN_EXCHANGE_GRANT),
        ("zone_id", "z1"),
        ("application_id", "app-1"),
        ("client_secret", seed::SECRET),
        ("resource", "resource://crm"),
        ("scope", "crm:read"),
        ("agent_session_id", "s-target"),
        ("delegation_edge_id", "e-1"),
    ]);
    let head = format!(
        "POST /oauth/2/token HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    [head, body].concat().into_bytes()
}

fn leg_form(mandate: &str) -> String {
    form::encode(&[
        ("application_id", "app-1"),
        ("gateway_request_id", NAME),
        ("grant_type", TOKEN_EXCHANGE_GRANT),
        ("request_method", "GET"),
        ("request_path", "/v1/customers"),
        ("resource", "resource://crm"),
        ("subject_token", mandate),
        ("subject_token_type", ACCESS_TOKEN_TYPE),
        ("zone_id", "z1"),
    ])
}

/// As a channel keeps it.
fn exchange(rig: &Rig, form: Bytes) -> Pin<Box<impl Future<Output = Answer> + use<>>> {
    let call = Call {
        id: 1,
        at_unix: rig.sts.clock.unix_seconds(),
        left_ms: 5_000,
        request_id: Bytes::from_static(NAME.as_bytes()),
        form,
    };
    Box::pin(channel::answer(Arc::clone(&rig.sts), Peer::Local, call))
}

/// The status of the answer, read to its end.
async fn ask(connection: &mut TcpStream, request: &[u8]) -> u16 {
    connection.write_all(request).await.unwrap();
    let mut come = Vec::with_capacity(8 << 10);
    let read = async {
        while !is_whole(&come) {
            assert_ne!(
                connection.read_buf(&mut come).await.unwrap(),
                0,
                "the answer ends early"
            );
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.unwrap();
    std::str::from_utf8(&come[9..12]).unwrap().parse().unwrap()
}

fn is_whole(come: &[u8]) -> bool {
    let text = String::from_utf8_lossy(come);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.unwrap().parse().unwrap()
}
