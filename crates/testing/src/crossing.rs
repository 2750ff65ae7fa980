//! An address that is known before there is anybody behind it, and behind which several take turns.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Leads connections to its targets by turns. Ends when dropped.
#[derive(Debug)]
pub struct Crossing {
    address: SocketAddr,
    targets: watch::Sender<Vec<SocketAddr>>,
    task: JoinHandle<()>,
}

impl Crossing {
    /// Listens on a free loopback port. Who connects before there is a target waits for one.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let targets = watch::Sender::new(Vec::new());
        let mut known: watch::Receiver<Vec<SocketAddr>> = targets.subscribe();
        let task = tokio::spawn(async move {
            let mut turn: usize = 0;
            while let Ok((mut inbound, _peer)) = listener.accept().await {
                let Ok(target) = known
                    .wait_for(|targets| !targets.is_empty())
                    .await
                    .map(|targets| targets.iter().cycle().nth(turn % targets.len()).copied())
                else {
                    return;
                };
                turn += 1;
                tokio::spawn(async move {
                    let Some(target) = target else { return };
                    if let Ok(mut outbound) = TcpStream::connect(target).await {
                        // Who closes first, and how, is no matter of ours.
                        let _ended = tokio::io::copy_bidirectional(&mut inbound, &mut outbound).await;
                    }
                });
            }
        });
        Self {
            address,
            targets,
            task,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// These take turns from now on.
    pub fn leads_to(&self, targets: impl Into<Vec<SocketAddr>>) {
        self.targets.send_replace(targets.into());
    }
}

impl Drop for Crossing {
    fn drop(&mut self) {
        self.task.abort();
    }
}
