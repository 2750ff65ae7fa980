//! Stage 6: what exactly is sent upstream? The path and query as they came, clean headers, the real credential.
//!
//! Everything that can fail is decided in [`plan`], before the request is recorded; applying the plan only sets values.

mod sigv4;

use std::fmt;

use caracal_token::UnverifiedToken;
use caracal_wire::header::{is_reserved_credential_header, is_same_name};
use caracal_wire::sts::{AuthLocation, AuthMode, Upstream};
use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use pingora_error::Result;
use pingora_http::RequestHeader;
use url::{Url, form_urlencoded};

use self::sigv4::Signing;
use super::exchange::Credential;
use super::forward::Reachable;
use super::revocation::Standing;
use super::route::{PublicRoute, Straight, Trail};
use crate::Gateway;
use crate::context::{Inbound, Observation};
use crate::denial::Denial;
use crate::header::{
    FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PREFIX, FORWARDED_PROTO, IDENTITY, REAL_IP, REQUEST_ID,
    TRACEPARENT, clean_request, client_address, client_scheme, contains,
};
use crate::snapshot::routes::HostSent;

/// The head of the upstream request, decided and complete but for the client's own headers.
pub(crate) struct Injection {
    target: String,
    /// The presented mandate, which must not pass.
    mandate: Option<Box<str>>,
    /// Removed whatever the client put there, under any name an upstream may take for this one.
    removed: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    /// Made last, over everything else.
    signing: Option<Signing>,
}

impl fmt::Debug for Injection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Injection").finish_non_exhaustive()
    }
}

/// Where a credential goes.
enum Place {
    Header(HeaderName, HeaderValue),
    Query(String, String),
}

/// Decides the head of a governed request.
///
/// # Errors
/// [`Denial::Unbuildable`].
pub(crate) fn plan(
    gateway: &Gateway,
    request: &Inbound<'_>,
    route: &Straight,
    standing: &Standing,
    credential: &Credential,
    reachable: &Reachable,
    seen: &Observation,
) -> Result<Injection, Denial> {
    let route = route.route();
    let mandate = standing.caller().bearer();
    let in_url = |text: &str| contains(text.as_bytes(), mandate);
    if in_url(route.path()) || route.query().is_some_and(in_url) {
        return Err(Denial::Unbuildable("the mandate is in the URL"));
    }
    let place = place(credential)?;
    let in_query = match &place {
        Some(Place::Query(name, value)) => Some((name.as_str(), value.as_str())),
        _ => None,
    };
    let mut injection = Injection {
        target: target(credential.url(), route.path(), route.query(), in_query),
        mandate: Some(mandate.into()),
        removed: Vec::new(),
        set: common_headers(gateway, request, route.trail(), reachable, seen)?,
        signing: signing(gateway, request, credential, reachable)?,
    };
    if let Some(Place::Header(name, value)) = place {
        injection.removed.push(name.clone());
        injection.set.push((name, value));
    }
    let upstream = credential.upstream();
    if upstream.sees_mandate() && upstream.auth_mode != AuthMode::CaracalJwt {
        injection
            .set
            .push((IDENTITY, sensitive(credential.mandate().expose())?));
    }
    Ok(injection)
}

/// Decides the head of a request to a public upstream.
///
/// # Errors
/// [`Denial::Unbuildable`].
pub(crate) fn plan_public(
    gateway: &Gateway,
    request: &Inbound<'_>,
    route: &PublicRoute,
    reachable: &Reachable,
    seen: &Observation,
) -> Result<Injection, Denial> {
    let mut set = common_headers(gateway, request, route.trail(), reachable, seen)?;
    if route.keeps_authorization() {
        set.extend(
            authorization_of_the_application(gateway, request).map(|value| (AUTHORIZATION, value.clone())),
        );
    }
    Ok(Injection {
        target: target(route.pool().first(), route.path(), route.query(), None),
        mandate: None,
        removed: headers_with_mandates(gateway, request),
        set,
        signing: None,
    })
}

/// The client's `Authorization`, if it is one and no mandate of this issuer: those stay here, whatever a route says.
fn authorization_of_the_application<'a>(gateway: &Gateway, request: &Inbound<'a>) -> Option<&'a HeaderValue> {
    let mut values = request.headers().get_all(AUTHORIZATION).iter();
    let value = values.next().filter(|_value| values.next().is_none())?;
    value.to_str().ok()?;
    (!holds_mandate(value, &gateway.config.issuer_url)).then_some(value)
}

