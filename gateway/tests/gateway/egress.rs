//! A name that changes its mind between check and connection gains nothing.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::UdpSocket;

use crate::rig::{Rig, mandate_upstream};
use crate::sts::Grant;

/// A DNS server that answers A questions with these lists of addresses, one after the other, the last one for ever.
pub(crate) async fn lying_dns(answers: &'static [&'static [[u8; 4]]]) -> (String, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let question = &buffer[..length];
            let is_a = question[length - 3] == 1;
            let mut answer = question.to_vec();
            answer[2] = 0x81;
            answer[3] = 0x80;
            if is_a {
                let turn = count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
                answer[7] = u8::try_from(answers[turn].len()).unwrap();
                for address in answers[turn] {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                    answer.extend(address);
                }
            }
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    (address, asked)
}

#[tokio::test]
async fn the_address_dialled_is_the_one_that_was_checked() {
    let (dns, asked) = lying_dns(&[&[[127, 0, 0, 1]], &[[169, 254, 169, 254]]]).await;
    let rig = Rig::with(&[("GATEWAY_DNS_SERVER", &dns), ("DNS_CACHE_TTL", "0")]).await;
    let url = format!("http://rebind.test:{}", rig.upstream.address().port());
    rig.sts.grant(Grant::Upstream(mandate_upstream(url)));
    assert_eq!(rig.send(rig.get("/")).await.status, 200);
    assert_eq!(asked.load(Ordering::SeqCst), 1, "the name is resolved once");
    let forwarded = rig.upstream.take_requests();
    let host = format!("rebind.test:{}", rig.upstream.address().port());
    assert_eq!(forwarded[0].header("host"), Some(host.as_str()));
    // From now on the name leads to the metadata service.
    let answer = rig.send(rig.get("/")).await;
    assert_eq!(answer.refusal().2, "upstream not addressable");
    assert!(rig.upstream.requests().is_empty());
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_not_addressable() {
    let (dns, _asked) = lying_dns(&[&[[0, 0, 0, 0]]]).await;
    let rig = Rig::with(&[("GATEWAY_DNS_SERVER", &dns)]).await;
    rig.sts
        .grant(Grant::Upstream(mandate_upstream("http://nowhere.test")));
    assert_eq!(
        rig.send(rig.get("/")).await.refusal().2,
        "upstream not addressable"
    );
}

#[tokio::test]
async fn only_listed_hosts_are_dialled() {
    let rig = Rig::with(&[("UPSTREAM_HOST_ALLOWLIST", "api.test")]).await;
    assert_eq!(
        rig.send(rig.get("/")).await.refusal().2,
        "upstream not addressable"
    );
}
