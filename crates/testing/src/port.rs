//! Which port can a child process listen on?

use std::net::{Ipv4Addr, TcpListener};

use aws_lc_rs::rand;

/// Below the range from which Linux takes the ports of outgoing connections (32768 on), so that nobody takes the port
/// between this look and the child's bind by accident.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// A loopback port nobody listens on at this moment.
///
/// # Panics
/// When a hundred random ports are all taken.
pub fn free_port() -> u16 {
    (0..100)
        .map(|_| random_port())
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("one of a hundred random ports is free")
}

fn random_port() -> u16 {
    let mut bytes = [0_u8; 2];
    rand::fill(&mut bytes).expect("AWS-LC gives random bytes");
    FIRST + u16::from_le_bytes(bytes) % COUNT
}
