//! Order statistics over everything that was measured, nothing sampled and nothing smoothed.

use std::time::Duration;

/// Latencies in microseconds. 4 bytes each: a window of the greatest size stays below 80 MB.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies {
    micros: Vec<u32>,
}

impl Latencies {
    /// Takes one; above 71 minutes it counts as 71 minutes.
    pub(crate) fn record(&mut self, latency: Duration) {
        self.micros.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    /// Takes all of another.
    pub(crate) fn merge(&mut self, other: Self) {
        self.micros.extend(other.micros);
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.micros.len()
    }

    /// Sorts once, for any number of questions.
    pub(crate) fn sorted(mut self) -> Sorted {
        self.micros.sort_unstable();
        Sorted(self.micros)
    }
}

/// Sorted latencies.
#[derive(Clone, Debug)]
pub(crate) struct Sorted(Vec<u32>);

impl Sorted {
    /// The smallest value that at least `per_mille` of 1,000 don't exceed (nearest rank), in ms. `None` when nothing was measured.
    pub(crate) fn percentile_ms(&self, per_mille: usize) -> Option<f64> {
        let rank = self.0.len().saturating_mul(per_mille).div_ceil(1_000).max(1);
        self.0.get(rank - 1).map(|micros| f64::from(*micros) / 1_000.0)
    }

    /// The largest, in ms.
    pub(crate) fn max_ms(&self) -> Option<f64> {
        self.0.last().map(|micros| f64::from(*micros) / 1_000.0)
    }
}

/// Median of `values`; the lower one of two. `None` when there are none.
pub(crate) fn median(values: &mut [u64]) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied()
}

/// Rounds for people and JSON: `digits` after the point.
pub(crate) fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(micros: impl IntoIterator<Item = u64>) -> Sorted {
        let mut latencies = Latencies::default();
        micros.into_iter().for_each(|us| latencies.record(Duration::from_micros(us)));
        latencies.sorted()
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let hundred = sorted((1..=100).rev().map(|ms| ms * 1_000));
        assert_eq!(hundred.percentile_ms(500), Some(50.0));
        assert_eq!(hundred.percentile_ms(990), Some(99.0));
        assert_eq!(hundred.percentile_ms(991), Some(100.0));
        assert_eq!(hundred.percentile_ms(1_000), Some(100.0));
        assert_eq!(hundred.percentile_ms(0), Some(1.0));
        assert_eq!(hundred.max_ms(), Some(100.0));
    }

    #[test]
    fn one_value_is_every_percentile_and_none_is_none() {
        let one = sorted([1_234]);
        assert_eq!(one.percentile_ms(1), Some(1.234));
        assert_eq!(one.percentile_ms(990), Some(1.234));
        assert_eq!(sorted([]).percentile_ms(500), None);
        assert_eq!(sorted([]).max_ms(), None);
    }

    #[test]
    fn merging_forgets_nothing_and_huge_latencies_stay_huge() {
        let mut first = Latencies::default();
        first.record(Duration::from_micros(5));
        let mut second = Latencies::default();
        second.record(Duration::from_secs(1_000_000));
        first.merge(second);
        assert_eq!(first.len(), 2);
        let sorted = first.sorted();
        assert_eq!(sorted.percentile_ms(500), Some(0.005));
        assert_eq!(sorted.max_ms(), Some(f64::from(u32::MAX) / 1_000.0));
    }

    #[test]
    fn the_median_is_the_lower_middle() {
        assert_eq!(median(&mut [3, 1, 2]), Some(2));
        assert_eq!(median(&mut [4, 1, 3, 2]), Some(2));
        assert_eq!(median(&mut []), None);
    }

    #[test]
    fn rounding_keeps_the_digits_asked_for() {
        assert!((rounded(1.2345, 2) - 1.23).abs() < 1e-12);
        assert!((rounded(2_049.5, 0) - 2_050.0).abs() < 1e-12);
    }
}
