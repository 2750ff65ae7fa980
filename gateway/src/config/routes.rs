//! Which routes did the operator write, as tables or in the short form? (docs/contract/gateway-routes.md)

mod destination;
mod limits;
mod upstreams;

use caracal_chassis::config::Reader;
use caracal_wire::path::PathRule;
use http::{HeaderName, HeaderValue, Method};

use crate::snapshot::routes::{Destination, HostRule, HostSent, Limits, RouteRule};

/// Response headers that frame or end at this hop, or that the gateway writes itself.
const NOT_ADDED: [&str; 4] = ["content-length", "content-type", "date", "set-cookie"];

/// Reads every route; what is wrong is recorded in `reader`.
pub(super) fn read_routes(reader: &mut Reader<'_>) -> Vec<RouteRule> {
    let mut rules: Vec<RouteRule> = Vec::new();
    for table in reader.tables("ROUTE") {
        rules.extend(reader.table(&table, read_route));
    }
    for pair in reader.list("CARACAL_GATEWAY_ROUTES") {
        let parts = pair
            .split_once('=')
            .filter(|(prefix, resource)| prefix.starts_with('/') && !resource.is_empty());
        reader.check(
            parts.is_some(),
            "CARACAL_GATEWAY_ROUTES",
            format!("{pair:?} is not a route"),
            "write prefix=resource, e.g. /crm=resource://crm",
        );
        rules.extend(parts.map(|(prefix, resource)| short_form(prefix, resource)));
    }
    check_collisions(reader, &rules);
    rules
}

fn short_form(prefix: &str, resource: &str) -> RouteRule {
    RouteRule {
        host: None,
        path: PathRule::Prefix(prefix.to_owned()),
        methods: Vec::new(),
        strip_prefix: false,
        destination: Destination::Resource {
            resource: resource.to_owned(),
            zone: None,
        },
        host_sent: HostSent::Upstream,
        limits: Limits::default(),
        response_headers: Vec::new(),
    }
}

/// Two routes for the same requests: the second would never be used.
fn check_collisions(reader: &mut Reader<'_>, rules: &[RouteRule]) {
    let mut by_path: std::collections::HashMap<&PathRule, Vec<&RouteRule>> = std::collections::HashMap::new();
    for rule in rules {
        let same_path = by_path.entry(&rule.path).or_default();
        reader.check(
            !same_path.iter().any(|other| other.collides(rule)),
            "ROUTE",
            format!("has two routes for the same requests to {}", rule.path.text()),
            "leave one of them out, or tell them apart by host or methods",
        );
        same_path.push(rule);
    }
}

fn read_route(reader: &mut Reader<'_>) -> Option<RouteRule> {
    let host = read_host(reader);
    let path = read_path(reader, host.is_some());
    let methods = read_methods(reader);
    let strip_prefix = reader.boolean("STRIP_PREFIX", false);
    let destination = destination::read(reader);
    let host_sent = read_host_sent(reader);
    let limits = limits::read(reader);
    let response_headers = read_response_headers(reader);
    let is_redirect = matches!(destination, Some(Destination::Redirect(_)));
    let uses_upstream = host_sent != HostSent::Upstream
        || !response_headers.is_empty()
        || limits.body_bytes_max.is_some()
        || limits.timeout.is_some()
        || limits.idle_timeout.is_some();
    reader.check(
        !(is_redirect && uses_upstream),
        "REDIRECT",
        "has no upstream, and so no host, limits of its body or time, or headers of its answer",
        "leave these out",
    );
    Some(RouteRule {
        host,
        path: path?,
        methods,
        strip_prefix,
        destination: destination?,
        host_sent,
        limits,
        response_headers,
    })
}

fn read_host(reader: &mut Reader<'_>) -> Option<HostRule> {
    let text = reader.optional_text("HOST")?;
    let host = text.trim_end_matches('.').to_ascii_lowercase();
    let name = host.strip_prefix("*.").unwrap_or(&host);
    let is_name = !name.is_empty() && !name.contains(['*', '/', '@', ' ']);
    let has_port = !name.starts_with('[') && name.contains(':');
    reader.check(
        is_name && !has_port,
        "HOST",
        format!("is {text:?}"),
        "write a name without port, e.g. files.example.com or *.example.com for one label before it",
    );
    Some(match host.strip_prefix("*.") {
        Some(name) => HostRule::LabelBefore(name.to_owned()),
        None => HostRule::Exact(host),
    })
}

