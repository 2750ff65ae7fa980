//! Is this an address that may be dialled on behalf of somebody?
//!
//! `docs/contract/gateway.md` section "Egress" and `docs/contract/upstream-credentials.md` list the classes. Forms that carry an IPv4 address inside an IPv6 one
//! are judged by what they carry, because a translator or the kernel dials that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is not dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// `0.0.0.0/8`, `::`: "this host" (RFC 1122 section 3.2.1.3).
    #[error("unspecified or this-network address")]
    Unspecified,
    /// `169.254.0.0/16`, `fe80::/10`: where clouds serve instance credentials.
    #[error("link-local address")]
    LinkLocal,
    /// `224.0.0.0/4`, `ff00::/8`.
    #[error("multicast address")]
    Multicast,
    /// `240.0.0.0/4`, limited broadcast included.
    #[error("reserved address")]
    Reserved,
    /// A credential service of a cloud outside the link-local range.
    #[error("cloud metadata address")]
    Metadata,
    /// `127.0.0.0/8`, `::1`: this machine.
    #[error("loopback address")]
    Loopback,
    /// `10.0.0.0/8`, `172.16.0.0/12`, `192.168.0.0/16` (RFC 1918), `fc00::/7` (RFC 4193), `fec0::/10` (RFC 3879).
    #[error("private address")]
    Private,
    /// `100.64.0.0/10` (RFC 6598).
    #[error("shared address of a carrier")]
    Shared,
}

/// Which classes may be dialled although they are not public.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permitted {
    /// Private, unique-local and shared addresses.
    pub(crate) private: bool,
    /// Loopback addresses.
    pub(crate) loopback: bool,
}

impl Permitted {
    /// Upstreams of a private network are the normal case.
    pub(crate) const UPSTREAM: Self = Self {
        private: true,
        loopback: true,
    };
}

/// Credential services of clouds that do not use the link-local range: Alibaba, Oracle, AWS over IPv6.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Says why `address` must not be dialled, if so.
pub(crate) fn blocked(address: IpAddr, permitted: Permitted) -> Option<Blocked> {
    if METADATA.contains(&address) {
        return Some(Blocked::Metadata);
    }
    match address {
        IpAddr::V4(address) => class_v4(address).filter(|class| !permits(permitted, *class)),
        IpAddr::V6(address) => blocked_v6(address, permitted),
    }
}

fn permits(permitted: Permitted, class: Blocked) -> bool {
    match class {
        Blocked::Loopback => permitted.loopback,
        Blocked::Private | Blocked::Shared => permitted.private,
        Blocked::Unspecified
        | Blocked::LinkLocal
        | Blocked::Multicast
        | Blocked::Reserved
        | Blocked::Metadata => false,
    }
}

fn class_v4(address: Ipv4Addr) -> Option<Blocked> {
    match address.octets() {
        [0, ..] => Some(Blocked::Unspecified),
        [127, ..] => Some(Blocked::Loopback),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some(Blocked::Private),
        [100, 64..=127, ..] => Some(Blocked::Shared),
        [169, 254, ..] => Some(Blocked::LinkLocal),
        [224..=239, ..] => Some(Blocked::Multicast),
        [240..=255, ..] => Some(Blocked::Reserved),
        _ => None,
    }
}

fn blocked_v6(address: Ipv6Addr, permitted: Permitted) -> Option<Blocked> {
    if address.is_unspecified() {
        return Some(Blocked::Unspecified);
    }
    let class = match address.segments() {
        _ if address.is_loopback() => Some(Blocked::Loopback),
        [0xfe80..=0xfebf, ..] => Some(Blocked::LinkLocal),
        [0xff00..=0xffff, ..] => Some(Blocked::Multicast),
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] => Some(Blocked::Private),
        _ => None,
    };
    class
        .filter(|class| !permits(permitted, *class))
        .or_else(|| embedded(address).find_map(|inner| blocked(IpAddr::V4(inner), permitted)))
}