/// The headers in which a mandate of this issuer stands, whatever they are called: a public upstream has no use for one.
fn headers_with_mandates(gateway: &Gateway, request: &Inbound<'_>) -> Vec<HeaderName> {
    let issuer = &gateway.config.issuer_url;
    let headers = request.headers().iter();
    headers
        .filter(|(_name, value)| holds_mandate(value, issuer))
        .map(|(name, _value)| name.clone())
        .collect()
}

/// What `{"` is in base64url: every token begins with it.
const BEGINNING: &str = "eyJ";

/// Whether one of the words of a header is a mandate of `issuer`. Only where the beginning of a token stands is there more to do than
/// to look for it.
fn holds_mandate(value: &HeaderValue, issuer: &str) -> bool {
    let text = String::from_utf8_lossy(value.as_bytes());
    text.contains(BEGINNING)
        && text.split(|mark: char| !is_of_a_token(mark)).any(|word| {
            UnverifiedToken::parse(word).is_ok_and(|token| token.unverified_claims().iss == issuer)
        })
}

/// Whether a mandate may have this in it (RFC 7515 section 7.1).
fn is_of_a_token(mark: char) -> bool {
    mark.is_ascii_alphanumeric() || matches!(mark, '-' | '_' | '.')
}

/// What is to be signed with AWS credentials, if that is how the upstream is called.
fn signing(
    gateway: &Gateway,
    request: &Inbound<'_>,
    credential: &Credential,
    reachable: &Reachable,
) -> Result<Option<Signing>, Denial> {
    let upstream = credential.upstream();
    if upstream.auth_mode != AuthMode::AwsSigv4 {
        return Ok(None);
    }
    let aws = upstream
        .aws
        .as_ref()
        .ok_or(Denial::Unbuildable("no provider credential"))?;
    let is_tls = reachable.target().is_tls();
    Signing::plan(aws, request, is_tls, gateway.clock.unix_seconds()).map(Some)
}

impl Injection {
    /// Turns the client's head, from which hop-by-hop headers are gone, into the upstream's.
    ///
    /// # Errors
    /// None that [`plan`] has not excluded.
    pub(crate) fn apply(&self, head: &mut RequestHeader) -> Result<()> {
        clean_request(head, self.mandate.as_deref())?;
        for name in &self.removed {
            remove_all(head, name);
        }
        for (name, value) in &self.set {
            head.insert_header(name.clone(), value.clone())?;
        }
        head.set_raw_path(self.target.as_bytes())?;
        match &self.signing {
            Some(signing) => signing.apply(head),
            None => Ok(()),
        }
    }
}

/// Removes every header that an upstream may take for `name`.
fn remove_all(head: &mut RequestHeader, name: &HeaderName) {
    let same: Vec<HeaderName> = head
        .headers
        .keys()
        .filter(|held| is_same_name(held.as_str(), name.as_str()))
        .cloned()
        .collect();
    for name in same {
        head.remove_header(&name);
    }
}

/// Headers that a request gets: eight of its own, the credential and the caller's identity.
const HEADERS_MOST: usize = 10;

fn common_headers(
    gateway: &Gateway,
    request: &Inbound<'_>,
    trail: Trail<'_>,
    reachable: &Reachable,
    seen: &Observation,
) -> Result<Vec<(HeaderName, HeaderValue)>, Denial> {
    let is_trusted = gateway.config.trust.covers(request.peer().ip());
    let client = text(&client_address(request, &gateway.config.trust).to_string())?;
    let mut set = Vec::with_capacity(HEADERS_MOST);
    set.extend([
        (HOST, host(request, trail, reachable)?),
        (REQUEST_ID, text(seen.request_id.as_str())?),
        (FORWARDED_FOR, client.clone()),
        (REAL_IP, client),
        (
            FORWARDED_PROTO,
            HeaderValue::from_static(client_scheme(request, is_trusted)),
        ),
    ]);
    set.extend(seen.traceparent.clone().map(|value| (TRACEPARENT, value)));
    set.extend(
        request
            .headers()
            .get(HOST)
            .map(|host| (FORWARDED_HOST, host.clone())),
    );
    if let Some(prefix) = trail.stripped() {
        set.push((FORWARDED_PREFIX, text(prefix)?));
    }
    Ok(set)
}

/// The `Host` of the upstream request. An HTTP/1.0 client may have none to preserve.
fn host(request: &Inbound<'_>, trail: Trail<'_>, reachable: &Reachable) -> Result<HeaderValue, Denial> {
    let given = match trail.host_sent() {
        HostSent::Upstream => None,
        HostSent::Preserved => request.headers().get(HOST),
        HostSent::Rewritten(host) => Some(host),
    };
    given.map_or_else(|| text(reachable.target().authority()), |host| Ok(host.clone()))
}

