//! Which ports does `caracal dev` listen on?

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, bail};

/// One loopback port for everything that listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) gateway: u16,
    pub(crate) gateway_admin: u16,
    pub(crate) sts: u16,
    pub(crate) control: u16,
    pub(crate) coordinator: u16,
    pub(crate) audit: u16,
    pub(crate) upstream: u16,
}

impl Ports {
    /// The customary ports, or consecutive ones from `base`.
    ///
    /// # Errors
    /// When `base` leaves no room for all of them.
    pub(crate) fn new(base: Option<u16>) -> Result<Self> {
        let Some(base) = base else {
            return Ok(Self {
                gateway: 8081,
                gateway_admin: 8082,
                sts: 8080,
                control: 3000,
                coordinator: 4000,
                audit: 9090,
                upstream: 8090,
            });
        };
        if !(1024..=u16::MAX - 7).contains(&base) {
            bail!("--port-base must be between 1024 and {}", u16::MAX - 7);
        }
        Ok(Self {
            gateway: base,
            sts: base + 1,
            control: base + 2,
            coordinator: base + 3,
            audit: base + 4,
            gateway_admin: base + 5,
            upstream: base + 6,
        })
    }

    fn named(&self) -> [(&'static str, u16); 7] {
        [
            ("gateway", self.gateway),
            ("sts", self.sts),
            ("control", self.control),
            ("coordinator", self.coordinator),
            ("audit", self.audit),
            ("gateway admin", self.gateway_admin),
            ("echo upstream", self.upstream),
        ]
    }

    /// Finds every port that is taken before anything starts.
    ///
    /// # Errors
    /// Names all taken ports at once, and the way out.
    pub(crate) fn check_free(&self) -> Result<()> {
        let taken: Vec<String> = self
            .named()
            .into_iter()
            .filter(|(_, port)| std::net::TcpListener::bind(loopback(*port)).is_err())
            .map(|(name, port)| format!("{port} ({name})"))
            .collect();
        if taken.is_empty() {
            return Ok(());
        }
        bail!(
            "these ports are taken: {}; choose others with --port-base, for example --port-base 9000",
            taken.join(", ")
        )
    }
}

/// A loopback address.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
