//! A name server whose first answer differs from all later ones.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Answers every A question: with the first address once, with the second from then on, each valid for no time at all.
pub(crate) struct LyingDns {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl LyingDns {
    pub(crate) async fn start(addresses: [[u8; 4]; 2]) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let mut buffer = [0_u8; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                if let Some(reply) = reply(&buffer[..length], &counter, addresses) {
                    drop(socket.send_to(&reply, from).await);
                }
            }
        });
        Self { address, asked, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many A questions were answered.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for LyingDns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// RFC 1035 section 4: header, the question as it came, and one answer with TTL 0; no answer to anything but an A question.
fn reply(question: &[u8], asked: &AtomicUsize, addresses: [[u8; 4]; 2]) -> Option<Vec<u8>> {
    let name_end = 12 + question.get(12..)?.iter().position(|byte| *byte == 0)? + 1;
    let section_end = name_end + 4;
    let kind = u16::from_be_bytes([*question.get(name_end)?, *question.get(name_end + 1)?]);
    let is_address = kind == 1;
    let mut reply = Vec::new();
    reply.extend_from_slice(question.get(..2)?);
    reply.extend_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
    reply.extend_from_slice(question.get(12..section_end)?);
    if is_address {
        let before = asked.fetch_add(1, Ordering::SeqCst);
        reply.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        reply.extend_from_slice(&addresses[before.min(1)]);
    }
    Some(reply)
}
