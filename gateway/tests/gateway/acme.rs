//! A gateway gets its certificates by itself, once for all replicas, in time, and never loses one that is still good. The
//! authority is Pebble.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caracal_bus::MemoryBus;
use caracal_chassis::Clock;
use caracal_testing::{
    BLOCKED_NAME, Behaviour, Crossing, Pebble, Upstream, test_authority, wait_for, wait_until,
};
use http_body_util::Full;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::client::{exchange_raw, send};
use crate::rig::{Gateway, SOON, mandate_upstream, now};
use crate::sts::FakeSts;

const DAY: Duration = Duration::from_hours(24);
const NAME: &str = "gateway.example.com";

/// An authority, a store, and what gateways are started with.
struct World {
    crossing: Crossing,
    pebble: Pebble,
    sts: FakeSts,
    settings: Vec<(&'static str, String)>,
}

impl World {
    async fn start(validity: Duration, more: &[(&'static str, &str)]) -> Self {
        let crossing = Crossing::start().await;
        let pebble = Pebble::start(validity, crossing.address()).await;
        let upstream = Upstream::start(Behaviour::Echo).await;
        let sts = FakeSts::start(mandate_upstream(upstream.url())).await;
        let mut settings = vec![
            ("ACME_DIRECTORY_URL", pebble.directory_url()),
            ("ACME_CA_FILE", test_authority().to_str().unwrap().to_owned()),
            ("ACME_DOMAINS", NAME.to_owned()),
            ("ACME_CONTACT", "operator@example.com".to_owned()),
            ("ACME_TERMS_AGREED", "true".to_owned()),
            ("ACME_POLL_INTERVAL", "50ms".to_owned()),
            ("METRICS_BEARER", "reader".to_owned()),
        ];
        settings.retain(|(name, _value)| !more.iter().any(|(other, _value)| name == other));
        settings.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Self {
            crossing,
            pebble,
            sts,
            settings,
        }
    }

    async fn gateway(&self, clock: &Clock) -> Gateway {
        let settings: Vec<_> = self
            .settings
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let bus = Arc::new(MemoryBus::new());
        Gateway::start_at(clock.clone(), bus, &self.sts.url(), &settings).await
    }

    async fn shown(&self, gateway: &Gateway, name: &str) -> Option<CertificateDer<'static>> {
        self.pebble.shown_by(gateway.addresses.main, name).await
    }

    async fn until_shown(&self, gateway: &Gateway, name: &str) -> CertificateDer<'static> {
        wait_for(SOON, async || self.shown(gateway, name).await).await
    }
}

async fn metric(gateway: &Gateway, name: &str) -> u64 {
    let request = http::Request::get("/metrics")
        .header("host", "x")
        .header("accept", "text/plain")
        .header("authorization", "Bearer reader")
        .body(Full::<Bytes>::default())
        .unwrap();
    let answer = send(gateway.addresses.admin, request).await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let line = format!("caracal_gateway_{name} ");
    let value = text.lines().find_map(|found| found.strip_prefix(&line));
    value
        .unwrap_or_else(|| panic!("{name} in {text}"))
        .parse()
        .unwrap()
}

async fn issued(gateway: &Gateway) -> u64 {
    metric(gateway, "acme_certificates_issued_total").await
}

/// Waits until gateways have looked so many more times into the store.
async fn until_looked(sts: &FakeSts, times: usize) {
    let before = sts.document_reads();
    wait_until(SOON, async || sts.document_reads() >= before + times).await;
}

#[tokio::test]
async fn a_fresh_gateway_gets_a_certificate_by_a_handshake() {
    let world = World::start(90 * DAY, &[("ACME_DOMAINS", "a.example.com, b.example.com")]).await;
    let gateway = world.gateway(&Clock::system()).await;
    world.crossing.leads_to(vec![gateway.addresses.main]);
    let first = world.until_shown(&gateway, "a.example.com").await;
    let second = world.until_shown(&gateway, "b.example.com").await;
    assert_ne!(first, second, "each name has its own");
    assert_eq!(issued(&gateway).await, 2);
    // Nobody else is told of proofs.
    let stream = TcpStream::connect(gateway.addresses.main).await.unwrap();
    let mut config =
        ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let name = ServerName::try_from("a.example.com").unwrap();
    let answered = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let error = answered.expect_err("the challenge is over").to_string();
    assert!(!error.contains("UnknownIssuer"), "no certificate at all: {error}");
}

#[tokio::test]
async fn a_fresh_gateway_gets_a_certificate_by_an_answer_in_clear() {
    let settings = [("ACME_CHALLENGE", "http-01"), ("HTTP_PORT", "0")];
    let world = World::start(90 * DAY, &settings).await;
    let gateway = world.gateway(&Clock::system()).await;
    let plain = gateway.addresses.plain.unwrap();
    world.crossing.leads_to(vec![plain]);
    world.until_shown(&gateway, NAME).await;
    let ask = "GET /.well-known/acme-challenge/unknown HTTP/1.1\r\nhost: gateway.example.com\r\nconnection: close\r\n\r\n";
    let answer = exchange_raw(plain, ask).await;
    assert!(answer.starts_with("HTTP/1.1 308"), "as any other path: {answer}");
}

#[tokio::test]
async fn what_was_issued_outlives_the_gateway() {
    let world = World::start(90 * DAY, &[]).await;
    let first = world.gateway(&Clock::system()).await;
    world.crossing.leads_to(vec![first.addresses.main]);
    let certificate = world.until_shown(&first, NAME).await;
    wait_until(SOON, async || issued(&first).await == 1).await;
    first.stop();
    let version = world.sts.document_version();
    let second = world.gateway(&Clock::system()).await;
    assert_eq!(world.until_shown(&second, NAME).await, certificate);
    until_looked(&world.sts, 5).await;
    assert_eq!(issued(&second).await, 0);
    assert_eq!(world.sts.document_version(), version, "nothing was ordered");
}

#[tokio::test]
async fn a_name_that_was_taken_off_the_list_is_not_shown_any_more() {
    let mut world = World::start(90 * DAY, &[("ACME_DOMAINS", "a.example.com, b.example.com")]).await;
    let first = world.gateway(&Clock::system()).await;
    world.crossing.leads_to(vec![first.addresses.main]);
    let kept = world.until_shown(&first, "a.example.com").await;
    let dropped = world.until_shown(&first, "b.example.com").await;
    wait_until(SOON, async || issued(&first).await == 2).await;
    first.stop();
    world.settings.retain(|(name, _value)| *name != "ACME_DOMAINS");
    world.settings.push(("ACME_DOMAINS", "a.example.com".to_owned()));
    let second = world.gateway(&Clock::system()).await;
    assert_eq!(world.until_shown(&second, "a.example.com").await, kept);
    until_looked(&world.sts, 5).await;
    assert_ne!(world.shown(&second, "b.example.com").await, Some(dropped));
    assert_eq!(issued(&second).await, 0, "and nothing is ordered for it");
}

#[tokio::test]
async fn two_gateways_order_once_and_both_prove_and_show_it() {
    for settings in [&[][..], &[("ACME_CHALLENGE", "http-01"), ("HTTP_PORT", "0")]] {
        let world = World::start(90 * DAY, settings).await;
        let (one, two) = (
            world.gateway(&Clock::system()).await,
            world.gateway(&Clock::system()).await,
        );
        let gateways = [&one, &two];
        // The authority asks three times at once, so it comes to both.
        let asked = gateways.map(|gateway| gateway.addresses.plain.unwrap_or(gateway.addresses.main));
        world.crossing.leads_to(asked.to_vec());
        let shown = world.until_shown(&one, NAME).await;
        assert_eq!(world.until_shown(&two, NAME).await, shown);
        until_looked(&world.sts, 6).await;
        assert_eq!(issued(&one).await + issued(&two).await, 1);
        assert_eq!(
            metric(&one, "acme_orders_failed_total").await + metric(&two, "acme_orders_failed_total").await,
            0
        );
    }
}

#[tokio::test]
async fn a_certificate_is_renewed_before_it_expires() {
    let world = World::start(Duration::from_secs(88), &[]).await;
    let clock = Clock::manual(now());
    let gateway = world.gateway(&clock).await;
    world.crossing.leads_to(vec![gateway.addresses.main]);
    let first = world.until_shown(&gateway, NAME).await;
    until_looked(&world.sts, 5).await;
    assert_eq!(issued(&gateway).await, 1, "it is not due");
    clock.advance(Duration::from_secs(59));
    wait_until(SOON, async || {
        world
            .shown(&gateway, NAME)
            .await
            .is_some_and(|shown| shown != first)
    })
    .await;
}

#[tokio::test]
async fn without_the_authority_the_certificate_of_before_is_shown() {
    let mut world = World::start(Duration::from_secs(88), &[]).await;
    let clock = Clock::manual(now());
    let gateway = world.gateway(&clock).await;
    world.crossing.leads_to(vec![gateway.addresses.main]);
    let first = world.until_shown(&gateway, NAME).await;
    world.pebble.kill();
    clock.advance(Duration::from_secs(59));
    let failed = async |gateway: &Gateway| metric(gateway, "acme_orders_failed_total").await;
    wait_until(SOON, async || failed(&gateway).await == 1).await;
    assert_eq!(world.shown(&gateway, NAME).await, Some(first.clone()));
    // Neither this gateway nor the next one tries at once again.
    let next = world.gateway(&clock).await;
    assert_eq!(world.until_shown(&next, NAME).await, first);
    until_looked(&world.sts, 6).await;
    assert_eq!((failed(&gateway).await, failed(&next).await), (1, 0));
}

#[tokio::test]
async fn a_name_that_cannot_be_had_holds_up_no_other() {
    let names = format!("{BLOCKED_NAME}, {NAME}");
    let world = World::start(90 * DAY, &[("ACME_DOMAINS", &names)]).await;
    let gateway = world.gateway(&Clock::system()).await;
    world.crossing.leads_to(vec![gateway.addresses.main]);
    world.until_shown(&gateway, NAME).await;
    until_looked(&world.sts, 5).await;
    let failed = metric(&gateway, "acme_orders_failed_total").await;
    assert_eq!(
        (issued(&gateway).await, failed),
        (1, 1),
        "and is not tried at once again"
    );
}
