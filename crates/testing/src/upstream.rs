//! What reached the protected service, and how does it answer?

use std::convert::Infallible;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::tls;

mod bodies;

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Makes the answer to one request.
pub type Custom = dyn Fn(&RecordedRequest) -> Response<Bytes> + Send + Sync;

/// How the upstream answers from now on.
#[derive(Clone)]
pub enum Behaviour {
    /// 200 with a JSON document of what came: method, target, headers, body.
    Echo,
    /// This status with this body.
    Status(StatusCode, Bytes),
    /// 200 `text/event-stream` with one event per interval, until the client goes away.
    Sse(Duration),
    /// 200 `text/event-stream` with one event at once and one for each [`Upstream::release`], until the client goes away.
    SseOnRelease,
    /// Like [`Behaviour::Echo`], but only after [`Upstream::release`].
    Held,
    /// Like [`Behaviour::Echo`], but only after this time.
    Slow(Duration),
    /// 101, then every byte is sent back until the client goes away.
    Upgrade,
    /// 200 with the number of bytes of the request's body, of which nothing is kept.
    Count,
    /// 200 with a body of so many bytes, made piece by piece; with its length, or chunked.
    Flood {
        /// How many.
        bytes: u64,
        /// Whether the client is told.
        is_length_told: bool,
    },
    /// Whatever the test wants.
    Custom(Arc<Custom>),
}

impl fmt::Debug for Behaviour {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Echo => "Echo",
            Self::Status(..) => "Status",
            Self::Sse(_) => "Sse",
            Self::SseOnRelease => "SseOnRelease",
            Self::Count => "Count",
            Self::Flood { .. } => "Flood",
            Self::Held => "Held",
            Self::Slow(_) => "Slow",
            Self::Upgrade => "Upgrade",
            Self::Custom(_) => "Custom",
        })
    }
}

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    /// The method.
    pub method: Method,
    /// Path and query, byte for byte.
    pub target: String,
    /// Every header, with repeated ones in order.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl RecordedRequest {
    /// The value of a header, if it was sent and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn document(&self) -> Vec<u8> {
        let headers: Vec<_> = self
            .headers
            .iter()
            .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
            .collect();
        let document = json!({
            "method": self.method.as_str(),
            "target": self.target,
            "headers": headers,
            "body": String::from_utf8_lossy(&self.body),
        });
        document.to_string().into_bytes()
    }
}

/// A protected service on a free loopback port, which remembers every request. It ends when dropped.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    is_tls: bool,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    behaviour: Mutex<Behaviour>,
    requests: Mutex<Vec<RecordedRequest>>,
    streams: AtomicUsize,
    releases: watch::Sender<usize>,
    stopped: watch::Sender<bool>,
}

impl Upstream {
    /// Starts one that speaks plain HTTP.
    pub async fn start(behaviour: Behaviour) -> Self {
        Self::start_on(behaviour, None).await
    }

    /// Starts one that speaks HTTP over TLS, with a certificate for `localhost`, `*.caracal.test` and 127.0.0.1 of the
    /// authority in [`test_authority`](crate::test_authority).
    pub async fn start_tls(behaviour: Behaviour) -> Self {
        Self::start_on(behaviour, Some(tls::acceptor())).await
    }

    async fn start_on(behaviour: Behaviour, acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = Arc::new(State {
            behaviour: Mutex::new(behaviour),
            requests: Mutex::default(),
            streams: AtomicUsize::new(0),
            releases: watch::Sender::new(0),
            stopped: watch::Sender::new(false),
        });
        let (is_tls, accepting) = {
            let is_tls = acceptor.is_some();
            (
                is_tls,
                tokio::spawn(accept(listener, acceptor, Arc::clone(&state))),
            )
        };
        Self {
            address,
            is_tls,
            state,
            accepting,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, without a slash at the end.
    pub fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Changes how it answers from now on.
    pub fn set(&self, behaviour: Behaviour) {
        *lock(&self.state.behaviour) = behaviour;
    }

    /// Everything that came so far, in order of arrival.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        lock(&self.state.requests).clone()
    }

    /// Everything that came since the last call.
    pub fn take_requests(&self) -> Vec<RecordedRequest> {
        std::mem::take(&mut *lock(&self.state.requests))
    }

    /// Event streams and upgraded connections that are open at this moment.
    pub fn open_streams(&self) -> usize {
        self.state.streams.load(Ordering::SeqCst)
    }

    /// Lets every request held so far go on.
    pub fn release(&self) {
        self.state.releases.send_modify(|count| *count += 1);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
        self.state.stopped.send_replace(true);
    }
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _unset = stream.set_nodelay(true);
        let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            match acceptor {
                None => serve(stream, state).await,
                Some(acceptor) => {
                    // A client that does not trust us goes away here.
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream, state).await;
                    }
                }
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, state: Arc<State>) {
    let mut stopped = state.stopped.subscribe();
    let service = service_fn(move |request| answer(Arc::clone(&state), request));
    let connection = http1::Builder::new()
        .max_buf_size(1 << 20)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        // The client's end of the story is what the test looks at.
        _ = connection => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
}

