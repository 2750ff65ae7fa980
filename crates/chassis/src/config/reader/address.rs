//! Reading addresses: URLs of others, and where to listen.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use url::Url;

use super::Reader;
use crate::address_range::AddressRanges;

impl Reader<'_> {
    /// An absolute URL that must be set, with one of `schemes`, without user, password, query or fragment.
    pub fn url(&mut self, key: &str, schemes: &[&str]) -> String {
        self.url_or(key, None, schemes)
    }

    /// The same with a default.
    pub fn url_or(&mut self, key: &str, default: Option<&str>, schemes: &[&str]) -> String {
        let before = self.problems.len();
        let text = self.text(key, default);
        if self.problems.len() == before {
            self.check_url(key, &text, schemes);
        }
        text
    }

    /// One or more of them with commas between, e.g. the replicas of a service. Empty only when that was reported.
    pub fn urls(&mut self, key: &str, schemes: &[&str]) -> Vec<String> {
        let urls = self.list(key);
        if urls.is_empty() {
            // Reports it as not set.
            self.url(key, schemes);
        }
        for url in &urls {
            self.check_url(key, url, schemes);
        }
        urls
    }

    /// Any number of them, e.g. the names a service is reached by.
    pub fn optional_urls(&mut self, key: &str, schemes: &[&str]) -> Vec<String> {
        let urls = self.list(key);
        for url in &urls {
            self.check_url(key, url, schemes);
        }
        urls
    }

    /// The same for a URL that may be left out.
    pub fn optional_url(&mut self, key: &str, schemes: &[&str]) -> Option<String> {
        let text = self.optional_text(key)?;
        self.check_url(key, &text, schemes);
        Some(text)
    }

    /// An address and port, e.g. `127.0.0.1:8082`, `[::1]:8082`.
    pub fn socket_addr(&mut self, key: &str, default: SocketAddr) -> SocketAddr {
        let Some(found) = self.find(key) else {
            return default;
        };
        match found.text.trim().parse() {
            Ok(address) => address,
            Err(_) => self.wrong(
                key,
                format!("is {:?}, not an address and port", found.text),
                format!("write e.g. {default}"),
                default,
            ),
        }
    }

    /// Where a service listens: `HOST` (default 127.0.0.1; `localhost` is that too) and the port named `port_key`.
    /// Port 0 takes a free one.
    pub fn listen_address(&mut self, port_key: &str, default_port: u16) -> SocketAddr {
        let host = self.host();
        let port = self.integer(port_key, i64::from(default_port), 0..=i64::from(u16::MAX));
        SocketAddr::new(host, u16::try_from(port).unwrap_or(default_port))
    }

    /// Ranges of addresses with commas between, e.g. `10.0.0.0/8,192.168.1.7`; empty when it is left out.
    pub fn address_ranges(&mut self, key: &str) -> AddressRanges {
        let texts = self.list(key);
        match AddressRanges::parse(&texts) {
            Ok(ranges) => ranges,
            Err(text) => self.wrong(
                key,
                format!("{text:?} is not an address range"),
                "write e.g. 10.0.0.0/8, with zeros after the prefix, or a single address",
                AddressRanges::default(),
            ),
        }
    }

    /// The same for those whose word is believed without proof: no range wider than `/8` (IPv4) or `/16` (IPv6).
    pub fn believed_ranges(&mut self, key: &str) -> AddressRanges {
        let ranges = self.address_ranges(key);
        self.check(
            ranges.are_narrow(),
            key,
            "has a range wider than /8 (IPv4) or /16 (IPv6)",
            "list only addresses that nobody else can have",
        );
        ranges
    }

    fn host(&mut self) -> IpAddr {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        match self.optional_text("HOST").as_deref().map(str::trim) {
            None | Some("localhost") => loopback,
            Some(text) => match text.parse() {
                Ok(address) => address,
                Err(_) => self.wrong(
                    "HOST",
                    format!("is {text:?}, not an IP address"),
                    "write 127.0.0.1 to be reached from this machine only, or 0.0.0.0",
                    loopback,
                ),
            },
        }
    }

    fn check_url(&mut self, key: &str, text: &str, schemes: &[&str]) {
        let mend = format!(
            "write an absolute URL beginning with {}",
            schemes.join(": or ") + ":"
        );
        // The text may hold a password: it is not shown.
        let Ok(url) = Url::parse(text) else {
            return self.report(key, "is not an absolute URL", mend);
        };
        if !schemes.contains(&url.scheme()) {
            return self.report(key, format!("has the scheme {:?}", url.scheme()), mend);
        }
        let has_credentials = !url.username().is_empty() || url.password().is_some();
        self.check(
            !has_credentials,
            key,
            "carries a user or a password",
            "remove them from the URL",
        );
        let has_more = url.query().is_some() || url.fragment().is_some();
        self.check(
            !has_more,
            key,
            "has a query or a fragment",
            "end the URL after its path",
        );
    }
}
