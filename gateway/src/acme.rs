//! How does the gateway get certificates by itself? From an authority, by ACME (RFC 8555), once for all replicas
//! (`docs/contract/gateway-tls.md`, "ACME").
//!
//! All replicas read one document at the token service. When a certificate is missing or due, one of them takes the lease and
//! orders; all of them answer the authority's questions, and all show what was issued. Nothing of this is on the path of a request.

pub(crate) mod challenges;
mod document;
mod http;
mod order;
mod schedule;
mod store;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use caracal_bus::HmacKey;
use caracal_chassis::Clock;
use caracal_chassis::shutdown::Shutdown;
use caracal_egress::{Resolve, TrustError};
use caracal_token::envelope::KekError;
use rustls::crypto::CryptoProvider;
use tokio::time::Instant;

use crate::config::AcmeSettings;
use crate::sts_client::StsClient;
use crate::tls::{Pair, PairError, Tls};
use challenges::Challenges;
use document::{Document, DocumentSeal, Issued};
use http::AuthorityClient;
use order::OrderError;
use schedule::{asks_to_wait, failed_again, renewal_unix_s, rest_after};
use store::{Kept, Store, StoreError};

/// How often the store is read while something is under way.
const BUSY_EVERY: Duration = Duration::from_secs(2);
/// How often the store is tried while it does not answer.
const RETRY_EVERY: Duration = Duration::from_secs(10);
/// Shortest time between two looks into the store that somebody outside has caused.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Longest time for one order; shorter than the lease.
const ORDER_MAX: Duration = Duration::from_mins(3);
/// How long a name is left alone whose order came to something that could not be kept.
const UNKEPT_REST: Duration = Duration::from_mins(10);
/// Longest wait for a lease to be given back at the end.
const RELEASE_MAX: Duration = Duration::from_secs(1);

