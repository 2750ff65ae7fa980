//! What happens when a dependency stalls, breaks off or is gone? A TCP proxy that does so on demand.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::Url;

/// Stands before PostgreSQL, Redis or a service. It forwards until told otherwise, and ends when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    target: watch::Sender<String>,
    state: watch::Sender<State>,
    accepting: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    mode: Mode,
    /// How often [`FaultProxy::cut`] was called: a connection ends when the number it began with has passed.
    cuts: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Forward,
    Pause,
    Refuse,
}

impl FaultProxy {
    /// Forwards to `target` (`host:port`) from a free port of its own.
    pub async fn start(target: impl Into<String>) -> Self {
        let target = watch::Sender::new(target.into());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = watch::Sender::new(State::default());
        let accepting = tokio::spawn(accept(listener, target.clone(), state.clone()));
        Self {
            address,
            target,
            state,
            accepting,
        }
    }

    /// Forwards to the host and port of `url`; see [`FaultProxy::url_through`].
    pub async fn before(url: &str) -> Self {
        let parsed = Url::parse(url).expect("a URL");
        let port = parsed
            .port_or_known_default()
            .or_else(|| default_port(parsed.scheme()))
            .expect("a port");
        Self::start(format!("{}:{port}", parsed.host_str().expect("a host"))).await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `url` with this proxy in place of its host and port.
    pub fn url_through(&self, url: &str) -> String {
        let mut parsed = Url::parse(url).expect("a URL");
        parsed.set_host(Some("127.0.0.1")).expect("a URL with a host");
        parsed
            .set_port(Some(self.address.port()))
            .expect("a URL with a port");
        parsed.to_string()
    }

    /// Holds every byte back, in both directions, and keeps the connections: the dependency hangs.
    pub fn pause(&self) {
        self.set(Mode::Pause);
    }

    /// Forwards again, the bytes held back first.
    pub fn resume(&self) {
        self.set(Mode::Forward);
    }

    /// Breaks every open connection off; new ones are forwarded: the dependency restarted.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Forwards to another `host:port` from now on, and breaks every open connection off: the dependency failed over.
    pub fn lead_to(&self, target: impl Into<String>) {
        self.target.send_replace(target.into());
        self.cut();
    }

    /// Breaks every open connection off, and every new one at once: the dependency is down, until
    /// [`FaultProxy::resume`].
    pub fn refuse(&self) {
        self.state.send_modify(|state| {
            state.mode = Mode::Refuse;
            state.cuts += 1;
        });
    }

    fn set(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.refuse();
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "postgres" | "postgresql" => Some(5_432),
        "redis" => Some(6_379),
        _ => None,
    }
}

async fn accept(listener: TcpListener, target: watch::Sender<String>, state: watch::Sender<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let State { mode, cuts } = *state.borrow();
        if mode == Mode::Refuse {
            // A reset, as from a port nobody listens on.
            let _unset = client.set_zero_linger();
            continue;
        }
        // A cut from here on meets this connection, even if its task has not begun.
        let target = target.borrow().clone();
        tokio::spawn(forward(client, target, cuts, state.subscribe()));
    }
}

async fn forward(client: TcpStream, target: String, cuts: u64, mut state: watch::Receiver<State>) {
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let _unset = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let up = pump(client_read, server_write, state.clone());
    let down = pump(server_read, client_write, state.clone());
    tokio::select! {
        _ = async { tokio::join!(up, down) } => {}
        _ = state.wait_for(|state| state.cuts > cuts) => {}
    }
}

/// Copies until either side ends. Bytes that were read before a pause are held until its end.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut buffer = vec![0_u8; 16 << 10];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            let _already_gone = to.shutdown().await;
            return;
        };
        let Ok(_) = state.wait_for(|state| state.mode != Mode::Pause).await else {
            return;
        };
        let bytes = buffer.get(..read).unwrap_or_default();
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A server that answers every byte with the same byte.
    async fn echo_server() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    async fn connected() -> (FaultProxy, TcpStream) {
        let proxy = FaultProxy::start(echo_server().await.to_string()).await;
        let stream = TcpStream::connect(proxy.address()).await.unwrap();
        (proxy, stream)
    }

    async fn echoes(stream: &mut TcpStream, byte: u8) -> bool {
        let mut answer = [0];
        stream.write_all(&[byte]).await.is_ok()
            && stream.read_exact(&mut answer).await.is_ok()
            && answer == [byte]
    }

    #[tokio::test]
    async fn bytes_of_a_pause_come_after_it() {
        let (proxy, mut stream) = connected().await;
        assert!(echoes(&mut stream, 1).await);
        proxy.pause();
        stream.write_all(&[2]).await.unwrap();
        let mut answer = [0];
        let early = tokio::time::timeout(Duration::from_millis(50), stream.read_exact(&mut answer)).await;
        assert!(early.is_err(), "a paused proxy must not answer");
        proxy.resume();
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [2]);
    }

    #[tokio::test]
    async fn a_cut_ends_open_connections_and_allows_new_ones() {
        let (proxy, mut stream) = connected().await;
        assert!(echoes(&mut stream, 1).await);
        proxy.cut();
        assert!(!echoes(&mut stream, 2).await);
        let mut again = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(echoes(&mut again, 3).await);
    }

    #[tokio::test]
    async fn a_proxy_that_leads_elsewhere_breaks_off_and_goes_on_there() {
        let (proxy, mut stream) = connected().await;
        assert!(echoes(&mut stream, 1).await);
        let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        proxy.lead_to(elsewhere.local_addr().unwrap().to_string());
        assert!(!echoes(&mut stream, 2).await);
        let (_client, arrived) = tokio::join!(TcpStream::connect(proxy.address()), elsewhere.accept());
        assert!(arrived.is_ok());
    }

    #[tokio::test]
    async fn a_refusing_proxy_ends_everything_until_it_resumes() {
        let (proxy, mut stream) = connected().await;
        assert!(echoes(&mut stream, 1).await);
        proxy.refuse();
        assert!(!echoes(&mut stream, 2).await);
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(!echoes(&mut refused, 3).await);
        proxy.resume();
        let mut again = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(echoes(&mut again, 4).await);
    }

    #[tokio::test]
    async fn a_url_keeps_everything_but_its_host_and_port() {
        let proxy = FaultProxy::before("postgres://user@db.internal/name").await;
        let port = proxy.address().port();
        assert_eq!(
            proxy.url_through("postgres://user@db.internal/name"),
            format!("postgres://user@127.0.0.1:{port}/name")
        );
        assert_eq!(
            proxy.url_through("redis://r:1/7"),
            format!("redis://127.0.0.1:{port}/7")
        );
    }
}
