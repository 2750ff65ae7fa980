//! How long until the next attempt?

use std::time::Duration;

use aws_lc_rs::rand;

/// Waiting times that double from `first` to `longest`, each shortened by a random part of up to one half, so that
/// clients which failed together do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    attempts: u32,
}

impl Backoff {
    /// `first` is the upper bound of the first wait, `longest` of every wait.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            attempts: 0,
        }
    }

    /// The next wait: between half of the bound and the bound.
    pub fn next_wait(&mut self) -> Duration {
        let bound = self.bound();
        self.attempts = self.attempts.saturating_add(1);
        bound.mul_f64(1.0 - random_fraction() / 2.0)
    }

    /// Waits for [`Backoff::next_wait`].
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_wait()).await;
    }

    /// How many waits were handed out since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Starts again at `first`. Call it after a success.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    fn bound(&self) -> Duration {
        let factor = 1_u32.checked_shl(self.attempts).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }
}

/// Uniform in 0..1. Without randomness (which AWS-LC does not report in practice) the wait is the full bound.
fn random_fraction() -> f64 {
    let mut bytes = [0_u8; 4];
    match rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_stay_above_half_of_their_bound() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for bound_ms in [100, 200, 400, 800, 1_000, 1_000, 1_000] {
            let wait = backoff.next_wait();
            let bound = Duration::from_millis(bound_ms);
            assert!(
                wait >= bound.mul_f64(0.499) && wait <= bound,
                "{wait:?} for {bound:?}"
            );
        }
        for _ in 0..100 {
            assert!(
                backoff.next_wait() <= Duration::from_secs(1),
                "many attempts must not overflow"
            );
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(100));
        assert_eq!(backoff.attempts(), 1);
    }

    #[test]
    fn two_clients_do_not_wait_the_same_time() {
        let mut one = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
        let mut two = one.clone();
        let (one, two): (Vec<_>, Vec<_>) = (0..8).map(|_| (one.next_wait(), two.next_wait())).unzip();
        assert_ne!(one, two);
    }
}
