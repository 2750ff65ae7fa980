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
    /// Reads ranges like `10.0.0.0/8`, and single addresses.
    ///
    /// # Errors
    /// The first text that is none.
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

    /// Whether one of them is every address of a family.
    pub fn has_everybody(&self) -> bool {
        self.0.iter().any(|range| range.prefix == 0)
    }
}

impl Range {
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
    use super::*;

    fn ranges(texts: &[&str]) -> Result<AddressRanges, String> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        AddressRanges::parse(&texts).map_err(str::to_owned)
    }

    #[test]
    fn an_address_is_in_the_ranges_that_begin_as_it_does() {
        let listed = ranges(&["10.0.0.0/8", "192.168.1.7", "fd00::/8"]).unwrap();
        for (address, is_in) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("192.168.1.7", true),
            ("192.168.1.8", false),
            ("fd12::1", true),
            ("fe00::1", false),
        ] {
            assert_eq!(listed.contain(address.parse().unwrap()), is_in, "{address}");
        }
        assert!(!AddressRanges::default().contain("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_range_is_named() {
        for text in ["10.0.0.0/33", "::/129", "10.0.0", "host", "10.0.0.1/", ""] {
            assert_eq!(ranges(&["10.0.0.1", text]), Err(text.to_owned()));
        }
        assert!(ranges(&["0.0.0.0/0"]).unwrap().has_everybody());
        assert!(!ranges(&["0.0.0.0/1"]).unwrap().has_everybody());
    }
}
