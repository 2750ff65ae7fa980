//! How is a connection to a provider opened? The guard gives checked addresses; exactly these are dialled.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;
use url::Url;

use crate::{EgressError, Guard, Target};

/// Longest one address may take to accept; the next one is tried then.
const DIAL_TIMEOUT: Duration = Duration::from_millis(1_500);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The guard's refusal on its way through the HTTP client, which only passes on shared errors.
#[derive(Debug, thiserror::Error)]
#[error("the rules do not allow this connection")]
pub(super) struct Refused(Mutex<Option<EgressError>>);

impl Refused {
    /// Takes the refusal out of the chain of `error`, if it is one.
    pub(super) fn take(error: &(dyn std::error::Error + 'static)) -> Option<EgressError> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(refused) = error.downcast_ref::<Self>() {
                return refused.0.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
            cause = error.source();
        }
        None
    }
}

/// Opens TLS connections to what the guard allows.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    guard: Arc<Guard>,
    tls: Arc<ClientConfig>,
}

impl Connector {
    pub(super) fn new(guard: Guard, tls: Arc<ClientConfig>) -> Self {
        Self {
            guard: Arc::new(guard),
            tls,
        }
    }

    async fn open(self, uri: Uri) -> Result<Tls, Failure> {
        let url = Url::parse(&uri.to_string())?;
        let target = self
            .guard
            .resolve(&url)
            .await
            .map_err(|refused| Refused(Mutex::new(Some(refused))))?;
        let stream = dial(&target).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(target.host().to_owned())?;
        let stream = TlsConnector::from(self.tls).connect(name, stream).await?;
        Ok(Tls(TokioIo::new(stream)))
    }
}

/// The first address that accepts.
async fn dial(target: &Target) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "there is no address");
    for address in target.addresses() {
        match dial_one(*address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn dial_one(address: SocketAddr) -> io::Result<TcpStream> {
    tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await?
}

impl Service<Uri> for Connector {
    type Response = Tls;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Tls, Failure>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().open(uri))
    }
}

/// An open connection.
pub(super) struct Tls(TokioIo<TlsStream<TcpStream>>);

impl Connection for Tls {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Tls {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
