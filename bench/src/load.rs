//! Closed loops over kept connections: each connection asks again as soon as it is answered. For exchanges, each of which is signed
//! with a nonce of its own, and for governed calls, each of which needs the answer of another request.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use aws_lc_rs::rand;
use bytes::Bytes;
use caracal_wire::gateway_signature;
use caracal_wire::header::REQUEST_ID;
use caracal_wire::sts::{FORM_MEDIA_TYPE, TOKEN_PATH, TokenResponse};
use futures_util::future::try_join_all;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::report::progress;
use crate::summary::Times;

/// Exchanges of one class, and the key when a gateway sends them.
#[derive(Clone)]
pub(crate) struct Exchanges {
    pub(crate) forms: Forms,
    /// Signs each request with a nonce of its own.
    pub(crate) gateway_key: Option<Vec<u8>>,
}

/// Form and request id of each exchange.
#[derive(Clone)]
pub(crate) enum Forms {
    /// They take turns.
    Turns(Vec<(Bytes, String)>),
    /// Each is made when it is sent: what it carries is good once.
    Fresh(Arc<dyn Fn() -> (Bytes, String) + Send + Sync>),
}

impl Forms {
    /// The form that a connection sends as its `number`th, beginning in its own place among `connections`.
    fn get(&self, index: usize, connections: usize, number: usize) -> Option<Cow<'_, (Bytes, String)>> {
        match self {
            Self::Turns(forms) => {
                let first = index * forms.len() / connections;
                let turn = (first + number).checked_rem(forms.len())?;
                forms.get(turn).map(Cow::Borrowed)
            }
            Self::Fresh(make) => Some(Cow::Owned(make())),
        }
    }
}

/// What a window came to.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) count: usize,
    pub(crate) seconds: f64,
    pub(crate) times: Times,
}

/// Kept connections to one service.
pub(crate) struct Connections {
    pub(crate) senders: Vec<SendRequest<Full<Bytes>>>,
    authority: String,
}

/// When a window ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// After this time.
    Elapsed(Duration),
    /// After this many exchanges, all connections together.
    Count(usize),
}

impl Connections {
    /// Opens `count` connections to a service at `url`.
    pub(crate) async fn open(url: &str, count: usize) -> anyhow::Result<Self> {
        let authority = url.strip_prefix("http://").context("an http URL")?.to_owned();
        let address: SocketAddr = authority.parse()?;
        let connect = async || {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(async move {
                // How it ends is seen by whoever waits for an answer.
                let _ended = connection.await;
            });
            anyhow::Ok(sender)
        };
        let senders = try_join_all((0..count).map(|_connection| connect())).await?;
        Ok(Self { senders, authority })
    }

    /// Runs one window.
    ///
    /// # Errors
    /// The first answer that is not 200, with its body: what fails is not measured.
    pub(crate) async fn run(&mut self, exchanges: &Exchanges, until: Until) -> anyhow::Result<Window> {
        let began = Instant::now();
        let connections = self.senders.len();
        let authority = &self.authority;
        let loops = self.senders.iter_mut().enumerate().map(async |(index, sender)| {
            let mut times = Vec::new();
            // Connections begin at different forms, and keep their distance.
            while let Some(form) = exchanges.forms.get(index, connections, times.len()) {
                let is_over = match until {
                    Until::Elapsed(time) => began.elapsed() >= time,
                    Until::Count(count) => times.len() >= count.div_ceil(connections),
                };
                if is_over {
                    break;
                }
                let key = exchanges.gateway_key.as_deref();
                times.push(exchange(sender, authority, &form, key).await?);
            }
            anyhow::Ok(times)
        });
        Ok(Window::of(try_join_all(loops).await?.concat(), began))
    }