/// Where and how the credential is put in, by mode.
fn place(credential: &Credential) -> Result<Option<Place>, Denial> {
    let upstream = credential.upstream();
    match upstream.auth_mode {
        AuthMode::None | AuthMode::AwsSigv4 => Ok(None),
        AuthMode::CaracalJwt => {
            let scheme = upstream
                .auth_scheme
                .as_deref()
                .filter(|scheme| !scheme.is_empty())
                .unwrap_or("Bearer");
            in_header(upstream, Some(scheme), credential.mandate().expose()).map(Some)
        }
        AuthMode::ProviderApikey if upstream.auth_location == Some(AuthLocation::Query) => {
            let name = upstream
                .query_param_name
                .as_deref()
                .filter(|name| !name.is_empty());
            let name = name.ok_or(Denial::Unbuildable("no query parameter"))?;
            Ok(Some(Place::Query(name.to_owned(), token(upstream)?.to_owned())))
        }
        AuthMode::ProviderOauth | AuthMode::ProviderApikey => {
            in_header(upstream, upstream.auth_scheme.as_deref(), token(upstream)?).map(Some)
        }
    }
}

fn token(upstream: &Upstream) -> Result<&str, Denial> {
    let token = upstream
        .provider_token
        .as_deref()
        .filter(|token| !token.is_empty());
    token.ok_or(Denial::Unbuildable("no provider credential"))
}

fn in_header(upstream: &Upstream, scheme: Option<&str>, secret: &str) -> Result<Place, Denial> {
    let name = match upstream.auth_header.as_deref().filter(|name| !name.is_empty()) {
        None => AUTHORIZATION,
        Some(name) if is_reserved_credential_header(name) => {
            return Err(Denial::Unbuildable("reserved credential header"));
        }
        Some(name) => HeaderName::from_bytes(name.as_bytes())
            .map_err(|_error| Denial::Unbuildable("credential header"))?,
    };
    let value = match scheme.filter(|scheme| !scheme.is_empty()) {
        Some(scheme) => sensitive(&format!("{scheme} {secret}"))?,
        None => sensitive(secret)?,
    };
    Ok(Place::Header(name, value))
}

fn text(value: &str) -> Result<HeaderValue, Denial> {
    HeaderValue::try_from(value).map_err(|_error| Denial::Unbuildable("header value"))
}

