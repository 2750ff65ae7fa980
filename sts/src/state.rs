//! Everything the service works with, explicit and built once.

use std::sync::Arc;
use std::time::Duration;

use caracal_bus::spool::Spool;
use caracal_bus::{Bus, HmacKey, Revocations, SingleUse};
use caracal_chassis::address_range::AddressRanges;
use caracal_chassis::{Clock, Secret};
use caracal_model::ZoneId;
use caracal_storage::Database;
use caracal_token::MandateMacKey;
use caracal_token::dpop::nonce::Nonces;
use caracal_token::envelope::Keyring;
use caracal_wire::answer_mac::AnswerMacKey;
use caracal_wire::channel::ChannelKey;

use crate::approval::Waiters;
use crate::exchange::client::home::Homes;
use crate::issuer_keys::IssuerKeyCache;
use crate::key::{self, CreateKeyError, MintedTokens};
use crate::limit::denial_budget::DenialBudget;
use crate::limit::evaluation::EvaluationPool;
use crate::limit::lockout::Lockout;
use crate::limit::mint_rate::MintRate;
use crate::limit::nonce::NonceTable;
use crate::limit::secret_verification::SecretVerifier;
use crate::metrics::Metrics;
use crate::session_graph::SessionGraph;
use crate::upstream_credential::UpstreamCredentials;
use crate::zone::{ZoneCache, ZoneModel};

/// What the request path works with.
#[derive(Debug)]
pub(crate) struct Sts {
    /// `iss` of every token, and `aud` of those that come back here.
    pub(crate) issuer: String,
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) database: Database,
    /// Counts what is asked of it.
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) keyring: Arc<Keyring>,
    /// Verifies gateways; without it none is believed.
    pub(crate) gateway_key: Option<HmacKey>,
    /// Makes the MACs that spare gateways signature checks; without them there are only signatures.
    pub(crate) macs: Option<Box<MacKeys>>,
    /// Signs evidence that goes to the ledger through the outbox.
    pub(crate) audit_key: Option<HmacKey>,
    /// Enables the rotation of signing keys.
    pub(crate) admin_token: Option<Secret>,
    pub(crate) zones: Arc<ZoneCache>,
    pub(crate) graph: SessionGraph,
    pub(crate) revocations: Revocations,
    pub(crate) secrets: SecretVerifier,
    pub(crate) lockout: Lockout,
    pub(crate) challenges: Lockout,
    pub(crate) waiters: Waiters,
    pub(crate) mint_rate: MintRate,
    pub(crate) nonces: NonceTable,
    pub(crate) denials: DenialBudget,
    pub(crate) single_use: SingleUse,
    /// Gives nonces for proofs of possession, and knows those of every replica.
    pub(crate) proof_nonces: Nonces,
    pub(crate) minted: MintedTokens,
    /// The keys of issuers of users.
    pub(crate) issuer_keys: IssuerKeyCache,
    /// Credentials of providers that run out.
    pub(crate) upstream_credentials: Arc<UpstreamCredentials>,
    pub(crate) spool: Spool,
    /// Interprets documents that read `input`.
    pub(crate) evaluations: EvaluationPool,
    /// Answers questions about policies, on places of its own: nobody who asks takes one from a decision.
    pub(crate) questions: EvaluationPool,
    /// The zones of applications that name none.
    pub(crate) homes: Homes,
    /// Names this process; a new one after each start.
    pub(crate) replica: String,
    pub(crate) metrics: Metrics,
}

/// The keys that only token services and gateways hold.
#[derive(Debug)]
pub(crate) struct MacKeys {
    /// For mandates that go to a gateway.
    pub(crate) mandate: MandateMacKey,
    /// For answers to gateways.
    pub(crate) answer: AnswerMacKey,
    /// For channels of gateways.
    pub(crate) channel: ChannelKey,
}

impl MacKeys {
    /// All from what `MANDATE_MAC_KEY` holds.
    pub(crate) fn derive(shared: &[u8]) -> Self {
        Self {
            mandate: MandateMacKey::derive(shared),
            answer: AnswerMacKey::derive(shared),
            channel: ChannelKey::derive(shared),
        }
    }
}

/// Settings the request path reads.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// How old the knowledge of revocations may be.
    pub(crate) revocation_freshness: Duration,
    /// Whether every proof of possession has to answer a nonce.
    pub(crate) demands_proof_nonce: bool,
    /// TLS terminators that say which certificate a client has shown.
    pub(crate) certificate_proxies: AddressRanges,
    /// Whether reusable mandates may pass the gateway.
    pub(crate) ambient_at_gateway: bool,
    /// Mints per minute for one (zone, resource, application).
    pub(crate) mints_per_minute: u32,
    /// Introspections and revocations per minute for one application.
    pub(crate) token_management_per_minute: u32,
    /// Questions about policies per minute for one application; 0 when none are answered.
    pub(crate) policy_questions_per_minute: u32,
    /// How long an exchange may wait for a provider.
    pub(crate) upstream_credential_wait: Duration,
    /// The resource identifier of the remote control endpoint.
    pub(crate) control_audience: String,
}

impl Sts {
    /// Whether everything that was revoked and changed up to a moment ago is known here.
    pub(crate) fn is_fresh(&self) -> bool {
        self.revocations
            .freshness()
            .is_fresh(self.clock.now(), self.settings.revocation_freshness)
    }

    /// Makes the first signing key of a zone that has none, and gives the zone as it is then.
    ///
    /// # Errors
    /// [`CreateKeyError`].
    pub(crate) async fn first_signing_key(&self, zone: &ZoneId) -> Result<Arc<ZoneModel>, CreateKeyError> {
        key::create_first(self, zone).await?;
        Ok(self.zones.reload(zone).await?)
    }
}
