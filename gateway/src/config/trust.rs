//! Whose word about the client counts? Proxies the operator listed.

use std::net::IpAddr;

use caracal_chassis::address_range::AddressRanges;
use caracal_chassis::config::Reader;

/// Whose word about the client counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProxyTrust {
    trusts: bool,
    listed: AddressRanges,
}

impl ProxyTrust {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let trusts = reader.boolean("TRUST_PROXY", false);
        let listed = reader.address_ranges("TRUSTED_PROXIES");
        reader.check(
            trusts || listed.is_empty(),
            "TRUSTED_PROXIES",
            "is set while TRUST_PROXY is off",
            "set TRUST_PROXY=true, or remove the list",
        );
        Self { trusts, listed }
    }

    /// Whether `peer` is a proxy that was listed by address.
    pub(crate) fn lists(&self, peer: IpAddr) -> bool {
        self.trusts && self.listed.contain(peer)
    }

    /// Whether the proxies were listed.
    pub(crate) fn has_list(&self) -> bool {
        !self.listed.is_empty()
    }

    /// Whether `peer` may say on whose behalf it calls: any peer when there is no list.
    pub(crate) fn covers(&self, peer: IpAddr) -> bool {
        self.trusts && (self.listed.is_empty() || self.listed.contain(peer))
    }
}

#[cfg(test)]
impl ProxyTrust {
    /// Trusts these ranges, or everybody.
    pub(crate) fn of(ranges: &[&str]) -> Self {
        let ranges: Vec<String> = ranges.iter().map(|range| (*range).to_owned()).collect();
        let listed = AddressRanges::parse(&ranges).unwrap();
        Self { trusts: true, listed }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::read;

    #[test]
    fn only_listed_proxies_are_believed() {
        let trust = |settings: &[(&str, &str)]| read(settings).unwrap().trust;
        let listed = trust(&[("TRUST_PROXY", "true"), ("TRUSTED_PROXIES", "10.0.0.0/8")]);
        let (inside, outside) = ("10.1.2.3".parse().unwrap(), "11.0.0.1".parse().unwrap());
        assert!(listed.covers(inside) && !listed.covers(outside));
        assert!(trust(&[("TRUST_PROXY", "true")]).covers(outside));
        assert!(!trust(&[]).covers("127.0.0.1".parse().unwrap()));
    }
}
