//! Whose word about the client counts? Proxies the operator listed.

use std::net::IpAddr;

use caracal_chassis::config::Reader;

/// Whose word about the client counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProxyTrust {
    trusts: bool,
    networks: Vec<Network>,
}

/// A range of addresses: its first address and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    first: IpAddr,
    prefix: u8,
}

impl ProxyTrust {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let trusts = reader.boolean("TRUST_PROXY", false);
        let mut networks = Vec::new();
        for text in reader.list("TRUSTED_PROXIES") {
            match Network::parse(&text) {
                Some(network) => networks.push(network),
                None => reader.check(
                    false,
                    "TRUSTED_PROXIES",
                    format!("{text:?} is not an address range"),
                    "write e.g. 10.0.0.0/8, or a single address",
                ),
            }
        }
        reader.check(
            trusts || networks.is_empty(),
            "TRUSTED_PROXIES",
            "is set while TRUST_PROXY is off",
            "set TRUST_PROXY=true, or remove the list",
        );
        Self { trusts, networks }
    }

    /// Whether `peer` may say on whose behalf it calls: any peer when there is no list.
    pub(crate) fn covers(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusts
            && (self.networks.is_empty() || self.networks.iter().any(|network| network.contains(peer)))
    }
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let first: IpAddr = address.parse().ok()?;
        let bits = if first.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(bits), |prefix| prefix.parse().ok())?;
        (prefix <= bits).then_some(Self { first, prefix })
    }

    fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let differing = u32::from(first) ^ u32::from(address);
                u32::from(self.prefix) <= differing.leading_zeros()
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let differing = u128::from(first) ^ u128::from(address);
                u32::from(self.prefix) <= differing.leading_zeros()
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::read;

    #[test]
    fn only_listed_proxies_are_believed() {
        let trust = |list: &str| {
            read(&[("TRUST_PROXY", "true"), ("TRUSTED_PROXIES", list)])
                .unwrap()
                .trust
        };
        let listed = trust("10.0.0.0/8, 192.168.1.7, fd00::/8");
        for (peer, believed) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("192.168.1.7", true),
            ("192.168.1.8", false),
            ("fd12::1", true),
            ("fe00::1", false),
        ] {
            assert_eq!(listed.covers(peer.parse().unwrap()), believed, "{peer}");
        }
        assert!(
            read(&[("TRUST_PROXY", "true")])
                .unwrap()
                .trust
                .covers("8.8.8.8".parse().unwrap())
        );
        assert!(!read(&[]).unwrap().trust.covers("127.0.0.1".parse().unwrap()));
    }
}