/// Why no certificates can be obtained.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AcmeError {
    /// Nothing can be shared with the other replicas.
    #[error("ACME needs GATEWAY_STS_HMAC_KEY or AUDIT_HMAC_KEY")]
    NoKey,
    /// The key is none.
    #[error("no key can be derived from GATEWAY_STS_HMAC_KEY")]
    Key(#[from] KekError),
    /// `ACME_CA_FILE` cannot be used.
    #[error("ACME_CA_FILE cannot be used")]
    Trust(#[from] TrustError),
}

/// Why a certificate that was issued cannot be shown.
#[derive(Debug, thiserror::Error)]
enum PairFault {
    #[error(transparent)]
    Pair(#[from] PairError),
    #[error("it is for another name")]
    OtherName,
}

/// Obtains certificates from one authority.
#[derive(Debug)]
pub(crate) struct Acme {
    settings: AcmeSettings,
    store: Store,
    authority: AuthorityClient,
    challenges: Arc<Challenges>,
    clock: Clock,
    provider: CryptoProvider,
    /// Names this replica does not order before then, whatever clocks and documents say.
    rests: Mutex<BTreeMap<String, Instant>>,
    /// Whether this replica holds the lease.
    is_ordering: AtomicBool,
    issued: AtomicU64,
    failed: AtomicU64,
}

/// What this replica shows, by name.
type Shown = BTreeMap<String, (Issued, Arc<Pair>)>;

impl Acme {
    /// Obtains the certificates of `settings`. `key` is that of the exchange; `extra_ca_file` is trusted where the settings name no
    /// file of their own.
    ///
    /// # Errors
    /// [`AcmeError`].
    pub(crate) fn new(
        settings: &AcmeSettings,
        sts: Arc<StsClient>,
        key: Option<&HmacKey>,
        extra_ca_file: Option<PathBuf>,
        resolver: Arc<dyn Resolve>,
        clock: Clock,
    ) -> Result<Self, AcmeError> {
        let name = document_name(settings);
        let seal = DocumentSeal::new(key.ok_or(AcmeError::NoKey)?, &name)?;
        let ca_file = settings.ca_file.clone().or(extra_ca_file);
        Ok(Self {
            authority: AuthorityClient::new(&settings.directory, ca_file, resolver)?,
            store: Store::new(sts, seal, name),
            settings: settings.clone(),
            challenges: Arc::new(Challenges::new(&settings.domains, settings.challenge)),
            clock,
            provider: rustls::crypto::aws_lc_rs::default_provider(),
            rests: Mutex::default(),
            is_ordering: AtomicBool::new(false),
            issued: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// What the authority may ask for.
    pub(crate) fn challenges(&self) -> &Arc<Challenges> {
        &self.challenges
    }

    /// Certificates this replica has obtained, and attempts that failed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.issued), read(&self.failed))
    }

    /// Keeps the certificates that `tls` shows up to date, until the shutdown.
    pub(crate) async fn follow(self: Arc<Self>, tls: Arc<Tls>, stop: Shutdown) {
        tokio::select! {
            () = stop.requested() => {}
            () = self.rounds(&tls) => {}
        }
        if self.is_ordering.load(Ordering::SeqCst) {
            // Another replica, or the next start, need not wait for the end of the lease.
            let _late = tokio::time::timeout(RELEASE_MAX, self.store.release()).await;
        }
    }

    async fn rounds(&self, tls: &Tls) {
        let mut shown = Shown::new();
        loop {
            let pause = Box::pin(self.round(tls, &mut shown)).await;
            self.look_until(Instant::now() + pause, tls, &mut shown).await;
        }
    }

    /// Until the next round, only looks, when somebody asks for a proof that is not known here.
    async fn look_until(&self, next: Instant, tls: &Tls, shown: &mut Shown) {
        loop {
            let began = Instant::now();
            tokio::select! {
                () = tokio::time::sleep_until(next) => return,
                () = self.challenges.look_wanted() => {}
            }
            // Whoever is asked cannot be made to ask more often.
            if let Err(error) = self.look(tls, shown).await {
                report(&error, "the proofs that were prepared cannot be read");
            }
            tokio::time::sleep_until(began + LOOK_PAUSE).await;
        }
    }

    /// Reads what is kept, and shows it.
    async fn look(&self, tls: &Tls, shown: &mut Shown) -> Result<Kept, StoreError> {
        let read = self.store.read().await;
        if let Ok(kept) = &read {
            self.show(tls, shown, &kept.document);
        }
        self.challenges.note_look();
        read
    }

    /// Reads, shows, and orders what is due if nobody else does. Answers when to come again.
    async fn round(&self, tls: &Tls, shown: &mut Shown) -> Duration {
        let kept = match self.look(tls, shown).await {
            Ok(kept) => kept,
            Err(error) => {
                report(&error, "the certificates that were obtained cannot be read");
                return RETRY_EVERY.min(self.settings.poll_every);
            }
        };
        if self.due(shown, &kept.document).is_empty() {
            return if kept.is_leased {
                BUSY_EVERY.min(self.settings.poll_every)
            } else {
                self.settings.poll_every
            };
        }
        self.is_ordering.store(true, Ordering::SeqCst);
        match self.store.lease().await {
            Ok(Some(kept)) => {
                self.obtain(tls, shown, kept).await;
                self.store.release().await;
            }
            Ok(None) => {}
            Err(error) => report(&error, "certificates cannot be ordered"),
        }
        self.is_ordering.store(false, Ordering::SeqCst);
        BUSY_EVERY.min(self.settings.poll_every)
    }

    /// Orders what is due, one after the other, under the lease.
    async fn obtain(&self, tls: &Tls, shown: &mut Shown, mut kept: Kept) {
        self.show(tls, shown, &kept.document);
        for domain in self.due(shown, &kept.document) {
            match self.store.lease().await {
                Ok(Some(_same)) => {}
                Ok(None) => return,
                Err(error) => return report(&error, "certificates cannot be ordered"),
            }
            tracing::info!(domain, "ordering a certificate");
            let ordered = tokio::time::timeout(ORDER_MAX, self.order(&mut kept, &domain)).await;
            self.note(
                &mut kept.document,
                &domain,
                ordered.unwrap_or(Err(OrderError::Timeout)),
            );
            if let Err(error) = self.store.write(&mut kept).await {
                report(&error, "what came of an order cannot be kept");
                // Nobody else knows of it, so it is as if it had not been; but for the authority, which counts.
                self.rest(&domain, UNKEPT_REST);
                return;
            }
            self.show(tls, shown, &kept.document);
            if let Some((_issued, pair)) = shown.get(&domain) {
                self.rest(&domain, rest_after(pair));
            }
        }
    }

    fn rest(&self, domain: &str, time: Duration) {
        let mut rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        rests.insert(domain.to_owned(), Instant::now() + time);
    }

    fn rests(&self, domain: &str) -> bool {
        let rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        rests.get(domain).is_some_and(|until| *until > Instant::now())
    }

    /// Writes into the document what came of an order.
    fn note(&self, document: &mut Document, domain: &str, ordered: Result<Issued, OrderError>) {
        document.challenges.clear();
        match ordered {
            Ok(issued) => {
                self.issued.fetch_add(1, Ordering::Relaxed);
                tracing::info!(domain, "a certificate was issued");
                document.failures.remove(domain);
                document.issued.insert(domain.to_owned(), issued);
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                if error.is_without_account() {
                    document.account = None;
                }
                let before = document.failures.get(domain).copied();
                let failure = failed_again(before, self.clock.unix_seconds(), random_byte());
                let retry_s = failure.not_before_unix_s - self.clock.unix_seconds();
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    domain,
                    retry_s,
                    "no certificate: what was shown before stays"
                );
                document.failures.insert(domain.to_owned(), failure);
            }
        }
    }

    /// Shows what the document holds, and answers what it says is asked for. What is shown and no longer in the document stays.
    fn show(&self, tls: &Tls, shown: &mut Shown, document: &Document) {
        self.challenges.replace(&document.challenges);
        let mut is_new = false;
        for domain in &self.settings.domains {
            let Some(issued) = document.issued.get(domain) else {
                continue;
            };
            if shown.get(domain).is_some_and(|(known, _pair)| known == issued) {
                continue;
            }
            match self.pair(issued) {
                Ok(pair) => {
                    shown.insert(domain.clone(), (issued.clone(), Arc::new(pair)));
                    is_new = true;
                }
                Err(error) => report(&error, "a certificate that was obtained cannot be shown"),
            }
        }
        if is_new {
            let pairs = self
                .settings
                .domains
                .iter()
                .filter_map(|domain| shown.get(domain));
            tls.show_issued(pairs.map(|(_issued, pair)| Arc::clone(pair)).collect());
        }
    }

    /// The names that have no certificate, or one that is to be renewed, and that may be tried now.
    fn due(&self, shown: &Shown, document: &Document) -> Vec<String> {
        let now = self.clock.unix_seconds();
        let is_good = |domain: &str| {
            let kept = document.issued.get(domain);
            let shown = shown.get(domain);
            kept.zip(shown)
                .is_some_and(|(kept, (issued, pair))| kept == issued && now < renewal_unix_s(pair))
        };
        let may_be_tried = |domain: &str| {
            let failure = document.failures.get(domain);
            !self.rests(domain) && failure.is_none_or(|failure| !asks_to_wait(failure, now))
        };
        let domains = self.settings.domains.iter();
        domains
            .filter(|domain| !is_good(domain) && may_be_tried(domain))
            .cloned()
            .collect()
    }
}

fn report(error: &(dyn std::error::Error + 'static), what: &str) {
    tracing::warn!(error, "{what}");
}

/// One document for each authority: another one has other accounts.
fn document_name(settings: &AcmeSettings) -> String {
    let digest = hex::encode(caracal_token::digest(settings.directory.as_str().as_bytes()));
    format!("acme-{}", digest.get(..32).unwrap_or_default())
}

/// Without randomness the longest wait.
fn random_byte() -> u8 {
    let mut byte = [0];
    let _filled = aws_lc_rs::rand::fill(&mut byte);
    u8::from_be_bytes(byte)
}
