//! Has the client proved itself with a token of its own key? (RFC 7523, `private_key_jwt`)

use std::sync::atomic::{AtomicBool, Ordering};

use caracal_chassis::Secret;
use caracal_model::{UnixSeconds, ZoneId};
use caracal_token::client_assertion::{AssertionRules, UnverifiedAssertion};
use caracal_wire::sts::TOKEN_PATH;

use crate::exchange::refusal::Refusal;
use crate::state::Sts;
use crate::zone::Application;

/// A client assertion of one request.
#[derive(Debug)]
pub(crate) struct ClientAssertion {
    text: Secret,
    /// Whether this request has used it up. A request that is looked at twice, because the configuration moved meanwhile,
    /// still stands on it.
    is_taken: AtomicBool,
}

impl ClientAssertion {
    /// An assertion as it came.
    pub(crate) fn new(text: &str) -> Self {
        Self {
            text: Secret::from(text),
            is_taken: AtomicBool::new(false),
        }
    }

    /// Whom it says it authenticates.
    pub(crate) fn unverified_subject(&self) -> Option<String> {
        let unverified = UnverifiedAssertion::parse(self.bounded()?).ok()?;
        Some(unverified.unverified_subject().to_owned())
    }

    fn bounded(&self) -> Option<&str> {
        Some(self.text.expose().as_str()).filter(|text| text.len() <= ASSERTION_BYTES_MAX)
    }
}

/// Longest assertion that is looked at, in bytes.
const ASSERTION_BYTES_MAX: usize = 8 << 10;
/// Longest life of an assertion, in seconds; its id is remembered as long. An hour is what client libraries write.
const LIFE_MAX_SECONDS: i64 = 3_600;
/// Clock difference granted, in seconds.
const LEEWAY_SECONDS: i64 = 60;

/// Proves `application` by `assertion`, which is used up by that. Cost: one signature check and one round trip to the
/// event bus.
///
/// # Errors
/// [`Refusal::Client`] for everything that is wrong with it, and when it was used before;
/// [`Refusal::AssertionStoreUnavailable`] when nobody can tell.
pub(super) async fn prove(
    sts: &Sts,
    zone: &ZoneId,
    application: &Application,
    assertion: &ClientAssertion,
    now: UnixSeconds,
) -> Result<(), Refusal> {
    let text = assertion.bounded().ok_or(Refusal::Client)?;
    let base = sts.issuer.trim_end_matches('/');
    let issuer_of_zone = format!("{base}/zones/{zone}");
    let endpoint_of_zone = format!("{issuer_of_zone}/oauth2/token");
    let endpoint = format!("{base}{TOKEN_PATH}");
    let rules = AssertionRules {
        client_id: application.id.as_str(),
        audiences: &[&sts.issuer, &endpoint, &issuer_of_zone, &endpoint_of_zone],
        life_max_seconds: LIFE_MAX_SECONDS,
        leeway_seconds: LEEWAY_SECONDS,
    };
    let refuse = |reason: &dyn std::fmt::Display| {
        tracing::info!(zone.id = %zone, application.id = %application.id, %reason, "refused a client assertion");
        Refusal::Client
    };
    let unverified = UnverifiedAssertion::parse(text).map_err(|reason| refuse(&reason))?;
    let proven = unverified.verify(&application.keys, &rules, now);
    let proven = proven.map_err(|reason| refuse(&reason))?;
    if assertion.is_taken.load(Ordering::Relaxed) {
        return Ok(());
    }
    let until = proven.expires_at + LEEWAY_SECONDS;
    let parts = [zone.as_str(), application.id.as_str(), &proven.jti];
    match sts
        .single_use
        .take("assertion", &parts, proven.issued_at, until)
        .await
    {
        Ok(true) => {
            assertion.is_taken.store(true, Ordering::Relaxed);
            Ok(())
        }
        Ok(false) => Err(refuse(&"it was used before")),
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "ids of assertions cannot be remembered"
            );
            Err(Refusal::AssertionStoreUnavailable)
        }
    }
}
