//! The hooks of Pingora, in the order in which it calls them. Each hands over to a stage; what the gateway answers by itself is in
//! `own`, and how, in `answer`.

mod answer;
mod ending;
mod http2;
mod own;
mod session;

use std::os::fd::RawFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use caracal_chassis::health::Readiness;
use http::Version;
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::Instrument;

use self::session::{head_bytes, inbound, leash, observe};
use crate::Gateway;
use crate::admit;
use crate::connection::{Leash, Trip};
use crate::context::{Answer, Context, Verdict, Way};
use crate::denial::Denial;
use crate::header::{REQUEST_ID, TOKEN_EXPIRES_IN, clean_response};
use crate::metrics::Stage;
use crate::one_reading;
use crate::source::network;
use crate::stage::stream::Farewell;
use crate::stage::{forward, revocation, route, stream};
use crate::upstream::Failure;

pub(crate) use ending::given_up;

/// How long a request body that is not wanted any more is read, so that the client gets the refusal instead of a
/// broken connection.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// What Pingora calls.
pub(crate) struct Proxy {
    gateway: Arc<Gateway>,
    readiness: Readiness,
    /// What it was, and when.
    known_readiness: Mutex<Option<(Instant, Result<(), &'static str>)>>,
}

impl Proxy {
    /// The hooks of `gateway`.
    pub(crate) fn new(gateway: Arc<Gateway>, readiness: Readiness) -> Self {
        Self {
            gateway,
            readiness,
            known_readiness: Mutex::default(),
        }
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new()
    }

