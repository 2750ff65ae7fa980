//! How does an upstream behave that answers while it still listens? HTTP/1.1 or HTTP/2, bodies piece by piece.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::tls;

/// The body of an answer: whole, or in pieces as they are sent through a [`Pipe`].
pub type LiveBody = BoxBody<Bytes, io::Error>;

/// What a [`LiveUpstream`] speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1 in clear.
    Http1,
    /// HTTP/2 in clear, from the first byte (RFC 9113 section 3.3).
    H2c,
    /// TLS with these protocols to choose from (ALPN), in its order of preference.
    Tls(&'static [&'static str]),
}

/// An upstream whose answers a test makes by itself, on a free loopback port. Its connections end when it is dropped.
#[derive(Debug)]
pub struct LiveUpstream {
    address: SocketAddr,
    speaks: Speaks,
    connections: Arc<AtomicUsize>,
    _accepting: JoinSet<()>,
}

impl LiveUpstream {
    /// Starts one that answers each request with what `handle` returns.
    pub async fn start<F, A>(speaks: Speaks, handle: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<LiveBody>> + Send + 'static,
    {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), speaks, handle).await
    }

    /// The same at this address.
    pub async fn start_at<F, A>(address: SocketAddr, speaks: Speaks, handle: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<LiveBody>> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, speaks, handle, Arc::clone(&connections)));
        Self {
            address,
            speaks,
            connections,
            _accepting: accepting,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, without a slash at the end.
    pub fn url(&self) -> String {
        let scheme = if matches!(self.speaks, Speaks::Tls(_)) {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", self.address)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn accept<F, A>(listener: TcpListener, speaks: Speaks, handle: F, connections: Arc<AtomicUsize>)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<LiveBody>> + Send + 'static,
{
    let mut serving = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _unset = stream.set_nodelay(true);
        connections.fetch_add(1, Ordering::SeqCst);
        let handle = handle.clone();
        serving.spawn(async move {
            match speaks {
                Speaks::Http1 => serve(stream, false, handle).await,
                Speaks::H2c => serve(stream, true, handle).await,
                Speaks::Tls(protocols) => {
                    // A client that does not trust us goes away here.
                    if let Ok(stream) = tls::acceptor_of(protocols).accept(stream).await {
                        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                        serve(stream, is_h2, handle).await;
                    }
                }
            }
        });
    }
}

async fn serve<F, A>(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, is_h2: bool, handle: F)
where
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Response<LiveBody>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = handle(request);
        async move { Ok::<_, io::Error>(answer.await) }
    });
    let stream = TokioIo::new(stream);
    // How a connection ends is seen in the bodies.
    if is_h2 {
        let _ended = http2::Builder::new(TokioExecutor::new())
            .serve_connection(stream, service)
            .await;
    } else {
        let _ended = http1::Builder::new()
            .serve_connection(stream, service)
            .with_upgrades()
            .await;
    }
}

/// The writing end of a body. The body ends in good order when this is dropped.
#[derive(Clone, Debug)]
pub struct Pipe(mpsc::UnboundedSender<Result<Frame<Bytes>, io::Error>>);

impl Pipe {
    /// A body and the end to write it with.
    pub fn new() -> (Self, LiveBody) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), Piped(receiver).boxed())
    }

    /// Sends a piece; false when the other side is gone.
    pub fn data(&self, piece: impl Into<Bytes>) -> bool {
        self.0.send(Ok(Frame::data(piece.into()))).is_ok()
    }

    /// Sends the trailers.
    pub fn trailers(&self, trailers: HeaderMap) {
        let _other_side_gone = self.0.send(Ok(Frame::trailers(trailers)));
    }

    /// Breaks off: the connection or the stream is reset.
    pub fn break_off(&self) {
        let _other_side_gone = self.0.send(Err(io::Error::other("broken off")));
    }

    /// Returns when the other side has let the body go.
    pub async fn let_go(&self) {
        self.0.closed().await;
    }
}

struct Piped(mpsc::UnboundedReceiver<Result<Frame<Bytes>, io::Error>>);

impl Body for Piped {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(context)
    }
}
