//! When is a certificate to be renewed, and when is a failed attempt repeated? Every replica must come to the same answer.

use std::time::Duration;

use super::document::Failure;
use crate::tls::Pair;

/// Wait after the first failure; doubled by each further one. An authority counts failures, per hour and name.
const RETRY_FIRST_S: i64 = 120;
/// Longest wait after a failure.
const RETRY_LONGEST_S: i64 = 6 * 3_600;

/// When a certificate is renewed (Unix): after two thirds of its life, or up to a twentieth of it earlier. How much follows from the
/// certificate, so that replicas agree, and installations that began together do not come back together.
pub(super) fn renewal_unix_s(pair: &Pair) -> i64 {
    let life = pair.not_after_unix_s().saturating_sub(pair.not_before_unix_s());
    let early = life / 20 * i64::from(pair.fingerprint()) / i64::from(u8::MAX);
    pair.not_before_unix_s() + life / 3 * 2 - early
}

/// How long no further certificate is ordered after one was issued, whatever anybody's clock says: a tenth of its life.
pub(super) fn rest_after(pair: &Pair) -> Duration {
    let life = pair.not_after_unix_s().saturating_sub(pair.not_before_unix_s());
    Duration::from_secs(u64::try_from(life / 10).unwrap_or(0))
}

/// Whether a failure still asks to wait. One that asks for longer than any failure does was written by a clock that is wrong.
pub(super) fn asks_to_wait(failure: &Failure, now_unix_s: i64) -> bool {
    (now_unix_s..=now_unix_s.saturating_add(RETRY_LONGEST_S)).contains(&failure.not_before_unix_s)
        && failure.not_before_unix_s > now_unix_s
}

/// What is remembered after another failure; `chance` is a random byte that shortens the wait by up to a half.
pub(super) fn failed_again(before: Option<Failure>, now_unix_s: i64, chance: u8) -> Failure {
    let attempts = before.map_or(0, |failure| failure.attempts).saturating_add(1);
    let doubled = 1_i64 << (attempts - 1).min(20);
    let bound = RETRY_FIRST_S
        .saturating_mul(doubled)
        .clamp(RETRY_FIRST_S, RETRY_LONGEST_S);
    Failure {
        attempts,
        not_before_unix_s: now_unix_s + bound - bound / 2 * i64::from(chance) / i64::from(u8::MAX),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn a_certificate_is_renewed_when_about_a_third_of_its_life_is_left() {
        let key = KeyPair::generate().unwrap();
        let day = 24 * 3_600;
        for serial in 0..20_u64 {
            let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
            params.not_before = OffsetDateTime::from_unix_timestamp(1_000_000).unwrap();
            params.not_after = params.not_before + time::Duration::days(90);
            params.serial_number = Some(serial.into());
            let chain = params.self_signed(&key).unwrap().pem();
            let provider = rustls::crypto::aws_lc_rs::default_provider();
            let pair = Pair::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes(), &provider).unwrap();
            let after = renewal_unix_s(&pair) - 1_000_000;
            assert!((90 * day * 6 / 10..=60 * day).contains(&after), "{after}");
        }
    }

    #[test]
    fn a_wait_longer_than_any_is_nobodys_wait() {
        let failure = |not_before_unix_s| Failure {
            attempts: 1,
            not_before_unix_s,
        };
        assert!(asks_to_wait(&failure(1_001), 1_000));
        assert!(!asks_to_wait(&failure(1_000), 1_000));
        assert!(!asks_to_wait(&failure(1_000 + RETRY_LONGEST_S + 1), 1_000));
    }

    #[test]
    fn failures_are_repeated_more_and_more_seldom() {
        let mut failure = None;
        let mut waits = Vec::new();
        for _attempt in 0..70 {
            let next = failed_again(failure, 1_000, 0);
            waits.push(next.not_before_unix_s - 1_000);
            failure = Some(next);
        }
        assert_eq!(waits[..4], [120, 240, 480, 960]);
        assert!(waits.is_sorted() && waits.last() == Some(&RETRY_LONGEST_S));
        assert_eq!(failed_again(None, 0, u8::MAX).not_before_unix_s, 60);
    }
}
