//! What does the admin API need to do its work?

use caracal_bus::HmacKey;
use caracal_chassis::{Clock, Secret};
use caracal_oauth::TokenCaller;
use caracal_storage::Database;
use caracal_token::{client_secret, envelope::Keyring};
use tokio::sync::Semaphore;

use crate::evaluation::EvaluationPool;
use crate::refusal::Refusal;
use crate::token_service::TokenService;

/// Client secrets hashed at a time: each takes 64 MiB and a whole core for tens of milliseconds.
const HASHES_AT_A_TIME: usize = 2;

/// The dependencies of the use cases.
#[derive(Debug)]
pub(crate) struct Control {
    /// The durable truth.
    pub(crate) database: Database,
    /// Seals what must not be readable in the database.
    pub(crate) keyring: Keyring,
    /// Asks the token endpoints of providers.
    pub(crate) token_caller: TokenCaller,
    /// The time.
    pub(crate) clock: Clock,
    /// Signs the links of the admin audit chains; without it they are hashed only.
    pub(crate) audit_key: Option<HmacKey>,
    /// Identifier of the resource that stands for this API itself.
    pub(crate) audience: String,
    /// Most resources a zone may have; 0 = no limit.
    pub(crate) resources_per_zone_max: i64,
    /// The replicas of the token service.
    pub(crate) token_service: TokenService,
    /// Lets only a few hashes run at a time.
    pub(crate) hashing: Semaphore,
    /// Lets only a few texts of policies be looked at at a time.
    pub(crate) evaluations: EvaluationPool,
}

impl Control {
    /// A pool of turns for [`Control::hash_secret`].
    pub(crate) fn hashing() -> Semaphore {
        Semaphore::new(HASHES_AT_A_TIME)
    }

    /// The key of the admin audit chains.
    pub(crate) fn audit_key(&self) -> Option<&[u8]> {
        self.audit_key.as_ref().map(HmacKey::expose)
    }

    /// The stored form of a client secret. Tens of milliseconds of one core, off the request threads, and only a few at
    /// a time.
    ///
    /// # Errors
    /// A refusal when the process is ending.
    pub(crate) async fn hash_secret(&self, secret: &Secret) -> Result<String, Refusal> {
        let _turn = self.hashing.acquire().await.map_err(Refusal::internal)?;
        let secret = secret.clone();
        tokio::task::spawn_blocking(move || client_secret::hash(secret.expose(), &client_secret::salt()))
            .await
            .map_err(Refusal::internal)
    }
}
