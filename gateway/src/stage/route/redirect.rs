//! Where is a client sent that takes a redirect?

use http::HeaderValue;

use super::Chosen;
use crate::config::Config;
use crate::context::Inbound;
use crate::denial::Denial;
use crate::snapshot::routes::{Destination, RedirectTo};

/// The answer to a request that takes a redirect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Location {
    /// 301, 302, 307 or 308.
    pub(crate) status: u16,
    /// `Location`.
    pub(crate) address: String,
}

/// The answer, when the chosen route is a redirect.
///
/// # Errors
/// [`Denial::BadRequest`] when the client's host or target cannot stand in an address.
pub(crate) fn redirect(
    config: &Config,
    chosen: &Chosen,
    request: &Inbound<'_>,
) -> Result<Option<Location>, Denial> {
    let Some(line) = chosen.line() else {
        return Ok(None);
    };
    let Destination::Redirect(redirect) = &line.rule().destination else {
        return Ok(None);
    };
    let path = request.raw_path().ok_or(Denial::BadRequest)?;
    let address = match &redirect.to {
        RedirectTo::Https => request.in_tls(&config.public_urls),
        RedirectTo::Address {
            base,
            keep_path,
            keep_query,
        } => {
            let path = keep_path.then(|| line.rule().upstream_path(path));
            let query = request.raw_query().filter(|_query| *keep_query);
            Some(elsewhere(base, path, query))
        }
    };
    let is_value = |address: &String| HeaderValue::from_str(address).is_ok();
    let address = address.filter(is_value).ok_or(Denial::BadRequest)?;
    let status = redirect.status;
    Ok(Some(Location { status, address }))
}

fn elsewhere(base: &str, path: Option<&str>, query: Option<&str>) -> String {
    let mut address = base.to_owned();
    if let Some(path) = path {
        // At the same host, two slashes would begin the name of another one (RFC 3986 section 4.2).
        let path = if base.is_empty() {
            path.trim_start_matches('/')
        } else {
            path.strip_prefix('/').unwrap_or(path)
        };
        address.push('/');
        address.push_str(path);
    }
    if let Some(query) = query {
        address.push('?');
        address.push_str(query);
    }
    address
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

    use super::*;
    use crate::connection::Origin;

    #[test]
    fn path_and_query_are_kept_byte_for_byte_where_they_are_kept() {
        for (base, path, query, address) in [
            ("https://new.example", None, None, "https://new.example"),
            (
                "https://new.example/base",
                Some("/a%2Fb//c"),
                Some("q=%20"),
                "https://new.example/base/a%2Fb//c?q=%20",
            ),
            ("/new", Some("/x"), None, "/new/x"),
            ("/new", None, Some("a"), "/new?a"),
            ("", Some("/x"), None, "/x"),
        ] {
            assert_eq!(elsewhere(base, path, query), address);
        }
    }

    #[test]
    fn a_kept_path_leads_to_no_other_host() {
        assert_eq!(elsewhere("", Some("//evil.example/x"), None), "/evil.example/x");
        assert_eq!(
            elsewhere("/a", Some("//evil.example/x"), None),
            "/a//evil.example/x"
        );
    }

    #[test]
    fn what_is_no_host_is_not_sent_to_https() {
        let sent = |host: &str, target: &str| {
            let mut head = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
            head.insert_header("host", host).unwrap();
            let origin = Origin {
                peer: "127.0.0.1:1".parse().unwrap(),
                is_tls: false,
                belongs_to_tls: true,
                certificate: None,
            };
            Inbound::new(&head, &origin).in_tls(&["https://public.example:8443".to_owned()])
        };
        for (host, target, address) in [
            ("A.example", "/x%2F?q", "https://a.example/x%2F?q"),
            ("[::1]:80", "//x", "https://[::1]//x"),
            ("public.example", "/", "https://public.example:8443/"),
        ] {
            assert_eq!(sent(host, target).as_deref(), Some(address));
        }
        for host in ["", "a b", "a/b", "a@b", "a.example\\", "a?b", "a#b", "a:b"] {
            assert_eq!(sent(host, "/"), None, "{host:?}");
        }
    }
}