    /// No compression: bodies pass as they are.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, context: &mut Context) -> Result<()> {
        let timeouts = &self.gateway.config.timeouts;
        self.gateway.metrics.requests.inc();
        let leash = leash(session)?;
        leash.deciding();
        context.leash = Some(leash);
        session.set_read_timeout(Some(timeouts.read));
        session.set_write_timeout(Some(timeouts.write));
        session.set_total_drain_timeout(Some(DRAIN_MAX));
        // HTTP/1.0 knows no interim answers (RFC 9110 section 15.2).
        let knows_interim = session.req_header().version > Version::HTTP_10;
        session.set_ignore_info_resp(!knows_interim);
        observe(&self.gateway, session, context)
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        if self.serve_challenge(session, context).await?
            || self.serve_health(session, context).await?
            || own::send_to_tls(&self.gateway, session, context).await?
        {
            return Ok(true);
        }
        context.verdict = self.decide(session, context).await?;
        self.gateway
            .metrics
            .admission
            .observe(context.seen.started.elapsed().as_secs_f64());
        if matches!(context.verdict, Verdict::Served) {
            return Ok(true);
        }
        let Verdict::Denied(denial) = &context.verdict else {
            let timeouts = context.way.timeouts(&self.gateway.config);
            session.set_read_timeout(Some(timeouts.read));
            let standing = match &context.verdict {
                Verdict::Admitted(admission) => Some(admission.standing()),
                _ => None,
            };
            let is_whole = session.as_mut().is_body_done();
            stream::await_head(&self.gateway, &timeouts, &leash(session)?, standing, is_whole);
            context.seen.forwarded = Some(Instant::now());
            return Ok(false);
        };
        session.set_close_on_response_before_downstream_finish(false);
        answer::refuse(session, denial, &context.seen.request_id).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, session: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        let Some(reachable) = context.verdict.reachable() else {
            return undecided();
        };
        let zone = match &context.verdict {
            Verdict::Admitted(admission) => Some(&admission.standing().caller().claims().zone_id),
            _ => None,
        };
        let peer = forward::peer(
            &self.gateway,
            &context.way.timeouts(&self.gateway.config),
            session.req_header(),
            reachable,
            zone,
            context.seen.attempts,
        );
        if context.seen.attempts > 0 {
            self.gateway.metrics.upstream_retries.inc();
        }
        context.seen.attempts += 1;
        let adapted = peer.map(|peer| forward::handshake::adapt(peer, session.req_header()));
        adapted.map_or_else(undecided, |peer| Ok(Box::new(peer)))
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        context: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(reachable) = context.verdict.reachable() {
            reachable.failed(&self.gateway, context.seen.attempts, Failure::Request);
            error.set_retry(reachable.has_more(context.seen.attempts));
        }
        error
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        fd: RawFd,
        digest: Option<&Digest>,
        context: &mut Context,
    ) -> Result<()> {
        let made = digest.and_then(|digest| digest.timing_digest.first()?.as_ref());
        context.seen.connection = Some((fd, made.map(|made| made.established_ts)));
        Ok(())
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        context: &mut Context,
        was_kept: bool,
    ) -> Box<Error> {
        if context.seen.upstream_status.is_none()
            && let Some(failure) = forward::its_failure(&error, was_kept, context.seen.connection)
            && let Some(reachable) = context.verdict.reachable()
        {
            reachable.failed(&self.gateway, context.seen.attempts, failure);
        }
        forward::forget_downgrade(&mut error);
        if !context.seen.heard_upstream && forward::may_repeat(session, &error) {
            error.retry.decide_reuse(was_kept);
        } else {
            error.set_retry(false);
        }
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream_request: &mut RequestHeader,
        context: &mut Context,
    ) -> Result<()> {
        // What a failed attempt took of the body is given to this one again.
        context.seen.request_bytes = 0;
        if let Verdict::Admitted(admission) = &context.verdict
            && let Err(denial) = revocation::recheck(&self.gateway, admission.standing())
        {
            // Connected, and not a byte sent.
            admission
                .reachable()
                .untried(&self.gateway, context.seen.attempts);
            return context.stop(denial);
        }
        match &context.verdict {
            Verdict::Admitted(admission) => admission.injection().apply(upstream_request)?,
            Verdict::Public(passage) => passage.apply(upstream_request, context.seen.attempts)?,
            Verdict::Pending | Verdict::Served | Verdict::Denied(_) => return undecided(),
        }
        if upstream_request.version == Version::HTTP_2 {
            http2::adapt(session, upstream_request).await?;
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        context: &mut Context,
    ) -> Result<()> {
        let timeouts = context.way.timeouts(&self.gateway.config);
        let is_answered = context.seen.answered.is_some();
        if let Some(denial) = stream::sent_piece(&timeouts, &leash(session)?, end_of_stream, is_answered)
            .as_ref()
            .and_then(forward::denial_of_trip)
        {
            return context.stop(denial);
        }
        let length = body.as_ref().map_or(0, Bytes::len);
        context.seen.request_bytes = context.seen.request_bytes.saturating_add(length as u64);
        let is_request = !session.was_upgraded();
        let bytes_max = context.way.request_bytes_max(&self.gateway.config);
        if is_request && context.seen.request_bytes > bytes_max {
            return context.stop(Denial::BodyTooLarge);
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        context.seen.heard_upstream = true;
        if !response.status.is_informational() || response.status.as_u16() == 101 {
            context.seen.upstream_status = Some(response.status.as_u16());
            if let Some(reachable) = context.verdict.reachable() {
                reachable.answered(&self.gateway, context.seen.attempts);
            }
            if let Some(forwarded) = context.seen.forwarded {
                let metrics = &self.gateway.metrics;
                metrics.upstream.observe(forwarded.elapsed().as_secs_f64());
                metrics.stages.note(Stage::Forward, forwarded);
                context.seen.answered = Some(Instant::now());
            }
        }
        clean_response(response, matches!(context.verdict, Verdict::Public(_)));
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        if response.status.is_informational() && response.status.as_u16() != 101 {
            return Ok(());
        }
        response.insert_header(REQUEST_ID, context.seen.request_id.as_str())?;
        for (name, value) in context
            .way
            .line()
            .into_iter()
            .flat_map(|line| &line.rule().response_headers)
        {
            response.insert_header(name.clone(), value.clone())?;
        }
        if let Verdict::Admitted(admission) = &context.verdict {
            let claims = admission.standing().caller().claims();
            let left = claims
                .exp
                .saturating_sub(self.gateway.clock.unix_seconds())
                .max(0);
            response.insert_header(TOKEN_EXPIRES_IN, left)?;
        }
        let standing = match &context.verdict {
            Verdict::Admitted(admission) => Some(admission.standing()),
            _ => None,
        };
        let timeouts = context.way.timeouts(&self.gateway.config);
        if let Some(trip) = stream::begin(&self.gateway, &timeouts, &leash(session)?, standing) {
            return Err(Error::because(
                ErrorType::Custom("authority ended"),
                "before the answer",
                trip,
            ));
        }
        let request = session.req_header();
        let may_have_trailer = stream::frame(response, request.version, &request.method)?;
        context.answer = if may_have_trailer {
            Answer::OpenEnded
        } else {
            Answer::Framed
        };
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        context: &mut Context,
    ) -> Result<Option<Duration>> {
        if end_of_stream {
            // It has said its last word, though the request may go on.
            context.answer = Answer::Framed;
        }
        let length = body.as_ref().map_or(0, Bytes::len);
        context.seen.response_bytes = context.seen.response_bytes.saturating_add(length as u64);
        let timeouts = context.way.timeouts(&self.gateway.config);
        match stream::between_chunks(&timeouts, &leash(session)?) {
            Some(trip) => Err(Error::because(
                ErrorType::Custom("authority ended"),
                "between chunks",
                trip,
            )),
            None => Ok(None),
        }
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut Context,
    ) -> FailToProxy {
        let leash = leash(session).ok();
        let trip = leash.as_ref().and_then(Leash::tripped);
        let denial = context
            .stopped
            .take()
            .unwrap_or_else(|| forward::denial_of(error, trip.as_ref()));
        tracing::debug!(%error, denial = denial.face().label, "a request ended early");
        if matches!(trip, Some(Trip::UpstreamSilent))
            && context.seen.upstream_status.is_none()
            && let Some(reachable) = context.verdict.reachable()
        {
            reachable.failed(&self.gateway, context.seen.attempts, Failure::Request);
        }
        if let Some(leash) = &leash {
            leash.deciding();
        }
        let begun = session
            .response_written()
            .filter(|head| !head.status.is_informational())
            .cloned();
        match begun {
            None if denial == Denial::ClientGone => {}
            None => {
                session.set_keepalive(None);
                if answer::refuse(session, &denial, &context.seen.request_id)
                    .await
                    .is_ok()
                {
                    // The client is told in any case; reading on is a courtesy to one that still sends.
                    let _drained = session.drain_request_body().await;
                }
            }
            Some(head) => end_early(session, leash.as_ref(), &head, trip.as_ref(), error).await,
        }
        let error_code = denial.face().status;
        context.stopped = Some(denial);
        FailToProxy {
            error_code,
            can_reuse_downstream: false,
        }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, context: &mut Context) {
        if let Some(leash) = context.leash.take() {
            // The request is over; only what is written down of it is not.
            leash.deciding();
        }
        let stopped = context.stopped.take();
        ending::conclude(&self.gateway, context, stopped.as_ref()).await;
        if let Ok(leash) = leash(session) {
            leash.idle();
        }
    }

    /// Pingora's error lines name paths; what went wrong is logged by `fail_to_proxy`.
    fn suppress_error_log(&self, _session: &Session, _context: &Context, _error: &Error) -> bool {
        true
    }
}

impl Proxy {
    async fn decide(&self, session: &mut Session, context: &mut Context) -> Result<Verdict> {
        let gateway = &self.gateway;
        if head_bytes(session) > gateway.config.head_bytes_max {
            return Ok(Verdict::Denied(Denial::HeadTooLarge));
        }
        if let Err(denial) = one_reading::check(session.req_header()) {
            return Ok(Verdict::Denied(denial));
        }
        let request = inbound(session)?;
        let source = context.seen.source;
        // A listed proxy that names nobody speaks for many.
        let speaks_for_many =
            source == request.peer().ip().to_canonical() && gateway.config.trust.lists(source);
        if !speaks_for_many {
            context.place = gateway.in_progress.take(network(source));
            if context.place.is_none() {
                return Ok(Verdict::Denied(Denial::TooManyRequests));
            }
        }
        let times = &gateway.metrics.stages;
        let choose = || route::choose(&gateway.config, &gateway.routes.load(), &request);
        let chosen = match times.run(Stage::Route, choose) {
            Ok(chosen) => chosen,
            Err(denial) => return Ok(Verdict::Denied(denial)),
        };
        if let Some(line) = chosen.line() {
            match Way::enter(line, source, speaks_for_many) {
                Ok(way) => context.way = way,
                Err(denial) => return Ok(Verdict::Denied(denial)),
            }
        }
        let (way, seen) = (&context.way, &mut context.seen);
        let verdict = if let Some(location) = route::redirect(&gateway.config, &chosen, &request).transpose()
        {
            return self.redirect(session, location, context).await;
        } else if let Some(route) = route::public(&chosen, &request) {
            let passage = admit::pass(gateway, &request, &route, way, seen).await;
            passage.map(|passage| Verdict::Public(Box::new(passage)))
        } else {
            let span = tracing::debug_span!("request", request.id = %seen.request_id);
            // Lent: what is given away is copied whole.
            let admission = pin!(admit::admit(gateway, &request, &chosen, way, seen));
            let admission = admission.instrument(span).await;
            admission.map(|admission| Verdict::Admitted(Box::new(admission)))
        };
        Ok(verdict.unwrap_or_else(Verdict::Denied))
    }
}

/// Ends a response that had begun: with a reason where there is one and its framing has room for it.
async fn end_early(
    session: &mut Session,
    leash: Option<&Leash>,
    head: &ResponseHeader,
    trip: Option<&Trip>,
    error: &Error,
) {
    let version = session.req_header().version;
    let farewell = trip.and_then(|trip| stream::farewell(trip, head, version, error.etype()));
    // The client may be gone; then there is nobody to tell.
    match farewell {
        Some(Farewell::Chunk(chunk)) => {
            if let Some(leash) = leash {
                leash.say_farewell(chunk);
            }
            let _told = session.as_mut().finish_body().await;
            session.as_mut().shutdown().await;
        }
        Some(Farewell::Trailers(trailers)) => {
            let _told = session.as_mut().write_response_trailers(trailers).await;
        }
        None if version == Version::HTTP_2 => session.as_mut().shutdown().await,
        None => {}
    }
}

fn undecided<T>() -> Result<T> {
    Error::e_explain(ErrorType::InternalError, "the request was not admitted")
}
