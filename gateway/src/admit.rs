//! The order. A request is admitted when every stage has proved its part; this file is the only one that puts the
//! proofs together.

use caracal_token::fingerprint;
use http::header::HOST;
use pingora_error::Error;
use pingora_http::RequestHeader;

use crate::Gateway;
use crate::context::{Inbound, Observation, SeenCaller, Way};
use crate::denial::Denial;
use crate::metrics::Stage;
use crate::snapshot::routes::HostSent;
use crate::stage::audit::Recorded;
use crate::stage::exchange::Credential;
use crate::stage::forward::Reachable;
use crate::stage::inject::Injection;
use crate::stage::replay::{FirstUse, Unseen};
use crate::stage::revocation::Standing;
use crate::stage::route::{Chosen, PublicRoute, Straight};
use crate::stage::{authenticate, exchange, forward, inject, operation, replay, revocation, route};

/// Leave to forward one request, with everything that proves it.
#[derive(Debug)]
pub(crate) struct Admission {
    standing: Standing,
    credential: Credential,
    reachable: Reachable,
    injection: Injection,
    _route: Straight,
    _first_use: FirstUse,
    _recorded: Recorded,
}

impl Admission {
    /// Whose mandate it is.
    pub(crate) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// What the STS granted.
    pub(crate) fn credential(&self) -> &Credential {
        &self.credential
    }

    /// Where it goes.
    pub(crate) fn reachable(&self) -> &Reachable {
        &self.reachable
    }

    /// What is sent.
    pub(crate) fn injection(&self) -> &Injection {
        &self.injection
    }
}

/// Admits a governed request, or says why not. The order of the checks is the contract's
/// (docs/contract/gateway.md, "Order").
///
/// # Errors
/// The first [`Denial`]. Once the mandate is burned it stays burned, whatever fails later, but for [`replay::once`]'s exception.
pub(crate) async fn admit(
    gateway: &Gateway,
    request: &Inbound<'_>,
    chosen: &Chosen,
    way: &Way,
    seen: &mut Observation,
) -> Result<Admission, Denial> {
    let times = &gateway.metrics.stages;
    let fresh = revocation::fresh(gateway)?;
    let presented = authenticate::present(gateway, fresh, request)?;
    seen.subject_fingerprint = Some(fingerprint(presented.bearer()).into());
    let route = route::resolve(chosen, request)?;
    seen.resource = Some(route.resource().into());
    let claimed = presented.identified()?;
    let route = route::without_traversal(route)?;
    let verify = || authenticate::verify(gateway, &route, request, claimed);
    let caller = times.time(Stage::Authenticate, verify).await?;
    seen.caller = Some(SeenCaller::of(&caller));
    if times.run(Stage::Operation, || {
        operation::is_doubtful(gateway, &route, &caller, seen)
    }) {
        // Rare, and large.
        Box::pin(operation::settle(gateway, &route, &caller, seen)).await?;
    }
    let rest = |unseen| admit_once(gateway, request, route, way, unseen, seen);
    replay::once(gateway, caller, rest).await
}

/// The checks of a mandate that is burned. They are made within [`replay::once`], which hears of every failure.
async fn admit_once(
    gateway: &Gateway,
    request: &Inbound<'_>,
    route: Straight,
    way: &Way,
    unseen: Unseen,
    seen: &mut Observation,
) -> Result<Admission, Denial> {
    let times = &gateway.metrics.stages;
    let standing = times.run(Stage::Revocation, || revocation::check(unseen))?;
    forward::within_limits(way.request_bytes_max(&gateway.config), request)?;
    let redeem = times.time(Stage::Exchange, || {
        exchange::redeem(gateway, &route, &standing, seen)
    });
    let claim = times.time(Stage::Replay, || replay::claim(gateway, &standing, seen));
    let (first_use, credential) = if replay::is_doubted(&standing) {
        let first_use = claim.await?;
        (first_use, redeem.await?)
    } else if replay::is_free_for_its_sender(&standing) {
        let credential = redeem.await?;
        (claim.await?, credential)
    } else {
        let (credential, first_use) = tokio::join!(redeem, claim);
        (first_use?, credential?)
    };
    let reach = || forward::reach(gateway, &credential);
    let reachable = times.time(Stage::Resolve, reach).await?;
    let injection = times.run(Stage::Inject, || {
        inject::plan(gateway, request, &route, &standing, &credential, &reachable, seen)
    })?;
    revocation::recheck(gateway, &standing)?;
    let intent = || gateway.evidence.intent(seen, &standing, &credential, &reachable);
    let recorded = times.time(Stage::Record, intent).await?;
    Ok(Admission {
        standing,
        credential,
        reachable,
        injection,
        _route: route,
        _first_use: first_use,
        _recorded: recorded,
    })
}

/// Leave to forward one request to an upstream that a route marks as public.
#[derive(Debug)]
pub(crate) struct Passage {
    reachable: Reachable,
    injection: Injection,
    /// Whether the upstream is asked for by its own name.
    names_upstream: bool,
}

impl Passage {
    /// Where it goes.
    pub(crate) fn reachable(&self) -> &Reachable {
        &self.reachable
    }

    /// Turns the client's head into that for the upstream which the last of so many attempts goes to.
    ///
    /// # Errors
    /// Those of [`Injection::apply`].
    pub(crate) fn apply(&self, head: &mut RequestHeader, attempts: usize) -> Result<(), Box<Error>> {
        self.injection.apply(head)?;
        match self.reachable.chosen(attempts) {
            Some(target) if self.names_upstream => head.insert_header(HOST, target.authority()),
            _ => Ok(()),
        }
    }
}

/// Lets a request to a public upstream pass. No mandate is asked for, so none is looked at, and none is sent on.
///
/// # Errors
/// [`Denial::BodyTooLarge`], [`Denial::UpstreamBlocked`], [`Denial::Unbuildable`].
pub(crate) async fn pass(
    gateway: &Gateway,
    request: &Inbound<'_>,
    route: &PublicRoute,
    way: &Way,
    seen: &Observation,
) -> Result<Passage, Denial> {
    forward::within_limits(way.request_bytes_max(&gateway.config), request)?;
    let reachable = forward::reach_pool(gateway, route.pool(), route.checks()).await?;
    let injection = inject::plan_public(gateway, request, route, &reachable, seen)?;
    Ok(Passage {
        reachable,
        injection,
        names_upstream: *route.trail().host_sent() == HostSent::Upstream,
    })
}

impl SeenCaller {
    fn of(caller: &authenticate::Caller) -> Self {
        let claims = caller.claims();
        Self {
            zone: claims.zone_id.clone(),
            client: claims.client_id.clone(),
            subject_kind: claims.sub_type.as_str(),
            jti: claims.jti.as_str().into(),
            anchors: caller.anchors().clone(),
        }
    }
}
