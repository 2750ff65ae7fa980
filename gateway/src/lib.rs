//! The gateway: admits or denies each request of an agent, then forwards it.
//!
//! Life of a request: [`listener`](self) accepts, `proxy` is called by Pingora, `admit` runs the stages in order, each
//! stage takes the proof of the one before:
//!
//! 1. `stage::route`: which resource, which path;
//! 2. `stage::authenticate`: whose mandate, proven by one signature check; then `stage::operation`: no, where the STS would say no;
//! 3. `stage::revocation`: nothing it stands on is revoked;
//! 4. `stage::exchange`: the STS grants exactly this call; at the same time
//! 5. `stage::replay`: this is the first use of a one-shot mandate;
//! 6. `stage::inject`: what is sent, with the real credential in place of the mandate;
//! 7. `stage::forward`, `stage::stream`: to which checked address, and for how long;
//! 8. `stage::audit`: the intent before, the outcome after, or the refusal.
//!
//! Invariants: nothing is forwarded without every proof; nothing is forwarded unrecorded; the presented mandate never
//! reaches an upstream; knowledge that is not fresh refuses; no SQL, no policy, no signing of mandates here.
//! `docs/contract/gateway.md` is what clients and operators may rely on.

mod acme;
mod admin;
mod admit;
mod chance;
mod config;
mod connection;
mod context;
mod denial;
#[doc(hidden)]
pub mod fuzzing;
mod header;
mod listener;
mod metrics;
mod one_reading;
mod proxy;
mod rate;
mod run;
mod snapshot;
mod source;
#[doc(hidden)]
pub mod stage;
mod sts_client;
mod tls;
mod trust;
mod upgrade;
mod upstream;

use std::sync::Arc;

use arc_swap::ArcSwap;
use caracal_bus::Bus;
use caracal_chassis::Clock;
use caracal_egress::Guard;
use caracal_token::MandateMacKey;
use tokio::sync::Notify;

pub use config::Config;
pub use run::{Addresses, Deps, RunError, run};
pub use trust::TrustError;
pub use upgrade::UpgradeError;

use acme::Acme;
use metrics::Metrics;
use snapshot::keys::ZoneKeys;
use snapshot::operations::ZoneOperations;
use snapshot::revocations::RevocationState;
use snapshot::routes::Routes;
use snapshot::skew::ClockSkew;
use source::Places;
use stage::audit::Evidence;
use stage::exchange::KnownAnswers;
use stage::replay::{BurnedTable, GiveBacks};
use sts_client::StsClient;
use tls::Tls;
use upstream::{Identity, Outliers};

/// Everything a request needs, made once by [`run()`].
#[derive(Debug)]
struct Gateway {
    config: Config,
    clock: Clock,
    routes: ArcSwap<Routes>,
    /// Told when `routes` is another table.
    table_changed: Notify,
    bus: Arc<dyn Bus>,
    sts: Arc<StsClient>,
    answers: KnownAnswers,
    keys: Arc<ZoneKeys>,
    /// Proves mandates in place of their signature.
    mandate_mac: Option<MandateMacKey>,
    operations: Arc<ZoneOperations>,
    revocations: Arc<RevocationState>,
    burned: BurnedTable,
    give_backs: GiveBacks,
    /// Requests that each source has in progress.
    in_progress: Arc<Places>,
    /// Set for a gateway that keeps the only replay table: one-shot mandates issued in this second (Unix) or before
    /// may have been used before the table began.
    remembers_since_unix_s: Option<i64>,
    /// `None` when the listener speaks in clear.
    tls: Option<Arc<Tls>>,
    /// Gets certificates for `tls`, where it is to.
    acme: Option<Arc<Acme>>,
    egress: Guard,
    outliers: Outliers,
    /// What upstreams that ask for a certificate are shown.
    identity: Option<Identity>,
    evidence: Evidence,
    skew: ClockSkew,
    metrics: Metrics,
}

impl Gateway {
    /// Whether a mandate issued now would be accepted by the replay table.
    async fn remembers_enough(&self) -> bool {
        let now = self.clock.unix_seconds();
        if self.remembers_since_unix_s.is_some_and(|started| now <= started) {
            return false;
        }
        let since = self.bus.remembers_since().await;
        since.is_ok_and(|since| stage::replay::is_remembered(now, since))
    }
}
