//! Where does a route lead?

use caracal_chassis::config::Reader;
use url::Url;

use super::upstreams;
use crate::snapshot::routes::{Destination, Redirect, RedirectTo};

/// Statuses of a redirect (RFC 9110 section 15.4) that every client understands.
const STATUSES: [(&str, u16); 4] = [("301", 301), ("302", 302), ("307", 307), ("308", 308)];

/// Reads the destination of one route.
pub(super) fn read(reader: &mut Reader<'_>) -> Option<Destination> {
    let resource = reader.optional_text("RESOURCE");
    let zone = reader.optional_text("ZONE");
    let public = reader.boolean("PUBLIC", false);
    let pool = upstreams::read(reader);
    let keeps_authorization = reader.boolean("FORWARD_AUTHORIZATION", false);
    reader.check(
        public || !keeps_authorization,
        "FORWARD_AUTHORIZATION",
        "is for public routes: protected upstreams get the credential the token service names",
        "leave it out",
    );
    let redirect = read_redirect(reader);
    let zone = match zone.map(|zone| zone.parse()).transpose() {
        Ok(zone) => zone,
        Err(error) => {
            reader.check(
                false,
                "ZONE",
                format!("is no zone: {error}"),
                "write the id of a zone",
            );
            None
        }
    };
    let destination = match (public, resource, pool, redirect) {
        (false, Some(resource), None, None) => Some(Destination::Resource { resource, zone }),
        (true, None, Some(pool), None) => Some(Destination::Public {
            pool,
            keeps_authorization,
        }),
        (false, None, None, Some(redirect)) => Some(Destination::Redirect(redirect)),
        _ => None,
    };
    reader.check(
        destination.is_some(),
        "RESOURCE",
        "and the rest of the route do not fit together",
        "write resource for a protected route; public = true and upstream or upstreams for one that asks for no mandate; redirect for an address to go to",
    );
    destination
}

fn read_redirect(reader: &mut Reader<'_>) -> Option<Redirect> {
    let to = reader.optional_text("REDIRECT");
    let status = reader.choice("REDIRECT_STATUS", 308, &STATUSES);
    let keep_path = reader.boolean("KEEP_PATH", false);
    let keep_query = reader.boolean("KEEP_QUERY", false);
    let to = to?;
    if to == "https" {
        return Some(Redirect {
            status,
            to: RedirectTo::Https,
        });
    }
    let is_address = |text: &str| {
        Url::parse(text)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.username().is_empty())
    };
    let is_path = to.starts_with('/') && !to.starts_with("//") && !to.contains(['\\', '#', ' ']);
    reader.check(
        is_path || is_address(&to),
        "REDIRECT",
        format!("is {to:?}"),
        "write https, a URL, or a path that begins with one slash",
    );
    reader.check(
        !(to.contains('?') && (keep_path || keep_query)),
        "REDIRECT",
        "has a query, after which nothing of the request's can be put",
        "leave out keep_path and keep_query, or the query",
    );
    let base = if keep_path {
        to.trim_end_matches('/').to_owned()
    } else {
        to
    };
    Some(Redirect {
        status,
        to: RedirectTo::Address {
            base,
            keep_path,
            keep_query,
        },
    })
}