    /// Runs one window of requests that are made when they are sent, each from its number among all.
    ///
    /// # Errors
    /// The first answer that is not 200, with its body: what fails is not measured.
    pub(crate) async fn call(
        &mut self,
        request: impl Fn(usize) -> anyhow::Result<Request<Full<Bytes>>>,
        until: Until,
    ) -> anyhow::Result<Window> {
        let began = Instant::now();
        let next = AtomicUsize::new(0);
        let (next, request) = (&next, &request);
        let loops = self.senders.iter_mut().map(async |sender| {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let is_over = match until {
                    Until::Elapsed(time) => began.elapsed() >= time,
                    Until::Count(count) => number >= count,
                };
                if is_over {
                    return anyhow::Ok(times);
                }
                times.push(send(sender, request(number)?).await?.took);
            }
        });
        Ok(Window::of(try_join_all(loops).await?.concat(), began))
    }

    /// As many mandates as asked for, by exchanges of one form.
    ///
    /// # Errors
    /// The first answer that is no mandate.
    pub(crate) async fn mandates(&mut self, form: &Bytes, count: usize) -> anyhow::Result<Vec<String>> {
        let left = AtomicUsize::new(count);
        let (left, authority) = (&left, &self.authority);
        let loops = self.senders.iter_mut().map(async |sender| {
            let mut mandates = Vec::new();
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok()
            {
                mandates.push(mint(sender, authority, form).await?);
            }
            anyhow::Ok(mandates)
        });
        Ok(try_join_all(loops).await?.concat())
    }

    /// Governed calls: each connection to this token service mints by `form`, and makes the request that `call` builds of the mandate
    /// over its partner among `gateway`. The time of one is that of both. What fails is counted and not timed.
    pub(crate) async fn governed(
        &mut self,
        gateway: &mut Self,
        form: &Bytes,
        call: impl Fn(&str) -> anyhow::Result<Request<Full<Bytes>>>,
        time: Duration,
    ) -> anyhow::Result<(Window, u64)> {
        let began = Instant::now();
        let (authority, call) = (&self.authority, &call);
        let pairs = self.senders.iter_mut().zip(&mut gateway.senders);
        let loops = pairs.map(async |(sts, gateway)| {
            let (mut times, mut errors) = (Vec::new(), 0_u64);
            while began.elapsed() < time {
                let asked = Instant::now();
                let governed = async {
                    let mandate = mint(sts, authority, form).await?;
                    send(gateway, call(&mandate)?).await
                };
                match governed.await {
                    Ok(_answer) => times.push(asked.elapsed()),
                    Err(error) => {
                        progress(&format!("a governed call failed: {error:#}"));
                        errors += 1;
                        ensure!(errors < 10, "too many governed calls fail");
                    }
                }
            }
            anyhow::Ok((times, errors))
        });
        let (times, errors): (Vec<_>, Vec<_>) = try_join_all(loops).await?.into_iter().unzip();
        Ok((Window::of(times.concat(), began), errors.into_iter().sum()))
    }
}

impl Window {
    /// One that ends now.
    fn of(times: Vec<Duration>, began: Instant) -> Self {
        Self {
            count: times.len(),
            seconds: began.elapsed().as_secs_f64(),
            times: Times::of(times),
        }
    }
}

async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    authority: &str,
    (form, request_id): &(Bytes, String),
    gateway_key: Option<&[u8]>,
) -> anyhow::Result<Duration> {
    let mut request = Request::post(TOKEN_PATH)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, FORM_MEDIA_TYPE)
        .header(REQUEST_ID, request_id);
    if let Some(key) = gateway_key {
        let (unix, nonce) = (unix_seconds()?, nonce()?);
        let signature = gateway_signature::sign(key, unix, &nonce, "POST", TOKEN_PATH, form);
        request = request
            .header(gateway_signature::TIMESTAMP, unix)
            .header(gateway_signature::NONCE, nonce)
            .header(gateway_signature::SIGNATURE, signature);
    }
    Ok(send(sender, request.body(Full::new(form.clone()))?).await?.took)
}

/// One mandate by an exchange that needs no signature.
pub(crate) async fn mint(
    sender: &mut SendRequest<Full<Bytes>>,
    authority: &str,
    form: &Bytes,
) -> anyhow::Result<String> {
    let request = Request::post(TOKEN_PATH)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, FORM_MEDIA_TYPE);
    let answer = send(sender, request.body(Full::new(form.clone()))?).await?;
    let minted: TokenResponse = serde_json::from_slice(&answer.body)?;
    Ok(minted.access_token)
}

/// An answer of status 200.
pub(crate) struct Answer {
    pub(crate) took: Duration,
    pub(crate) body: Bytes,
}

/// Sends a request and reads its answer, which must be 200.
pub(crate) async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Answer> {
    let began = Instant::now();
    sender.ready().await?;
    let answer = sender.send_request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    let took = began.elapsed();
    if status != 200 {
        bail!("answered {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(Answer { took, body })
}

fn unix_seconds() -> anyhow::Result<i64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(i64::try_from(now.as_secs())?)
}

fn nonce() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    ensure!(
        rand::fill(&mut bytes).is_ok(),
        "the operating system gives no randomness"
    );
    Ok(hex::encode(bytes))
}