fn read_path(reader: &mut Reader<'_>, has_host: bool) -> Option<PathRule> {
    let exact = reader.optional_text("PATH");
    let prefix = reader.optional_text("PATH_PREFIX");
    let path = match (exact, prefix) {
        (Some(exact), None) => Some(PathRule::Exact(exact)),
        (None, Some(prefix)) => Some(PathRule::Prefix(prefix)),
        (None, None) if has_host => Some(PathRule::Prefix("/".to_owned())),
        _ => None,
    };
    reader.check(
        path.as_ref().is_some_and(|path| path.text().starts_with('/')),
        "PATH",
        "does not say which requests the route is for",
        "write path or path_prefix, beginning with a slash; with host it may be left out",
    );
    let is_plain = |path: &PathRule| !path.text().contains(['?', '#', '*', ' ']);
    reader.check(
        path.as_ref().is_none_or(is_plain),
        "PATH",
        "has a query, a blank or a star in it",
        "write a path as clients send it; path_prefix is for all that begin with it",
    );
    path
}

fn read_methods(reader: &mut Reader<'_>) -> Vec<Method> {
    let mut methods = Vec::new();
    for text in reader.list("METHODS") {
        let method = Method::from_bytes(text.as_bytes())
            .ok()
            .filter(|_method| !text.bytes().any(|byte| byte.is_ascii_lowercase()));
        reader.check(
            method.is_some(),
            "METHODS",
            format!("names {text:?}"),
            "write methods in capitals, e.g. GET",
        );
        methods.extend(method);
    }
    methods
}

fn read_host_sent(reader: &mut Reader<'_>) -> HostSent {
    let is_preserved = reader.boolean("PRESERVE_HOST", false);
    let rewritten = reader.optional_text("HOST_REWRITE");
    let value = rewritten.as_deref().map(|text| {
        HeaderValue::from_str(text)
            .ok()
            .filter(|_value| is_authority(text))
    });
    reader.check(
        value.as_ref().is_none_or(Option::is_some),
        "HOST_REWRITE",
        "is no host",
        "write a name, with a port if it has one",
    );
    reader.check(
        !(is_preserved && rewritten.is_some()),
        "HOST_REWRITE",
        "and preserve_host contradict each other",
        "write one of them",
    );
    match value.flatten() {
        Some(value) => HostSent::Rewritten(value),
        None if is_preserved => HostSent::Preserved,
        None => HostSent::Upstream,
    }
}

fn is_authority(text: &str) -> bool {
    url::Url::parse(&format!("http://{text}/"))
        .is_ok_and(|url| url.path() == "/" && url.query().is_none() && url.username().is_empty())
        && !text.contains(['/', '@', '?', '#', '\\', ' '])
}

fn read_response_headers(reader: &mut Reader<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::new();
    for table in reader.tables("RESPONSE_HEADER") {
        headers.extend(reader.table(&table, |reader| {
            let name = reader.text("NAME", None);
            let value = reader.text("VALUE", None);
            let name = HeaderName::from_bytes(name.as_bytes()).ok().filter(may_be_added);
            let value = HeaderValue::from_str(&value).ok();
            reader.check(
                name.is_some() && value.is_some(),
                "NAME",
                "and value are no header that may be added to answers",
                "write e.g. name = \"Strict-Transport-Security\", value = \"max-age=63072000\"",
            );
            name.zip(value)
        }));
    }
    headers
}

fn may_be_added(name: &HeaderName) -> bool {
    let name = name.as_str();
    !caracal_wire::header::is_hop_by_hop(name)
        && !caracal_wire::header::is_removed_from_response(name)
        && !name.starts_with("x-caracal-")
        && name != caracal_wire::header::REQUEST_ID
        && !NOT_ADDED.contains(&name)
}

#[cfg(test)]
mod tests;