/// Every IPv4 address an IPv6 address may lead to: one address can have several forms at once.
fn embedded(address: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let segments = address.segments();
    let pair = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    let last = match segments {
        _ if address.is_loopback() => None,
        // IPv4-mapped and the deprecated IPv4-compatible form (RFC 4291 section 2.5.5), the IPv4-translated form
        // (RFC 2765 section 2.1), NAT64 well-known and local prefixes (RFC 6052 section 2.1, RFC 8215), and ISATAP
        // interface identifiers (RFC 5214 section 6.1).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low]
        | [_, _, _, _, 0 | 0x0200, 0x5efe, high, low] => Some(pair(high, low)),
        _ => None,
    };
    let first = match segments {
        // 6to4 (RFC 3056 section 2), and the server of Teredo (RFC 4380 section 4).
        [0x2002, high, low, ..] | [0x2001, 0, high, low, ..] => Some(pair(high, low)),
        _ => None,
    };
    // The client of Teredo, with its bits inverted.
    let inverted = match segments {
        [0x2001, 0, _, _, _, _, high, low] => Some(pair(!high, !low)),
        _ => None,
    };
    [last, first, inverted].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC_ONLY: Permitted = Permitted {
        private: false,
        loopback: false,
    };
    const PRIVATE_TOO: Permitted = Permitted {
        private: true,
        loopback: false,
    };

    fn judge(text: &str) -> Option<Blocked> {
        blocked(text.parse().unwrap(), Permitted::UPSTREAM)
    }

    #[test]
    fn a_provider_is_on_the_public_internet_unless_its_host_is_listed() {
        for (address, why, is_listable) in [
            ("127.0.0.1", Blocked::Loopback, false),
            ("127.255.255.254", Blocked::Loopback, false),
            ("::1", Blocked::Loopback, false),
            ("::ffff:127.0.0.1", Blocked::Loopback, false),
            ("10.0.0.1", Blocked::Private, true),
            ("172.16.0.1", Blocked::Private, true),
            ("172.31.255.255", Blocked::Private, true),
            ("192.168.1.1", Blocked::Private, true),
            ("100.64.0.1", Blocked::Shared, true),
            ("100.127.255.255", Blocked::Shared, true),
            ("fd12:3456::1", Blocked::Private, true),
            ("fec0::1", Blocked::Private, true),
            ("::ffff:10.0.0.1", Blocked::Private, true),
            ("64:ff9b::192.168.1.1", Blocked::Private, true),
            ("2002:a00:1::1", Blocked::Private, true),
            ("169.254.169.254", Blocked::LinkLocal, false),
            ("fe80::1", Blocked::LinkLocal, false),
            ("0.0.0.0", Blocked::Unspecified, false),
            ("::", Blocked::Unspecified, false),
            ("224.0.0.1", Blocked::Multicast, false),
            ("255.255.255.255", Blocked::Reserved, false),
            ("100.100.100.200", Blocked::Metadata, false),
            ("fd00:ec2::254", Blocked::Metadata, false),
        ] {
            let parsed: IpAddr = address.parse().unwrap();
            assert_eq!(blocked(parsed, PUBLIC_ONLY), Some(why), "{address}");
            assert_eq!(
                blocked(parsed, PRIVATE_TOO).is_none(),
                is_listable,
                "{address}, listed"
            );
        }
        for address in [
            "8.8.8.8",
            "172.32.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "2606:4700::1111",
            "64:ff9b::8.8.8.8",
        ] {
            assert_eq!(blocked(address.parse().unwrap(), PUBLIC_ONLY), None, "{address}");
        }
    }

    #[test]
    fn addresses_of_the_table_are_blocked() {
        for (address, why) in [
            ("0.0.0.0", Blocked::Unspecified),
            ("0.1.2.3", Blocked::Unspecified),
            ("::", Blocked::Unspecified),
            ("169.254.169.254", Blocked::LinkLocal),
            ("169.254.0.1", Blocked::LinkLocal),
            ("fe80::1", Blocked::LinkLocal),
            ("febf::1", Blocked::LinkLocal),
            ("224.0.0.1", Blocked::Multicast),
            ("239.255.255.255", Blocked::Multicast),
            ("ff02::1", Blocked::Multicast),
            ("240.0.0.1", Blocked::Reserved),
            ("255.255.255.255", Blocked::Reserved),
            ("100.100.100.200", Blocked::Metadata),
            ("192.0.0.192", Blocked::Metadata),
            ("fd00:ec2::254", Blocked::Metadata),
        ] {
            assert_eq!(judge(address), Some(why), "{address}");
        }
    }

    #[test]
    fn a_blocked_address_inside_another_form_is_blocked() {
        for address in [
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::169.254.169.254",
            "64:ff9b:1:abcd::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            // Teredo: server 169.254.169.254; then client 169.254.169.254 with its bits inverted.
            "2001:0:a9fe:a9fe::1",
            "2001:0:808:808::5601:5601",
            "2001:db8::5efe:a9fe:a9fe",
            "2001:db8::200:5efe:a9fe:a9fe",
            // Two forms at once.
            "2002:a9fe:a9fe::5efe:808:808",
            "2002:808:808::5efe:a9fe:a9fe",
            "::ffff:0.0.0.0",
            "::ffff:255.255.255.255",
            "64:ff9b::100.100.100.200",
        ] {
            assert!(judge(address).is_some(), "{address} leads to a blocked address");
        }
    }

    #[test]
    fn private_and_public_upstreams_are_allowed() {
        for address in [
            "127.0.0.1",
            "::1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "fd12:3456::1",
            "8.8.8.8",
            "2606:4700::1111",
            "::ffff:10.0.0.1",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:0:808:808::f7f7:f7f7",
        ] {
            assert_eq!(judge(address), None, "{address}");
        }
    }

    mod properties {
        use super::super::*;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn an_embedded_address_is_judged_as_itself(
                octets in any::<[u8; 4]>(), private in any::<bool>(), loopback in any::<bool>()
            ) {
                let permitted = Permitted { private, loopback };
                let inner = Ipv4Addr::from(octets);
                let [a, b, c, d] = octets;
                let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                let outer = [
                    inner.to_ipv6_mapped(),
                    Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                    Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
                    Ipv6Addr::new(0x2001, 0, 0x808, 0x808, 0, 0, !high, !low),
                ];
                for address in outer {
                    prop_assert_eq!(
                        blocked(IpAddr::V6(address), permitted).is_some(), blocked(IpAddr::V4(inner), permitted).is_some(), "{}", address
                    );
                }
            }
        }
    }
}
