//! `GET /internal/gateway/channel`: a connection on which one gateway asks for many exchanges at a time, without HTTP around
//! each (docs/contract/wire-formats.md, "Exchange channel").
//!
//! The exchanges are those of the token endpoint. Whoever can open a channel has proved that it is a gateway, and every frame
//! proves that it is its own, so no call needs a signature, a nonce or a MAC besides.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use caracal_chassis::server::{Peer, RequestId, Upgrade, Upgraded, read_body};
use caracal_wire::channel::{
    Agreement, Answer, CONTENT_BYTES_MAX, Call, FrameReader, FrameWriter, GOODBYE, PROTOCOL, WELCOME,
};
use caracal_wire::error::{ErrorBody, ErrorCode};
use caracal_wire::gateway_signature::MAX_SKEW_SECONDS;
use caracal_wire::sts::field;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use http::{HeaderValue, StatusCode, header};
use prometheus::IntGauge;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::answer::{error, refused};
use super::{gateway, token};
use crate::exchange::client::Via;
use crate::exchange::evidence::{self, Known, Origin};
use crate::exchange::refusal::Refusal;
use crate::exchange::request::{self, ExchangeRequest};
use crate::state::Sts;

/// Calls in progress on one channel at most; further ones wait in the connection.
const CALLS_MAX: usize = 512;
/// What is read at once.
const READ_BYTES: usize = 64 * 1024;
/// With less room than this, more is made before the next reading.
const ROOM_BYTES: usize = 4 * 1024;
/// With more than this to be written, nothing is read: whoever does not take its answers gets no more.
const GOING_BYTES_MAX: usize = 1024 * 1024;
/// Longest an answer may take, as of the token endpoint.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A channel on which nothing came from one moment of looking to the next is closed. Gateways close theirs sooner.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// Agrees to speak of exchanges only, to a gateway that has the key.
pub(super) async fn open(
    State(sts): State<Arc<Sts>>,
    peer: Peer,
    upgrade: Upgrade,
    request: Request,
) -> Response {
    let parts = match gateway::signed(&sts, request, "a channel").await {
        Ok(parts) => parts,
        Err(refusal) => return refusal,
    };
    let asked = parts.headers.get(header::UPGRADE).map(HeaderValue::as_bytes);
    let agreement = gateway::asked_mac(&sts, &parts.headers).and_then(|signature| agree(&sts, signature));
    let (Some(agreement), true, true) = (
        agreement,
        upgrade.is_offered(),
        asked == Some(PROTOCOL.as_bytes()),
    ) else {
        let description = "no channel of exchanges is offered here";
        return error(
            StatusCode::NOT_FOUND,
            ErrorCode::ResourceNotFound,
            description,
            None,
        );
    };
    let Ok(welcome) = HeaderValue::try_from(&agreement.welcome) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    tokio::spawn(async move {
        if let Some(connection) = upgrade.accepted().await {
            Channel::new(sts, peer, agreement).serve(connection).await;
        }
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static(PROTOCOL)),
        (http::HeaderName::from_static(WELCOME), welcome),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// The keys of a new channel; none without the key that both sides must have.
fn agree(sts: &Sts, signature: &str) -> Option<Agreement> {
    let macs = sts.macs.as_ref()?;
    let mut randomness = [0; 32];
    aws_lc_rs::rand::fill(&mut randomness).ok()?;
    Some(macs.channel.agree(signature, &randomness))
}

type InProgress = FuturesUnordered<Pin<Box<dyn Future<Output = Answer> + Send>>>;

/// One channel.
struct Channel {
    sts: Arc<Sts>,
    peer: Peer,
    reader: FrameReader,
    writer: FrameWriter,
    come: BytesMut,
    going: BytesMut,
    calls: InProgress,
    _counted: Counted,
}

/// Counts a channel for as long as it lives.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Channel {
    fn new(sts: Arc<Sts>, peer: Peer, agreement: Agreement) -> Self {
        let (writer, reader) = agreement.of_token_service();
        Self {
            _counted: Counted::new(sts.metrics.gateway_channels.clone()),
            sts,
            peer,
            reader,
            writer,
            come: BytesMut::with_capacity(READ_BYTES),
            going: BytesMut::with_capacity(READ_BYTES),
            calls: FuturesUnordered::new(),
        }
    }

    /// Answers until the gateway goes or sends what is no frame of its own. When the service ends, the gateway is told, and what it
    /// has sent until it knows is still answered.
    async fn serve(mut self, mut connection: Upgraded) {
        let (shutdown, cut) = (connection.shutdown(), connection.cut());
        let (mut from, mut to) = tokio::io::split(&mut connection.stream);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.reset();
        let (mut is_open, mut is_told, mut has_heard) = (true, false, true);
        while is_open || !self.calls.is_empty() || !self.going.is_empty() {
            let may_read = is_open && self.calls.len() < CALLS_MAX && self.going.len() < GOING_BYTES_MAX;
            tokio::select! {
                biased;
                () = cut.requested() => return,
                Some(answer) = self.calls.next() => self.write(&answer),
                () = shutdown.requested(), if !is_told => {
                    is_told = true;
                    self.write(&goodbye());
                }
                _look = looks.tick() => {
                    is_open &= has_heard || !self.calls.is_empty();
                    has_heard = false;
                }
                read = from.read_buf(&mut self.come), if may_read => {
                    has_heard = true;
                    is_open = matches!(read, Ok(1..)) && self.take();
                }
                written = to.write_buf(&mut self.going), if !self.going.is_empty() => {
                    if !matches!(written, Ok(1..)) {
                        return;
                    }
                }
            }
            // Whatever else is ready goes out with it.
            while let Some(Some(answer)) = self.calls.next().now_or_never() {
                self.write(&answer);
            }
        }
        let _ended = to.shutdown().await;
    }

    /// Begins the calls that have come; false when nothing more can be believed.
    fn take(&mut self) -> bool {
        loop {
            match self.reader.next::<Call>(&mut self.come) {
                Ok(Some(call)) => {
                    let answering = answer(Arc::clone(&self.sts), self.peer, call);
                    self.calls.push(Box::pin(answering));
                }
                Ok(None) => break,
                Err(reason) => {
                    tracing::warn!(%reason, "a channel of a gateway is given up");
                    return false;
                }
            }
        }
        if self.come.capacity() - self.come.len() < ROOM_BYTES {
            self.come.reserve(READ_BYTES);
        }
        true
    }

    fn write(&mut self, answer: &Answer) {
        if self.writer.write(answer, &mut self.going).is_err() {
            let (status, retry_after_s, body) =
                failure(500, ErrorCode::InternalError, "the answer is too long");
            let instead = Answer {
                id: answer.id,
                status,
                retry_after_s,
                body,
            };
            // It fits.
            let _written = self.writer.write(&instead, &mut self.going);
        }
    }
}

/// Tells the gateway to send no more.
fn goodbye() -> Answer {
    Answer {
        id: GOODBYE,
        status: 503,
        retry_after_s: None,
        body: Bytes::new(),
    }
}

/// One exchange; whatever becomes of it, there is an answer. When the gateway has given it up, so has this.
pub(super) async fn answer(sts: Arc<Sts>, peer: Peer, call: Call) -> Answer {
    let id = call.id;
    let left = Duration::from_millis(call.left_ms.into());
    let name = std::str::from_utf8(&call.request_id)
        .ok()
        .and_then(RequestId::parse);
    let late = || failure(503, ErrorCode::StsUnavailable, "the request took too long");
    // By reference: what is passed on is copied.
    let exchanging = pin!(exchange(&sts, peer, &call, name.as_ref()));
    let answered = AssertUnwindSafe(exchanging).catch_unwind();
    let (status, retry_after_s, body) = if left.is_zero() {
        // Nobody waits for it.
        late()
    } else {
        match tokio::time::timeout(ANSWER_WITHIN.min(left), answered).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(_panic)) => {
                // The panic hook has logged the message and the place.
                let name = name.as_ref().map(RequestId::as_str);
                tracing::error!(request.id = name, "an exchange panicked");
                failure(
                    500,
                    ErrorCode::InternalError,
                    "The service failed to process the request",
                )
            }
            Err(_elapsed) => late(),
        }
    };
    Answer {
        id,
        status,
        retry_after_s,
        body,
    }
}

