//! `GET /internal/gateway/channel`: a connection on which one gateway asks for many exchanges at a time, without HTTP around
//! each (docs/contract/wire-formats.md, "Exchange channel").
//!
//! The exchanges are those of the token endpoint. Whoever can open a channel has proved that it is a gateway, and every frame
//! proves that it is its own, so no call needs a signature, a nonce or a MAC besides.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use caracal_chassis::server::{Peer, Upgrade, Upgraded, read_body};
use caracal_wire::channel::{
    Agreement, Answer, CONTENT_BYTES_MAX, Call, FrameReader, FrameWriter, PROTOCOL, WELCOME,
};
use caracal_wire::error::ErrorCode;
use caracal_wire::sts::field;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use http::{HeaderValue, StatusCode, header};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::answer::{error, refused};
use super::{gateway, token};
use crate::exchange::client::Via;
use crate::exchange::evidence::Origin;
use crate::exchange::refusal::Refusal;
use crate::exchange::request::{self, ExchangeRequest};
use crate::state::Sts;

/// Calls in progress on one channel at most; further ones wait in the connection.
const CALLS_MAX: usize = 512;
/// What is read at once.
const READ_BYTES: usize = 64 * 1024;
/// Longest an answer may take, as of the token endpoint.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

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
    let agreement = agree(&sts, gateway::signature(&parts.headers));
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
}

impl Channel {
    fn new(sts: Arc<Sts>, peer: Peer, agreement: Agreement) -> Self {
        let (writer, reader) = agreement.of_token_service();
        Self {
            sts,
            peer,
            reader,
            writer,
            come: BytesMut::with_capacity(READ_BYTES),
            going: BytesMut::with_capacity(READ_BYTES),
            calls: FuturesUnordered::new(),
        }
    }

    /// Answers until the gateway goes, sends what is no frame of its own, or the service ends; then what was begun is still
    /// answered.
    async fn serve(mut self, mut connection: Upgraded) {
        let (shutdown, cut) = (connection.shutdown(), connection.cut());
        let mut is_open = true;
        while is_open || !self.calls.is_empty() {
            let may_read = is_open && self.calls.len() < CALLS_MAX;
            tokio::select! {
                biased;
                () = cut.requested() => return,
                Some(answer) = self.calls.next() => self.write(&answer),
                () = shutdown.requested(), if is_open => is_open = false,
                read = connection.stream.read_buf(&mut self.come), if may_read => {
                    is_open = matches!(read, Ok(1..)) && self.take();
                }
            }
            // Whatever else is ready goes out with it.
            while let Some(Some(answer)) = self.calls.next().now_or_never() {
                self.write(&answer);
            }
            if !self.going.is_empty() && connection.stream.write_all_buf(&mut self.going).await.is_err() {
                return;
            }
        }
        // The gateway learns by the end that nothing more is answered here.
        let _ended = connection.stream.shutdown().await;
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
        self.come.reserve(READ_BYTES);
        true
    }

    fn write(&mut self, answer: &Answer) {
        if self.writer.write(answer, &mut self.going).is_err() {
            let (status, body) = too_long();
            let instead = Answer {
                id: answer.id,
                status,
                retry_after_s: None,
                body,
            };
            // It fits.
            let _written = self.writer.write(&instead, &mut self.going);
        }
    }
}

fn too_long() -> (u16, Bytes) {
    let body = caracal_wire::error::ErrorBody::new(ErrorCode::InternalError, "the answer is too long");
    (500, body.to_json().into())
}

/// One exchange; whatever becomes of it, there is an answer.
async fn answer(sts: Arc<Sts>, peer: Peer, call: Call) -> Answer {
    let id = call.id;
    let answered = AssertUnwindSafe(exchange(&sts, peer, call)).catch_unwind();
    let (status, retry_after_s, body) = match tokio::time::timeout(ANSWER_WITHIN, answered).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(_panic)) => {
            // The panic hook has logged the message and the place.
            tracing::error!("an exchange panicked");
            let body = caracal_wire::error::ErrorBody::new(
                ErrorCode::InternalError,
                "The service failed to process the request",
            );
            (500, None, body.to_json().into())
        }
        Err(_elapsed) => {
            let body =
                caracal_wire::error::ErrorBody::new(ErrorCode::StsUnavailable, "the request took too long");
            (503, Some(1), body.to_json().into())
        }
    };
    Answer {
        id,
        status,
        retry_after_s,
        body,
    }
}

async fn exchange(sts: &Sts, peer: Peer, call: Call) -> (u16, Option<u32>, Bytes) {
    let request_id = String::from_utf8_lossy(&call.request_id).into_owned();
    let origin = Origin {
        request_id,
        source: token::source(peer),
        wait: token::wait(sts, Some(Duration::from_millis(call.left_ms.into()))),
        arrived_at: Instant::now(),
    };
    match redeem(sts, &origin, &call.form).await {
        Ok(body) => (200, None, body),
        Err(refusal) => {
            token::note(sts, &origin, &refusal);
            flat(refused(&refusal, &origin.request_id)).await
        }
    }
}

/// What the token endpoint does with the form of a gateway it believes.
async fn redeem(sts: &Sts, origin: &Origin, form: &[u8]) -> Result<Bytes, Refusal> {
    let form = request::parse_form(form, &request::REPEATABLE)?;
    let ttl_seconds = request::check_supported(&form)?;
    // By this name both services record the request.
    if form.get(field::GATEWAY_REQUEST_ID) != Some(origin.request_id.as_str()) {
        return Err(Refusal::GatewaySignature);
    }
    let mut request = ExchangeRequest::read(&form, ttl_seconds)?;
    // The frame proves the answer.
    request.sealed = Some(String::new());
    let _timer = sts.metrics.exchange_timer(Via::Gateway, &request);
    let answer = token::guarded(sts, origin, &request, Via::Gateway).await?;
    let body = serde_json::to_vec(&answer).map_err(|_error| Refusal::Issuance)?;
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
