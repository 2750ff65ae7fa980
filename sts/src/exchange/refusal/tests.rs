//! What refusals say that no request can cause at will.

use super::*;

/// Refusals that only a broken or crowded service gives, which no test of the endpoint causes at will.
#[test]
fn what_a_service_in_trouble_says() {
    let unavailable = |description: &'static str| (503, "sts_unavailable", description, Some(1));
    let client = (
        event_type::CLIENT_AUTHENTICATION,
        Some(status::CLIENT_AUTH_FAILED),
    );
    let exchange = (event_type::TOKEN_EXCHANGE, Some(status::EXCHANGE_DENIED));
    let locked = "authentication rate limit exceeded";
    let cases = [
        (
            Refusal::LockedOut,
            (429, "provider_rate_limited", locked, Some(60)),
            client,
            "locked_out",
        ),
        (
            Refusal::VerifierBusy,
            unavailable("client authentication is overloaded"),
            client,
            "client",
        ),
        (
            Refusal::AssertionStoreUnavailable,
            unavailable("client assertions cannot be checked now"),
            client,
            "client",
        ),
        (
            Refusal::SessionStateUnavailable,
            unavailable("session state unavailable"),
            exchange,
            "store",
        ),
        (
            Refusal::EvidenceUnavailable,
            unavailable("audit evidence unavailable"),
            exchange,
            "evidence",
        ),
        (
            Refusal::Issuance,
            (500, "internal_error", "token issuance failed", None),
            exchange,
            "issuance",
        ),
    ];
    for (refusal, (code, error, description, retry_after), recorded, label) in cases {
        let answer = refusal.answer();
        assert_eq!(
            (answer.status.as_u16(), answer.code.as_str(), &*answer.description),
            (code, error, description)
        );
        assert_eq!(refusal.retry_after_seconds(), retry_after, "{description}");
        assert_eq!(
            (refusal.event_type(), refusal.evaluation_status()),
            recorded,
            "{description}"
        );
        assert_eq!(refusal.label(), label, "{description}");
    }
}
