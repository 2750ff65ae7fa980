//! Do two addresses name the same place? `htu`, compared after normalisation (RFC 9449 section 4.3, RFC 3986 section 6.2).

/// An address without query and fragment: scheme and host in lower case, no default port, no empty path, and no octet
/// percent-encoded that need not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    origin: String,
    path: String,
}

impl Target {
    /// Reads an absolute `http` or `https` address; `None` for anything else. Query and fragment are passed over.
    pub fn parse(address: &str) -> Option<Self> {
        let (scheme, rest) = address.split_once("://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at_checked(end)?;
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        Self::new(scheme, authority, path)
    }

    /// An address from its parts. `authority` is a host with or without a port.
    pub fn new(scheme: &str, authority: &str, path: &str) -> Option<Self> {
        let scheme = scheme.to_ascii_lowercase();
        let default_port = match scheme.as_str() {
            "http" => ":80",
            "https" => ":443",
            _ => return None,
        };
        let is_host = |byte: u8| byte.is_ascii_graphic() && !b"/?#@\\\"<>".contains(&byte);
        if authority.is_empty() || !authority.bytes().all(is_host) {
            return None;
        }
        let authority = authority.to_ascii_lowercase();
        let host = authority.strip_suffix(default_port).unwrap_or(&authority);
        Some(Self {
            origin: format!("{scheme}://{}", host.strip_suffix(':').unwrap_or(host)),
            path: if path.is_empty() {
                "/".to_owned()
            } else {
                normalised(path)
            },
        })
    }

    /// The addresses of `path` under each of `bases`, which may end with a slash.
    pub fn under<B: AsRef<str>>(bases: impl IntoIterator<Item = B>, path: &str) -> Vec<Self> {
        let bases = bases.into_iter();
        bases
            .filter_map(|base| Self::parse(&format!("{}{path}", base.as_ref().trim_end_matches('/'))))
            .collect()
    }

    /// Scheme and authority.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

/// Unreserved octets as they are, all others in upper-case hexadecimal digits (RFC 3986 section 6.2.2). What is no
/// percent-encoding stays what it is.
fn normalised(path: &str) -> String {
    let mut rest = path;
    let mut out = String::with_capacity(path.len());
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let digits = after
            .get(..2)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let octet = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (octet, digits) {
            (Some(octet), _) if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) => {
                out.push(char::from(octet));
            }
            (Some(_), Some(digits)) => {
                out.push('%');
                out.push_str(&digits.to_ascii_uppercase());
            }
            _ => out.push('%'),
        }
        rest = digits.map_or(after, |_| after.get(2..).unwrap_or_default());
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_place_are_equal() {
        let here = Target::parse("https://gw.example.com/v1/a").unwrap();
        assert_eq!(here.origin(), "https://gw.example.com");
        for same in [
            "https://gw.example.com:443/v1/a",
            "HTTPS://GW.example.COM/v1/a",
            "https://gw.example.com/v1/a?x=1",
            "https://gw.example.com/v1/a#f",
            "https://gw.example.com/%761/%61",
        ] {
            assert_eq!(Target::parse(same).as_ref(), Some(&here), "{same}");
        }
        for other in [
            "http://gw.example.com/v1/a",
            "https://gw.example.com:444/v1/a",
            "https://gw.example.com.evil/v1/a",
            "https://gw.example.com/v1/A",
            "https://gw.example.com/v1/a/",
            "https://gw.example.com/v1%2Fa",
            "https://gw.example.com/x?/v1/a",
            "https://x/gw.example.com/v1/a",
        ] {
            assert_ne!(Target::parse(other).as_ref(), Some(&here), "{other}");
        }
        let at_root = Target::parse("https://gw.example.com");
        assert_eq!(at_root, Target::parse("https://gw.example.com/"));
        assert_eq!(at_root, Target::parse("https://gw.example.com?x"));
        assert_eq!(
            Target::parse("http://[::1]:80/%e2%82%ac"),
            Target::new("http", "[::1]", "/%E2%82%AC")
        );
    }

    #[test]
    fn what_is_no_address_is_none() {
        for text in [
            "",
            "/v1/a",
            "gw.example.com/a",
            "ftp://gw.example.com/a",
            "https:///a",
            "https://user@gw.example.com/a",
            "https://gw example.com/a",
            "https://gw.example.com\\/a",
        ] {
            assert_eq!(Target::parse(text), None, "{text}");
        }
        for odd in ["https://h/%", "https://h/%4", "https://h/%zz", "https://h/%€"] {
            assert!(Target::parse(odd).is_some(), "{odd}");
        }
    }
}
