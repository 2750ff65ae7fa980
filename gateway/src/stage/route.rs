//! Stage 1: which resource and which upstream path does this request mean? Memory only.

mod redirect;

use std::sync::Arc;

use caracal_model::ZoneId;
use caracal_wire::path::is_traversal;
use http::header::HeaderName;

use crate::config::Config;
use crate::context::Inbound;
use crate::denial::Denial;
use crate::header::{CLIENT_ID, RESOURCE, client_scheme};
use crate::snapshot::routes::{Asked, Destination, Found, HostSent, Line, Routes};
use crate::upstream::{Check, Pool};

pub(crate) use redirect::{Location, redirect};

/// What the route table says about a request. Asked once, so that a request sees one table from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Chosen {
    line: Option<Arc<Line>>,
    /// Whether the path as the client sent it means one thing only.
    is_straight: bool,
}

/// Proof that a request names one resource and a path with one meaning.
#[derive(Debug)]
pub(crate) struct Route {
    resource: Box<str>,
    zone: Option<ZoneId>,
    path: Box<str>,
    query: Option<Box<str>>,
    line: Option<Arc<Line>>,
    is_straight: bool,
}

/// A request to a public upstream: no resource, no mandate.
#[derive(Debug)]
pub(crate) struct PublicRoute {
    pool: Pool,
    keeps_authorization: bool,
    path: Box<str>,
    query: Option<Box<str>>,
    line: Arc<Line>,
}

impl Chosen {
    /// The line of the table, unless the request is for none.
    pub(crate) fn line(&self) -> Option<&Arc<Line>> {
        self.line.as_ref()
    }
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

    /// What the request keeps of its way here.
    pub(crate) fn trail(&self) -> Trail<'_> {
        Trail(self.line.as_deref())
    }
}

impl PublicRoute {
    /// Where its upstreams are.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What health checks know of them.
    pub(crate) fn checks(&self) -> &[Arc<Check>] {
        self.line.checks()
    }

    /// Whether the upstream gets the client's `Authorization`, unless that is a mandate.
    pub(crate) fn keeps_authorization(&self) -> bool {
        self.keeps_authorization
    }

    /// As [`Route::path`].
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// As [`Route::query`].
    pub(crate) fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// As [`Route::trail`].
    pub(crate) fn trail(&self) -> Trail<'_> {
        Trail(Some(&self.line))
    }
}

/// What the upstream is told about the way a request came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trail<'a>(Option<&'a Line>);

impl<'a> Trail<'a> {
    /// Which host the upstream is asked for.
    pub(crate) fn host_sent(self) -> &'a HostSent {
        self.0.map_or(&HostSent::Upstream, |line| &line.rule().host_sent)
    }

    /// The prefix that was taken off the path.
    pub(crate) fn stripped(self) -> Option<&'a str> {
        self.0.and_then(|line| line.rule().stripped())
    }
}

/// Looks the request up. One that names a resource by header takes no route. The cost is that of [`Routes::find`].
///
/// # Errors
/// [`Denial::BadRequest`], [`Denial::MethodNotAllowed`].
pub(crate) fn choose(config: &Config, routes: &Routes, request: &Inbound<'_>) -> Result<Chosen, Denial> {
    let path = request.raw_path().ok_or(Denial::BadRequest)?;
    let mut chosen = Chosen {
        line: None,
        is_straight: !is_traversal(path),
    };
    if !chosen.is_straight || routes.len() == 0 || request.headers().contains_key(RESOURCE) {
        return Ok(chosen);
    }
    let host = request.host();
    let is_trusted = config.trust.covers(request.peer().ip());
    let found = routes.find(Asked {
        host: host.as_deref(),
        path,
        method: &request.head().method,
        is_https: client_scheme(request, is_trusted) == "https",
    });
    match found {
        Found::Nothing => {}
        Found::Line(line) => chosen.line = Some(Arc::clone(line)),
        Found::Ambiguous => chosen.is_straight = false,
        Found::OtherMethods(methods) => {
            let methods: Vec<&str> = methods.into_iter().map(http::Method::as_str).collect();
            return Err(Denial::MethodNotAllowed(methods.join(", ").into()));
        }
    }
    Ok(chosen)
}

/// Whether a public route serves the request. Asked before any mandate is looked for.
pub(crate) fn public(chosen: &Chosen, request: &Inbound<'_>) -> Option<PublicRoute> {
    let line = chosen.line()?;
    let Destination::Public {
        pool,
        keeps_authorization,
    } = &line.rule().destination
    else {
        return None;
    };
    Some(PublicRoute {
        pool: pool.clone(),
        keeps_authorization: *keeps_authorization,
        path: line.rule().upstream_path(request.raw_path()?).into(),
        query: request.raw_query().map(Box::from),
        line: Arc::clone(line),
    })
}

/// Finds the resource: the header when there is one, else what the route table says.
///
/// # Errors
/// [`Denial::ClientHeader`], [`Denial::MissingRouting`], [`Denial::PathTraversal`] for a path without one route.
pub(crate) fn resolve(chosen: &Chosen, request: &Inbound<'_>) -> Result<Route, Denial> {
    if request.headers().contains_key(CLIENT_ID) {
        return Err(Denial::ClientHeader);
    }
    let path = request.raw_path().ok_or(Denial::BadRequest)?;
    let mut route = Route {
        resource: Box::default(),
        zone: None,
        path: path.into(),
        query: request.raw_query().map(Box::from),
        line: None,
        is_straight: chosen.is_straight,
    };
    if request.headers().contains_key(RESOURCE) {
        route.resource = only_value(request, &RESOURCE)
            .ok_or(Denial::MissingRouting)?
            .into();
        return Ok(route);
    }
    if !chosen.is_straight {
        return Err(Denial::PathTraversal);
    }
    let line = chosen.line().ok_or(Denial::MissingRouting)?;
    let Destination::Resource { resource, zone } = &line.rule().destination else {
        return Err(Denial::MissingRouting);
    };
    route.resource = resource.as_str().into();
    route.zone.clone_from(zone);
    route.path = line.rule().upstream_path(path).into();
    route.line = Some(Arc::clone(line));
    Ok(route)
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