/// A value that no `Debug` prints.
fn sensitive(value: &str) -> Result<HeaderValue, Denial> {
    let mut value = text(value)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The request target: the upstream's path before the client's, the upstream's own query parameters before the
/// client's. What the client sent stays byte for byte, except parameters the upstream or the credential set.
fn target(upstream: &Url, path: &str, query: Option<&str>, credential: Option<(&str, &str)>) -> String {
    let base = upstream.path().trim_end_matches('/');
    let mut target = match (base, path) {
        ("", path) => path.to_owned(),
        (base, "/") => upstream
            .path()
            .strip_suffix('/')
            .map_or_else(|| base.to_owned(), |_base| format!("{base}/")),
        (base, path) => format!("{base}{path}"),
    };
    let own = upstream.query().filter(|own| !own.is_empty());
    let taken: Vec<String> = own
        .into_iter()
        .flat_map(str_pairs)
        .map(parameter_name)
        .chain(credential.map(|(name, _value)| name.to_owned()))
        .collect();
    let from_client = query.unwrap_or_default();
    let mut parts: Vec<String> = own.map(str::to_owned).into_iter().collect();
    if taken.is_empty() {
        parts.extend(query.map(str::to_owned));
    } else {
        parts.extend(
            str_pairs(from_client)
                .filter(|pair| !taken.contains(&parameter_name(pair)))
                .map(str::to_owned),
        );
    }
    if let Some((name, value)) = credential {
        parts.push(
            form_urlencoded::Serializer::new(String::new())
                .append_pair(name, value)
                .finish(),
        );
    }
    if !parts.is_empty() {
        target.push('?');
        target.push_str(&parts.join("&"));
    }
    target
}

fn str_pairs(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter(|pair| !pair.is_empty())
}

/// The decoded name of a parameter, so that an encoded one is the same one.
fn parameter_name(pair: &str) -> String {
    form_urlencoded::parse(pair.as_bytes())
        .next()
        .map(|(name, _value)| name.into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(upstream: &str, path: &str, query: Option<&str>, credential: Option<(&str, &str)>) -> String {
        target(&Url::parse(upstream).unwrap(), path, query, credential)
    }

    #[test]
    fn the_clients_path_and_query_pass_byte_for_byte() {
        for (upstream, path, query, target) in [
            ("http://u", "/", None, "/"),
            (
                "http://u/",
                "/a%2Fb//c/",
                Some("q=%20&q=+&;x&=&&y"),
                "/a%2Fb//c/?q=%20&q=+&;x&=&&y",
            ),
            ("http://u/", "/a", Some(""), "/a?"),
            (
                "http://u/api",
                "/v1/contacts",
                Some("limit=5"),
                "/api/v1/contacts?limit=5",
            ),
            ("http://u/api/", "/v1/", None, "/api/v1/"),
            ("http://u/api", "/", None, "/api"),
            ("http://u/api/", "/", None, "/api/"),
        ] {
            assert_eq!(joined(upstream, path, query, None), target, "{upstream} {path}");
        }
    }

    #[test]
    fn parameters_of_the_upstream_win() {
        for (query, target) in [
            (None, "/api/x?version=2"),
            (
                Some("a=1&version=1&%76ersion=0&b=%2F"),
                "/api/x?version=2&a=1&b=%2F",
            ),
        ] {
            assert_eq!(joined("http://u/api?version=2", "/x", query, None), target);
        }
    }

    #[test]
    fn a_key_in_the_query_replaces_the_clients() {
        let target = joined(
            "http://u/",
            "/x",
            Some("api_key=forged&a=%20&api%5Fkey=again"),
            Some(("api_key", "k/1 2")),
        );
        assert_eq!(target, "/x?a=%20&api_key=k%2F1+2");
    }

    #[test]
    fn the_clients_own_credential_is_removed_however_it_is_spelled() {
        for (credential, spelled) in [
            ("x-api-key", "X-Api-Key"),
            ("x-api-key", "x_api_key"),
            ("x-api-key", "X_Api-Key"),
            ("x_api_key", "x-api-key"),
        ] {
            let injection = Injection {
                target: "/".to_owned(),
                mandate: None,
                removed: vec![HeaderName::from_static(credential)],
                set: vec![(
                    HeaderName::from_static(credential),
                    HeaderValue::from_static("real"),
                )],
                signing: None,
            };
            let mut head = RequestHeader::build("GET", b"/", None).unwrap();
            head.append_header(spelled, "forged").unwrap();
            head.append_header("x-other", "kept").unwrap();
            injection.apply(&mut head).unwrap();
            let values: Vec<_> = head.headers.values().collect();
            assert_eq!(head.headers[credential], "real", "{spelled}");
            assert_eq!(values.len(), 2, "{spelled}: {values:?}");
        }
    }

    fn head_for(upstream: &Upstream) -> Result<Option<(String, String)>, Denial> {
        let place = match upstream.auth_mode {
            AuthMode::ProviderOauth | AuthMode::ProviderApikey => {
                in_header(upstream, upstream.auth_scheme.as_deref(), token(upstream)?)?
            }
            AuthMode::None | AuthMode::CaracalJwt | AuthMode::AwsSigv4 => return Ok(None),
        };
        match place {
            Place::Header(name, value) => Ok(Some((name.to_string(), value.to_str().unwrap().to_owned()))),
            Place::Query(..) => Ok(None),
        }
    }

    #[test]
    fn a_provider_credential_is_put_where_the_directive_says() {
        let base = Upstream {
            auth_mode: AuthMode::ProviderOauth,
            provider_token: Some("t-1".into()),
            ..Upstream::default()
        };
        for (header, scheme, expected) in [
            (None, Some("Bearer"), ("authorization", "Bearer t-1")),
            (None, Some("Basic"), ("authorization", "Basic t-1")),
            (Some("X-Api-Key"), None, ("x-api-key", "t-1")),
            (Some(""), Some(""), ("authorization", "t-1")),
        ] {
            let upstream = Upstream {
                auth_header: header.map(str::to_owned),
                auth_scheme: scheme.map(str::to_owned),
                ..base.clone()
            };
            let (name, value) = head_for(&upstream).unwrap().unwrap();
            assert_eq!((name.as_str(), value.as_str()), expected);
        }
    }

    #[test]
    fn a_credential_that_cannot_be_expressed_is_refused() {
        let base = Upstream {
            auth_mode: AuthMode::ProviderOauth,
            provider_token: Some("t-1".into()),
            ..Upstream::default()
        };
        for header in [
            "Host",
            "content-length",
            "X-Caracal-Identity",
            "X-Forwarded-For",
            "Proxy-Authorization",
            "x_forwarded_for",
            "a b",
        ] {
            let upstream = Upstream {
                auth_header: Some(header.into()),
                ..base.clone()
            };
            assert!(head_for(&upstream).is_err(), "{header}");
        }
        for token in [None, Some(String::new()), Some("line\nbreak".into())] {
            assert!(
                head_for(&Upstream {
                    provider_token: token,
                    ..base.clone()
                })
                .is_err()
            );
        }
    }
}