fn failure(status: u16, code: ErrorCode, description: &str) -> (u16, Option<u32>, Bytes) {
    let retry_after_s = (status == 503).then_some(1);
    (
        status,
        retry_after_s,
        ErrorBody::new(code, description).to_json().into(),
    )
}

async fn exchange(sts: &Sts, peer: Peer, call: &Call, name: Option<&RequestId>) -> (u16, Option<u32>, Bytes) {
    let origin = Origin {
        request_id: name.map_or_else(String::new, |name| name.as_str().to_owned()),
        source: token::source(peer),
        wait: token::wait(sts, Some(Duration::from_millis(call.left_ms.into()))),
        arrived_at: Instant::now(),
    };
    match redeem(sts, &origin, call).await {
        Ok(body) => (200, None, body),
        Err(refusal) => {
            token::note(sts, &origin, &refusal);
            flat(refused(&refusal, &origin.request_id)).await
        }
    }
}

/// What the token endpoint does with the form of a gateway it believes.
async fn redeem(sts: &Sts, origin: &Origin, call: &Call) -> Result<Bytes, Refusal> {
    if call.form.len() > token::BODY_BYTES_MAX {
        return Err(Refusal::BodyTooLarge);
    }
    let form = Arc::new(request::parse_form(&call.form, &request::REPEATABLE)?);
    let ttl_seconds = request::check_supported(&form)?;
    let mut request = ExchangeRequest::read(&form, ttl_seconds)?;
    // By this name both services record the request.
    let named = form
        .get(field::GATEWAY_REQUEST_ID)
        .filter(|name| !name.is_empty());
    let is_named = named == Some(origin.request_id.as_str());
    let skew = sts.clock.unix_seconds().abs_diff(call.at_unix);
    if !is_named || skew > MAX_SKEW_SECONDS.unsigned_abs() {
        tracing::warn!(
            request.id = origin.request_id,
            skew_s = skew,
            "refused an exchange on a channel: its name, or its time"
        );
        let refusal = Refusal::GatewaySignature;
        evidence::record_refusal(sts, origin, &request, &Known::default(), &refusal).await;
        return Err(refusal);
    }
    // The frame proves the answer.
    request.sealed = Some(String::new());
    let _timer = sts.metrics.exchange_timer(Via::Gateway, &request);
    let answer = token::guarded(sts, origin, &request, Via::Gateway).await?;
    let body = answer.to_json().map_err(|_error| Refusal::Issuance)?;
    Ok(body.into())
}

/// An answer without HTTP around it.
async fn flat(response: Response<Body>) -> (u16, Option<u32>, Bytes) {
    let (parts, body) = response.into_parts();
    let retry_after = parts.headers.get(header::RETRY_AFTER);
    let retry_after_s = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
    let body = read_body(body, CONTENT_BYTES_MAX).await.unwrap_or_default();
    (parts.status.as_u16(), retry_after_s, body)
}
