//! Two gateways and a token service of real processes: one certificate is ordered, proved at whichever gateway is asked, kept in
//! PostgreSQL, and shown by both, also after a restart of everything.

use std::net::SocketAddr;
use std::time::Duration;

use caracal_testing::stack::Service;
use caracal_testing::{Crossing, Pebble, Stack, StackOptions, test_authority, wait_for, wait_until};

const NAME: &str = "gateway.example.com";
const SOON: Duration = Duration::from_mins(1);

fn addresses(stack: &Stack) -> Vec<SocketAddr> {
    let urls = stack.gateway_urls().iter();
    urls.map(|url| url.trim_start_matches("http://").parse().unwrap())
        .collect()
}

/// Of all gateways.
async fn issued(stack: &Stack) -> i64 {
    let mut sum = 0;
    for gateway in &stack.gateways {
        sum += stack.metrics(gateway).await["acme_certificates_issued"]
            .as_i64()
            .unwrap();
    }
    sum
}

#[tokio::test]
async fn a_stack_gets_one_certificate_and_keeps_it() {
    let crossing = Crossing::start().await;
    let pebble = Pebble::start(Duration::from_hours(2_160), crossing.address()).await;
    let mut options = StackOptions {
        gateways: 2,
        ..StackOptions::default()
    };
    for (name, value) in [
        ("ACME_DIRECTORY_URL", pebble.directory_url().as_str()),
        ("ACME_CA_FILE", test_authority().to_str().unwrap()),
        ("ACME_DOMAINS", NAME),
        ("ACME_TERMS_AGREED", "true"),
        ("ACME_POLL_INTERVAL", "100ms"),
    ] {
        options = options.set_for(Service::Gateway, name, value);
    }
    let mut stack = Stack::start(options).await;
    let gateways = addresses(&stack);
    crossing.leads_to(gateways.clone());
    let certificate = wait_for(SOON, async || pebble.shown_by(gateways[0], NAME).await).await;
    let shown_by_both = async || pebble.shown_by(gateways[1], NAME).await.as_ref() == Some(&certificate);
    wait_until(SOON, shown_by_both).await;
    assert_eq!(issued(&stack).await, 1);

    for process in stack.processes() {
        process.restart().await;
    }
    for gateway in gateways {
        let shown = wait_for(SOON, async || pebble.shown_by(gateway, NAME).await).await;
        assert_eq!(shown, certificate);
    }
    assert_eq!(issued(&stack).await, 0, "nothing was ordered again");
}
