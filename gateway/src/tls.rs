//! How does the listener speak TLS? Which certificate it shows, whose it asks for, and how both are replaced while it runs
//! (`docs/contract/gateway-tls.md`).
//!
//! A handshake reads the state of that moment: two atomic loads. What has begun is never touched again.

mod certificates;
mod clients;
mod files;
mod pair;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use caracal_chassis::shutdown::Shutdown;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::{Acceptor, NoServerSessionStorage};
use rustls::version::{TLS12, TLS13};
use tokio::io::AsyncWriteExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::acme::challenges::{Challenges, TLS_PROTOCOL};
use crate::config::TlsSettings;
pub(crate) use pair::{Pair, PairError};

use certificates::Certificates;
use files::{ClientCheck, FilesError, Look, PairOfFiles};

/// Why the listener cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// Files cannot be used.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The library refuses.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
}

/// TLS of one listener.
#[derive(Debug)]
pub(crate) struct Tls {
    certificates: Arc<Certificates>,
    handshake: ArcSwap<ServerConfig>,
    files: Mutex<Files>,
    /// Shown after those of the files.
    issued: Mutex<Vec<Arc<Pair>>>,
    challenges: Option<Arc<Challenges>>,
    reload_every: Duration,
    reload_errors: AtomicU64,
    /// In order of preference (RFC 7301).
    protocols: Vec<Vec<u8>>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
struct Files {
    pairs: Vec<PairOfFiles>,
    clients: ClientCheck,
}

impl Tls {
    /// TLS 1.2 and 1.3 with these application protocols, the preferred one first. Reads the files. `challenges` are answered where
    /// the gateway gets certificates by itself.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(crate) fn new(
        settings: &TlsSettings,
        protocols: &[&[u8]],
        challenges: Option<Arc<Challenges>>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let pairs = settings.pairs.iter().cloned();
        let files = Files {
            pairs: pairs
                .map(|files| PairOfFiles::open(files, &provider))
                .collect::<Result<_, _>>()?,
            clients: ClientCheck::open(settings.clients.clone(), &provider)?,
        };
        let certificates = Arc::new(Certificates::default());
        let protocols: Vec<_> = protocols.iter().map(|name| name.to_vec()).collect();
        let handshake = handshake(&provider, &files.clients, &certificates, &protocols)?;
        let this = Self {
            certificates,
            handshake: ArcSwap::from_pointee(handshake),
            files: Mutex::new(files),
            issued: Mutex::default(),
            challenges,
            reload_every: settings.reload_every,
            reload_errors: AtomicU64::new(0),
            protocols,
            provider,
        };
        this.show();
        Ok(this)
    }

    /// Makes the handshake with a client. `None` when the connection has served its purpose with it.
    ///
    /// # Errors
    /// What the connection or the client has done wrong.
    pub(crate) async fn accept<S>(&self, stream: S) -> io::Result<Option<TlsStream<S>>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        if let Some(challenges) = &self.challenges
            && let Some(domain) = challenged(&begun)
        {
            let handshake = challenges.handshake(&domain).await;
            let handshake =
                handshake.ok_or_else(|| io::Error::other("nobody asked for a proof of this name"))?;
            begun.into_stream(handshake).await?.shutdown().await?;
            return Ok(None);
        }
        let handshake = self.handshake.load_full();
        Ok(Some(begun.into_stream(handshake).await?))
    }

    /// Shows these beside those of the files.
    pub(crate) fn show_issued(&self, issued: Vec<Arc<Pair>>) {
        *self.issued.lock().unwrap_or_else(PoisonError::into_inner) = issued;
        self.show();
    }

    /// Looks at the files now and then, and when the process is told to (`SIGHUP`), until the shutdown.
    pub(crate) async fn follow(self: Arc<Self>, stop: Shutdown) {
        // Without the signal there is still the look now and then.
        let mut hangup = signal(SignalKind::hangup()).ok();
        loop {
            let told = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.requested() => return,
                _ = told => {}
                () = tokio::time::sleep(self.reload_every) => {}
            }
            let this = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || this.reload()).await {
                tracing::error!(%error, "looking at the certificate files ended in a panic");
            }
        }
    }

    /// Takes over what is new in the files. What is new and cannot be used is told once, and the old stays.
    fn reload(&self) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_replaced = false;
        for pair in &mut files.pairs {
            match pair.look(&self.provider) {
                Look::Same => {}
                Look::Replaced => {
                    tracing::info!(
                        certificate.name = pair.pair().name(),
                        "a new certificate is shown"
                    );
                    is_replaced = true;
                }
                Look::Broken(error) => self.note_broken(&error),
            }
        }
        let client_check = files.clients.look(&self.provider);
        drop(files);
        if is_replaced {
            self.show();
        }
        match client_check {
            Look::Same => {}
            Look::Replaced => self.renew_handshake(),
            Look::Broken(error) => self.note_broken(&error),
        }
    }

    fn note_broken(&self, error: &FilesError) {
        self.reload_errors.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            error = error as &dyn std::error::Error,
            "new files of the listener cannot be used: what was good before stays"
        );
    }

    /// Another check of clients is another handshake: sessions of before cannot be resumed under it.
    fn renew_handshake(&self) {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let made = handshake(
            &self.provider,
            &files.clients,
            &self.certificates,
            &self.protocols,
        );
        match made {
            Ok(made) => {
                self.handshake.store(Arc::new(made));
                tracing::info!("clients are checked against new authorities");
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "TLS stays as it was");
            }
        }
    }

    fn show(&self) {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = files.pairs.iter().map(PairOfFiles::pair).chain(issued.iter());
        self.certificates.replace(pairs.cloned().collect());
    }

    /// How often new files could not be used.
    pub(crate) fn reload_errors(&self) -> u64 {
        self.reload_errors.load(Ordering::Relaxed)
    }

    /// Name of each certificate shown, and until when it is valid (Unix).
    pub(crate) fn expiries(&self) -> Vec<(String, i64)> {
        let shown = self.certificates.shown();
        let expiry = |pair: &Arc<Pair>| (pair.name().to_owned(), pair.not_after_unix_s());
        shown.iter().map(expiry).collect()
    }
}

/// The name whose proof a certificate authority asks for; `None` for everybody else (RFC 8737 section 4).
fn challenged<S>(begun: &tokio_rustls::StartHandshake<S>) -> Option<String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let hello = begun.client_hello();
    let mut offered = hello.alpn()?;
    let is_asked = offered.next() == Some(TLS_PROTOCOL) && offered.next().is_none();
    is_asked.then(|| hello.server_name().unwrap_or_default().to_owned())
}

fn handshake(
    provider: &Arc<CryptoProvider>,
    clients: &ClientCheck,
    certificates: &Arc<Certificates>,
    protocols: &[Vec<u8>],
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(TlsError::Setup)?
        .with_client_cert_verifier(Arc::clone(clients.verifier()))
        .with_cert_resolver(Arc::clone(certificates) as Arc<dyn rustls::server::ResolvesServerCert>);
    config.alpn_protocols = protocols.to_vec();
    if clients.verifier().offer_client_auth() {
        // A resumed session brings its certificate along, and nobody would ask whether that is still valid.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}