async fn answer(state: Arc<State>, mut request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let upgrade = hyper::upgrade::on(&mut request);
    let mut releases = state.releases.subscribe();
    let releases_before = *releases.borrow_and_update();
    if matches!(*lock(&state.behaviour), Behaviour::Count) {
        return bodies::count(request.into_body()).await;
    }
    let recorded = record(&state, request).await?;
    let behaviour = lock(&state.behaviour).clone();
    Ok(match behaviour {
        // A request to count was answered above, unless the test has just changed its mind.
        Behaviour::Echo | Behaviour::Count => echo(&recorded),
        Behaviour::Status(status, body) => whole(status, "text/plain", body),
        Behaviour::Sse(interval) => event_stream(bodies::Events::each(interval, OpenStream::begin(state))),
        Behaviour::SseOnRelease => {
            event_stream(bodies::Events::on_release(releases, OpenStream::begin(state)))
        }
        Behaviour::Flood {
            bytes,
            is_length_told,
        } => bodies::flood(bytes, is_length_told),
        Behaviour::Held => {
            let _dropped_with_the_upstream = releases.wait_for(|count| *count > releases_before).await;
            echo(&recorded)
        }
        Behaviour::Slow(time) => {
            tokio::time::sleep(time).await;
            echo(&recorded)
        }
        Behaviour::Upgrade => switch_protocols(state, &recorded, upgrade),
        Behaviour::Custom(custom) => custom(&recorded).map(|body| Full::new(body).boxed()),
    })
}

async fn record(state: &State, request: Request<Incoming>) -> Result<RecordedRequest, hyper::Error> {
    let (head, body) = request.into_parts();
    let recorded = RecordedRequest {
        method: head.method,
        target: head.uri.to_string(),
        headers: head.headers,
        body: body.collect().await?.to_bytes(),
    };
    lock(&state.requests).push(recorded.clone());
    Ok(recorded)
}

fn echo(recorded: &RecordedRequest) -> Answer {
    whole(StatusCode::OK, "application/json", recorded.document().into())
}

fn whole(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body).boxed());
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    answer
}

fn event_stream(events: bodies::Events) -> Answer {
    let mut answer = Response::new(events.boxed());
    let content_type = header::HeaderValue::from_static("text/event-stream");
    answer.headers_mut().insert(header::CONTENT_TYPE, content_type);
    answer
}

fn switch_protocols(
    state: Arc<State>,
    recorded: &RecordedRequest,
    upgrade: hyper::upgrade::OnUpgrade,
) -> Answer {
    tokio::spawn(async move {
        let _open = OpenStream::begin(state);
        if let Ok(upgraded) = upgrade.await {
            let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
            let _client_gone = tokio::io::copy(&mut from, &mut to).await;
        }
    });
    let mut answer = whole(StatusCode::SWITCHING_PROTOCOLS, "text/plain", Bytes::new());
    answer.headers_mut().remove(header::CONTENT_TYPE);
    answer
        .headers_mut()
        .insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
    if let Some(protocol) = recorded.headers.get(header::UPGRADE) {
        answer.headers_mut().insert(header::UPGRADE, protocol.clone());
    }
    answer
}

/// Counts as open until dropped.
struct OpenStream(Arc<State>);

impl OpenStream {
    fn begin(state: Arc<State>) -> Self {
        state.streams.fetch_add(1, Ordering::SeqCst);
        Self(state)
    }

    /// How many are open.
    fn count(&self) -> usize {
        self.0.streams.load(Ordering::Relaxed)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A panic while holding one of these locks leaves its value whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
