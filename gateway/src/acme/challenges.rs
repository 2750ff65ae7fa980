//! What does the authority ask for, and what is answered? (RFC 8555 section 8.3, RFC 8737)
//!
//! The authority may come to any replica, also to one that has not heard of the challenge yet. Such a replica looks into the
//! store first: whoever ordered has written the challenge there before it said that it may be asked.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use tokio::sync::{Notify, Semaphore, watch};

use super::document::PendingChallenge;
use crate::config::Challenge;

/// Where the authority asks in clear.
pub(crate) const HTTP_PREFIX: &str = "/.well-known/acme-challenge/";
/// The application protocol in which it asks in a handshake.
pub(crate) const TLS_PROTOCOL: &[u8] = b"acme-tls/1";
/// Longest wait for a look into the store. The authority waits longer; a handshake may not.
const LOOK_MAX: Duration = Duration::from_secs(3);
/// How many may wait for a look at the same time: anybody can ask.
const WAITING_MAX: usize = 32;
/// Longest token that is looked for; authorities use 43 characters.
const TOKEN_BYTES_MAX: usize = 128;

/// The challenges that are open.
#[derive(Debug)]
pub(crate) struct Challenges {
    open: ArcSwap<Vec<PendingChallenge>>,
    /// Asks for a look into the store.
    wanted: Notify,
    /// Counts looks that have ended.
    looked: watch::Sender<u64>,
    /// Who waits for one.
    waiting: Semaphore,
    /// The only names that are ever to be proved.
    domains: Vec<String>,
    /// How.
    challenge: Challenge,
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for PendingChallenge {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("PendingChallenge")
            .field("domain", &self.domain)
            .finish_non_exhaustive()
    }
}

impl Challenges {
    /// None is open; those of these names may be.
    pub(super) fn new(domains: &[String], challenge: Challenge) -> Self {
        Self {
            open: ArcSwap::default(),
            wanted: Notify::new(),
            looked: watch::Sender::new(0),
            waiting: Semaphore::new(WAITING_MAX),
            domains: domains.to_vec(),
            challenge,
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
        }
    }

    /// These are open now.
    pub(super) fn replace(&self, open: &[PendingChallenge]) {
        if self.open.load().as_slice() != open {
            self.open.store(Arc::new(open.to_vec()));
        }
    }

    /// A look into the store has ended.
    pub(super) fn note_look(&self) {
        self.looked.send_modify(|count| *count += 1);
    }

    /// Waits until somebody asks for a look into the store.
    pub(super) async fn look_wanted(&self) {
        self.wanted.notified().await;
    }

    /// The answer to a question in clear; `None` for a token nobody has. Memory only for one that is open.
    pub(crate) async fn answer(&self, token: &str) -> Option<String> {
        let is_token = (1..=TOKEN_BYTES_MAX).contains(&token.len())
            && token
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if !is_token {
            return None;
        }
        let may_be_ours = self.challenge == Challenge::Http01;
        let found = self
            .find(may_be_ours, |challenge| challenge.token == token)
            .await?;
        Some(found.key_authorization)
    }

    /// What to say in a handshake that asks for the proof of `domain`; `None` when it is not to be proved.
    pub(crate) async fn handshake(&self, domain: &str) -> Option<Arc<ServerConfig>> {
        let domain = domain.to_ascii_lowercase();
        let may_be_ours = self.challenge == Challenge::TlsAlpn01 && self.domains.contains(&domain);
        let challenge = self
            .find(may_be_ours, |challenge| challenge.domain == domain)
            .await?;
        match self.proof(&challenge) {
            Ok(config) => Some(Arc::new(config)),
            Err(error) => {
                tracing::error!(%error, domain, "the proof for the certificate authority cannot be made");
                None
            }
        }
    }

