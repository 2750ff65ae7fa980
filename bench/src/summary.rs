//! What do many measurements come to?

use std::time::Duration;

/// Times, sorted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    /// Of these.
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// The time that this share of all does not exceed (nearest rank), in milliseconds.
    pub(crate) fn percentile_ms(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        let time = self.0.get(rank - 1).copied().unwrap_or_default();
        time.as_secs_f64() * 1_000.0
    }

    /// Every tenth percentile and the highest ones, in milliseconds, to keep.
    pub(crate) fn percentiles_ms(&self) -> Vec<(usize, f64)> {
        let percents = (10..=90).step_by(10).chain([95, 99, 100]);
        percents
            .map(|percent| (percent, self.percentile_ms(percent)))
            .collect()
    }

    /// The longest, in milliseconds.
    pub(crate) fn max_ms(&self) -> f64 {
        self.percentile_ms(100)
    }
}

/// The middle of several repeats, and how far they lie apart.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Repeats {
    pub(crate) median: f64,
    /// Largest minus smallest, in percent of the median.
    pub(crate) spread_percent: f64,
}

impl Repeats {
    /// Of these values.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        let median = values.get(values.len() / 2).copied().unwrap_or_default();
        let range = values
            .last()
            .zip(values.first())
            .map_or(0.0, |(last, first)| last - first);
        let spread_percent = if median == 0.0 {
            0.0
        } else {
            100.0 * range / median
        };
        Self {
            median,
            spread_percent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let times = Times::of((1..=200).rev().map(Duration::from_millis).collect());
        let at = |percent| times.percentile_ms(percent).to_string();
        assert_eq!([at(1), at(50), at(99), at(100)], ["2", "100", "198", "200"]);
        assert_eq!(Times::default().percentile_ms(50).to_string(), "0");
    }

    #[test]
    fn repeats_come_to_their_median_and_spread() {
        let repeats = Repeats::of(vec![110.0, 90.0, 100.0]);
        assert_eq!(format!("{} {}", repeats.median, repeats.spread_percent), "100 20");
    }
}
