//! Stage 2, second half: does the sender hold the keys the mandate is bound to? (`docs/contract/sender-constraint.md`)
//!
//! Nothing for a mandate that is bound to none. One more signature check for one that is bound to the key of DPoP proofs
//! (RFC 9449 section 7), one hash for one that is bound to a client certificate (RFC 8705 section 3). Whether a proof was used
//! before is for [`super::replay`].

use caracal_model::UnixSeconds;
use caracal_token::client_certificate::{self, CLIENT_CERT_HEADER, CertificateFault};
use caracal_token::dpop::{PROOF_HEADER, Proof, ProofRules, Target};
use caracal_token::sender::{self, PROOF_AGE_MAX_SECONDS, ProofFault, Scheme, Shown};
use caracal_token::{Claims, Thumbprint};
use http::HeaderValue;
use http::header::HOST;

use super::authenticate::LEEWAY_S;
use crate::Gateway;
use crate::context::Inbound;
use crate::denial::Denial;
use crate::header::client_scheme;

/// Proves that the sender holds what `claims` ask for; `None` when they ask for nothing.
///
/// # Errors
/// [`Denial::Sender`].
pub(super) fn check(
    gateway: &Gateway,
    request: &Inbound<'_>,
    scheme: Scheme,
    mandate: &str,
    claims: &Claims,
) -> Result<Option<Box<Shown>>, Denial> {
    let shown = sender::check(
        claims.cnf.as_ref(),
        scheme,
        || prove(gateway, request, mandate),
        || certificate(gateway, request),
    );
    Ok(shown.map_err(Denial::Sender)?.map(Box::new))
}

/// The certificate the client has shown: to the terminator it came through, if that is one we believe, else to this gateway. What
/// a terminator shows for itself says nothing about its clients.
fn certificate(gateway: &Gateway, request: &Inbound<'_>) -> Result<Thumbprint, CertificateFault> {
    if gateway.config.certificate_proxies.contain(request.peer().ip()) {
        return client_certificate::presented(values(request, CLIENT_CERT_HEADER));
    }
    let shown = request.client_certificate().ok_or(CertificateFault::Missing)?;
    Ok(Thumbprint::of_certificate(shown))
}

fn prove(gateway: &Gateway, request: &Inbound<'_>, mandate: &str) -> Result<Proof, ProofFault> {
    let rules = ProofRules {
        method: request.head().method.as_str(),
        targets: &targets(gateway, request),
        access_token: Some(mandate),
        age_max_seconds: PROOF_AGE_MAX_SECONDS,
        leeway_seconds: LEEWAY_S,
    };
    let now = UnixSeconds(gateway.clock.unix_seconds());
    sender::prove(values(request, PROOF_HEADER), &rules, now)
}

fn values<'a>(request: &Inbound<'a>, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    let values = request.headers().get_all(name).iter();
    values.map(HeaderValue::as_bytes)
}

/// The addresses by which a client may know this request: under the public URLs of the gateway, or, where none is configured,
/// the one the client asked for.
fn targets(gateway: &Gateway, request: &Inbound<'_>) -> Vec<Target> {
    let path = request.raw_path().unwrap_or_default();
    if !gateway.config.public_urls.is_empty() {
        return Target::under(&gateway.config.public_urls, path);
    }
    let is_trusted = gateway.config.trust.covers(request.peer().ip());
    let scheme = client_scheme(request, is_trusted);
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    Target::under(host.map(|host| format!("{scheme}://{host}")), path)
}
