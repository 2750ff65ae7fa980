//! Stage 1: which resource and which upstream path does this request mean? Memory only.

use caracal_model::ZoneId;
use caracal_wire::path::is_traversal;
use http::header::HeaderName;
use url::Url;

use crate::context::Inbound;
use crate::denial::Denial;
use crate::header::{CLIENT_ID, RESOURCE};
use crate::snapshot::routes::{Destination, Routes};

/// Proof that a request names one resource and a path with one meaning.
#[derive(Debug)]
pub(crate) struct Route {
    resource: Box<str>,
    zone: Option<ZoneId>,
    path: Box<str>,
    query: Option<Box<str>>,
    /// Whether the path as the client sent it means one thing only.
    is_straight: bool,
}

/// A request to a public upstream: no resource, no mandate.
#[derive(Debug)]
pub(crate) struct PublicRoute {
    upstream: Url,
    path: Box<str>,
    query: Option<Box<str>>,
}

impl Route {
    /// Identifier of the resource, as the client or the route named it.
    pub(crate) fn resource(&self) -> &str {
        &self.resource
    }

    /// The only zone this route accepts, when it is bound to one.
    pub(crate) fn zone(&self) -> Option<&ZoneId> {
        self.zone.as_ref()
    }

    /// The path below the upstream's own, byte for byte as sent, without a stripped prefix. Begins with `/`.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The query, byte for byte as sent, without `?`.
    pub(crate) fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }
}

impl PublicRoute {
    /// Where the upstream is.
    pub(crate) fn upstream(&self) -> &Url {
        &self.upstream
    }

    /// As [`Route::path`].
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// As [`Route::query`].
    pub(crate) fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }
}

/// Whether a public route serves the request. Asked before any mandate is looked for; a request that names a resource
/// by header never is public.
pub(crate) fn public(routes: &Routes, request: &Inbound<'_>) -> Option<PublicRoute> {
    if routes.is_empty() || request.headers().contains_key(RESOURCE) {
        return None;
    }
    let path = request.raw_path().filter(|path| !is_traversal(path))?;
    let rule = routes.find(request.host().as_deref(), path)?;
    let Destination::Public { upstream } = &rule.destination else {
        return None;
    };
    Some(PublicRoute {
        upstream: upstream.clone(),
        path: rule.upstream_path(path).into(),
        query: request.raw_query().map(Box::from),
    })
}

/// Finds the resource: the header when there is one, else the route table.
///
/// # Errors
/// [`Denial::ClientHeader`], [`Denial::MissingRouting`].
pub(crate) fn resolve(routes: &Routes, request: &Inbound<'_>) -> Result<Route, Denial> {
    if request.headers().contains_key(CLIENT_ID) {
        return Err(Denial::ClientHeader);
    }
    let path = request.raw_path().ok_or(Denial::BadRequest)?;
    let query = request.raw_query().map(Box::from);
    let is_straight = !is_traversal(path);
    if request.headers().contains_key(RESOURCE) {
        let resource = only_value(request, &RESOURCE).ok_or(Denial::MissingRouting)?;
        return Ok(Route {
            resource: resource.into(),
            zone: None,
            path: path.into(),
            query,
            is_straight,
        });
    }
    let rule = routes
        .find(request.host().as_deref(), path)
        .ok_or(Denial::MissingRouting)?;
    let Destination::Resource { resource, zone } = &rule.destination else {
        return Err(Denial::MissingRouting);
    };
    let path = rule.upstream_path(path).into();
    Ok(Route {
        resource: resource.as_str().into(),
        zone: zone.clone(),
        path,
        query,
        is_straight,
    })
}

/// Refuses a path that some component between here and the upstream could read as another one.
///
/// # Errors
/// [`Denial::PathTraversal`].
pub(crate) fn without_traversal(route: Route) -> Result<Straight, Denial> {
    if route.is_straight {
        Ok(Straight(route))
    } else {
        Err(Denial::PathTraversal)
    }
}

/// Proof that the path of a [`Route`] means one thing.
#[derive(Debug)]
pub(crate) struct Straight(Route);

impl Straight {
    /// The route.
    pub(crate) fn route(&self) -> &Route {
        &self.0
    }
}

/// The one value of a header, trimmed; `None` when it is empty, given twice or not visible ASCII.
fn only_value<'a>(request: &Inbound<'a>, name: &HeaderName) -> Option<&'a str> {
    let mut values = request.headers().get_all(name).iter();
    let value = values.next().filter(|_value| values.next().is_none())?;
    value
        .to_str()
        .ok()
        .map(str::trim)
        .filter(|value| !value.is_empty())
}
