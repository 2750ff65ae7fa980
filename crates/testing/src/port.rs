//! Which port can a child process listen on, and how is it kept from everybody else until it does?

use std::net::{Ipv4Addr, SocketAddr};

use aws_lc_rs::rand;
use tokio::net::TcpSocket;

/// Below the range from which Linux takes the ports of outgoing connections (32768 on), so that nobody takes the port
/// between this look and the child's bind by accident.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// A loopback port that no other test gets as long as this value lives. A child may listen on it, end, and listen
/// again: the socket here is bound and never listens, which Linux allows beside a listener that sets `SO_REUSEADDR`.
#[derive(Debug)]
pub(crate) struct ReservedPort {
    port: u16,
    _socket: TcpSocket,
}

impl ReservedPort {
    /// Reserves one.
    pub(crate) fn new() -> Self {
        (0..100)
            .find_map(|_| {
                let port = random_port();
                let socket = bind_alone(port)?;
                socket.set_reuseaddr(true).ok()?;
                Some(Self {
                    port,
                    _socket: socket,
                })
            })
            .expect("one of a hundred random ports is free")
    }

    pub(crate) fn number(&self) -> u16 {
        self.port
    }
}

/// A loopback port nobody uses or has reserved at this moment.
///
/// # Panics
/// When a hundred random ports are all taken.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// The first of `count` consecutive loopback ports nobody uses or has reserved at this moment.
///
/// # Panics
/// When a hundred random places are all taken.
pub fn free_ports(count: u16) -> u16 {
    (0..100)
        .map(|_| random_port())
        .find(|first| (*first..first.saturating_add(count)).all(|port| bind_alone(port).is_some()))
        .expect("one of a hundred random places is free")
}

/// Binds without `SO_REUSEADDR`, which fails beside any other socket, even one that does not listen.
fn bind_alone(port: u16) -> Option<TcpSocket> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok()?;
    Some(socket)
}

fn random_port() -> u16 {
    let mut bytes = [0_u8; 2];
    rand::fill(&mut bytes).expect("AWS-LC gives random bytes");
    FIRST + u16::from_le_bytes(bytes) % COUNT
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_reserved_port_can_be_listened_on_again_and_again_and_is_given_to_nobody_else() {
        let reserved = ReservedPort::new();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, reserved.number()));
        for _ in 0..3 {
            let listener = TcpListener::bind(address).await.unwrap();
            let (client, server) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
            drop((client.unwrap(), server.unwrap(), listener));
            assert!(bind_alone(reserved.number()).is_none(), "still reserved");
        }
        let number = reserved.number();
        drop(reserved);
        assert!(
            TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, number)))
                .await
                .is_ok()
        );
    }

    #[test]
    fn consecutive_ports_are_free() {
        let first = free_ports(8);
        assert!((first..first + 8).all(|port| bind_alone(port).is_some()));
    }
}
