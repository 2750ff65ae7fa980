//! May whoever sends a mandate to this service send it? (`docs/contract/sender-constraint.md`, "Elsewhere")
//!
//! As the gateway and the coordinator ask: a mandate that is bound to keys counts from who shows them with this very request.

use std::net::IpAddr;

use caracal_chassis::server::Peer;
use caracal_model::UnixSeconds;
use caracal_token::Claims;
use caracal_token::client_certificate::{self, CLIENT_CERT_HEADER, CertificateFault};
use caracal_token::dpop::{PROOF_HEADER, ProofRules, Target};
use caracal_token::sender::{self, PROOF_AGE_MAX_SECONDS, ProofFault, Scheme, SenderFault, Shown};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, header};

use crate::exchange::possession::{LEEWAY_SECONDS, is_first_use};
use crate::state::Sts;

/// A request with a mandate, nothing of which is proven.
pub(super) struct Presented<'r> {
    parts: &'r Parts,
    peer: Option<IpAddr>,
    scheme: Scheme,
    /// The text of the mandate.
    pub(super) mandate: &'r str,
}

/// Why it does not count.
#[derive(Debug)]
pub(super) enum NotCounted {
    /// It is not for this sender.
    Sender(SenderFault),
    /// Nobody can tell whether its proof was used.
    Undecided,
}

impl<'r> Presented<'r> {
    /// The mandate of `Authorization`: exactly `Bearer ` or `DPoP `, and something.
    pub(super) fn of(parts: &'r Parts, peer: Peer) -> Option<Self> {
        let text = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, mandate) = [("Bearer ", Scheme::Bearer), ("DPoP ", Scheme::Dpop)]
            .into_iter()
            .find_map(|(prefix, scheme)| Some((scheme, text.strip_prefix(prefix)?)))?;
        (!mandate.is_empty()).then_some(Self {
            parts,
            peer: peer.ip(),
            scheme,
            mandate,
        })
    }

    /// Whether its sender has shown every key that `claims`, those of the mandate, ask for. Uses the proof up: one signature
    /// check and one round trip for a mandate that is bound to the key of proofs.
    ///
    /// # Errors
    /// [`NotCounted`].
    pub(super) async fn check(&self, sts: &Sts, claims: &Claims, now: UnixSeconds) -> Result<(), NotCounted> {
        let proof = || {
            let address = format!("{}{}", sts.issuer.trim_end_matches('/'), self.parts.uri.path());
            let target = Target::parse(&address);
            let rules = ProofRules {
                method: self.parts.method.as_str(),
                targets: target.as_slice(),
                access_token: Some(self.mandate),
                age_max_seconds: PROOF_AGE_MAX_SECONDS,
                leeway_seconds: LEEWAY_SECONDS,
            };
            sender::prove(values(&self.parts.headers, PROOF_HEADER), &rules, now)
        };
        let certificate = || {
            let terminators = &sts.settings.certificate_proxies;
            if !self.peer.is_some_and(|peer| terminators.contain(peer)) {
                return Err(CertificateFault::Missing);
            }
            client_certificate::presented(values(&self.parts.headers, CLIENT_CERT_HEADER))
        };
        let shown = sender::check(claims.cnf.as_ref(), self.scheme, proof, certificate)
            .map_err(|fault| refused(claims, fault))?;
        let Some(proof) = shown.as_ref().and_then(Shown::proof) else {
            return Ok(());
        };
        match is_first_use(sts, proof).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(refused(claims, ProofFault::Used.into())),
            Err(_undecided) => Err(NotCounted::Undecided),
        }
    }
}

fn values<'h>(headers: &'h HeaderMap, name: &'static str) -> impl Iterator<Item = &'h [u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes)
}

fn refused(claims: &Claims, fault: SenderFault) -> NotCounted {
    tracing::info!(
        zone.id = %claims.zone_id,
        application.id = %claims.client_id,
        reason = %fault,
        "a mandate is refused from this sender"
    );
    NotCounted::Sender(fault)
}
