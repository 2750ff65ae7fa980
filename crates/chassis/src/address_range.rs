//! Is this address one of those the operator listed?

use std::net::IpAddr;

/// A list of ranges of addresses. Empty by default: then it contains nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressRanges(Vec<Range>);

/// A range: its first address and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: IpAddr,
    prefix: u8,
}

impl AddressRanges {
    /// Reads ranges like `10.0.0.0/8`, and single addresses. An IPv4 address that is written as IPv6 is the same address.
    ///
    /// # Errors
    /// The first text that is none, or that says more than its prefix does (`10.0.0.1/8`).
    pub fn parse(texts: &[String]) -> Result<Self, &str> {
        let ranges = texts.iter().map(|text| Range::parse(text).ok_or(text.as_str()));
        ranges.collect::<Result<_, _>>().map(Self)
    }

    /// Whether `address` is in one of them. An IPv4 address that is written as IPv6 is the same address. Cost: a comparison for
    /// each range.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|range| range.contains(address))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether none of them is wider than `/8` (IPv4) or `/16` (IPv6).
    pub fn are_narrow(&self) -> bool {
        self.0.iter().all(|range| {
            let narrowest = if range.first.is_ipv4() { 8 } else { 16 };
            range.prefix >= narrowest
        })
    }
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let written: IpAddr = address.parse().ok()?;
        let bits = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
        let prefix: u8 = prefix.map_or(Some(bits(written)), |prefix| prefix.parse().ok())?;
        let first = written.to_canonical();
        // Less is left of the prefix of an IPv4 address that was written as IPv6.
        let prefix = prefix.checked_sub(bits(written) - bits(first))?;
        let range = (prefix <= bits(first)).then_some(Self { first, prefix })?;
        range.has_no_more_bits().then_some(range)
    }

    /// Whether the address is zero after the prefix.
    fn has_no_more_bits(&self) -> bool {
        let length = u32::from(self.prefix);
        match self.first {
            IpAddr::V4(first) => u32::from(first).checked_shl(length).unwrap_or(0) == 0,
            IpAddr::V6(first) => u128::from(first).checked_shl(length).unwrap_or(0) == 0,
        }
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
    use super::*;

    fn ranges(texts: &[&str]) -> Result<AddressRanges, String> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        AddressRanges::parse(&texts).map_err(str::to_owned)
    }

    #[test]
    fn an_address_is_in_the_ranges_that_begin_as_it_does() {
        let listed = [
            "10.0.0.0/8",
            "192.168.1.7",
            "fd00::/8",
            "::ffff:172.16.0.0/108",
            "::ffff:8.8.8.8",
        ];
        let listed = ranges(&listed).unwrap();
        for (address, is_in) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("192.168.1.7", true),
            ("192.168.1.8", false),
            ("172.31.0.1", true),
            ("::ffff:172.16.0.1", true),
            ("172.32.0.1", false),
            ("8.8.8.8", true),
            ("8.8.8.9", false),
            ("fd12::1", true),
            ("fe00::1", false),
        ] {
            assert_eq!(listed.contain(address.parse().unwrap()), is_in, "{address}");
        }
        assert!(!AddressRanges::default().contain("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_range_is_named() {
        for text in [
            "10.0.0.0/33",
            "::/129",
            "10.0.0",
            "host",
            "10.0.0.1/",
            "",
            "10.0.0.1/8",
            "0.0.0.1/0",
            "fd00::1/8",
            "::ffff:10.0.0.1/104",
            "::ffff:10.0.0.0/95",
        ] {
            assert_eq!(ranges(&["10.0.0.1", text]), Err(text.to_owned()));
        }
    }

    #[test]
    fn a_wide_range_is_no_list_of_somebody() {
        for (text, is_narrow) in [
            ("0.0.0.0/0", false),
            ("::/0", false),
            ("128.0.0.0/1", false),
            ("10.0.0.0/7", false),
            ("10.0.0.0/8", true),
            ("::ffff:10.0.0.0/103", false),
            ("::ffff:10.0.0.0/104", true),
            ("fd00::/8", false),
            ("fd00::/16", true),
            ("10.0.0.1", true),
            ("::1", true),
        ] {
            assert_eq!(ranges(&[text]).unwrap().are_narrow(), is_narrow, "{text}");
        }
        let last = ["10.0.0.0/8", "0.0.0.0/0"];
        assert!(!ranges(&last).unwrap().are_narrow(), "each counts");
    }
}