    /// Among those that are open, else, if it `may_be_ours` and not too many wait already, among those that are after a look that began
    /// after this call.
    async fn find(
        &self,
        may_be_ours: bool,
        is_meant: impl Fn(&PendingChallenge) -> bool,
    ) -> Option<PendingChallenge> {
        let mut looked = self.looked.subscribe();
        let before = *looked.borrow_and_update();
        let find = || self.open.load().iter().find(|open| is_meant(open)).cloned();
        if let Some(found) = find() {
            return Some(found);
        }
        let _place = self.waiting.try_acquire().ok().filter(|_place| may_be_ours)?;
        self.wanted.notify_one();
        let found = async {
            loop {
                let looks = looked.changed().await.map(|()| *looked.borrow_and_update());
                let found = find();
                // One look may have been under way when this began, so a second one counts.
                if found.is_some() || looks.is_ok_and(|count| count >= before + 2) {
                    return found;
                }
                self.wanted.notify_one();
            }
        };
        tokio::time::timeout(LOOK_MAX, found).await.ok().flatten()
    }

    /// A certificate for the name with the digest of the answer in it (RFC 8737 section 3).
    fn proof(
        &self,
        challenge: &PendingChallenge,
    ) -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([challenge.domain.clone()])?;
        let digest = caracal_token::digest(challenge.key_authorization.as_bytes());
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(&digest)];
        let certificate = params.self_signed(&key)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        // Not checked against each other: rustls reads no certificate with a critical extension that is not for it.
        let signing_key = self.provider.key_provider.load_private_key(key)?;
        let shown = CertifiedKey::new(vec![certificate.der().clone()], signing_key);
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
        config.alpn_protocols = vec![TLS_PROTOCOL.to_vec()];
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(challenge: Challenge) -> Challenges {
        Challenges::new(&["a.example".to_owned()], challenge)
    }

    #[tokio::test]
    async fn strangers_cannot_make_the_gateway_look() {
        let (clear, handshake) = (of(Challenge::Http01), of(Challenge::TlsAlpn01));
        assert!(clear.handshake("a.example").await.is_none());
        assert!(handshake.handshake("b.example").await.is_none());
        assert!(handshake.answer("token-1").await.is_none());
        for challenges in [clear, handshake] {
            let wanted = tokio::time::timeout(Duration::ZERO, challenges.look_wanted()).await;
            assert!(wanted.is_err(), "nobody asked for a look");
        }
    }

    fn open() -> Vec<PendingChallenge> {
        vec![PendingChallenge {
            domain: "a.example".to_owned(),
            token: "token-1".to_owned(),
            key_authorization: "token-1.thumb".to_owned(),
        }]
    }

    #[tokio::test]
    async fn an_open_challenge_is_answered_from_memory() {
        let challenges = of(Challenge::Http01);
        challenges.replace(&open());
        assert_eq!(
            challenges.answer("token-1").await.as_deref(),
            Some("token-1.thumb")
        );
        assert!(challenges.handshake("A.example").await.is_some());
    }

    #[tokio::test]
    async fn what_is_no_token_is_not_looked_for() {
        let challenges = of(Challenge::Http01);
        for token in ["", "a/b", "a.b", "%41", "\u{e9}", &"x".repeat(129)] {
            assert_eq!(challenges.answer(token).await, None, "{token}");
        }
        let wanted = tokio::time::timeout(Duration::ZERO, challenges.look_wanted()).await;
        assert!(wanted.is_err(), "nobody asked for a look");
    }

    #[tokio::test]
    async fn an_unknown_token_is_looked_for_in_the_store_once_more() {
        let challenges = Arc::new(of(Challenge::Http01));
        let asked = Arc::clone(&challenges);
        let answer = tokio::spawn(async move { asked.answer("token-1").await });
        challenges.look_wanted().await;
        // A look that was under way and saw nothing.
        challenges.note_look();
        challenges.replace(&open());
        challenges.note_look();
        assert_eq!(answer.await.unwrap().as_deref(), Some("token-1.thumb"));
        let asked = Arc::clone(&challenges);
        let unknown = tokio::spawn(async move { asked.answer("token-2").await });
        challenges.look_wanted().await;
        challenges.note_look();
        challenges.note_look();
        assert_eq!(unknown.await.unwrap(), None);
    }
}
