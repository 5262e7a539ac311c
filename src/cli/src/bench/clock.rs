//! Criterion as the clock of what takes microseconds: warm-up, samples, outliers, and the median that it writes down.
//!
//! Comes in: a name and work that says whether it succeeded. Goes out: the median of one iteration. Refused: work that fails. Reports of earlier
//! runs aren't compared: figures are worth something beside figures of the same run only.

use anyhow::{Context, ensure};
use criterion::{Criterion, SamplingMode};
use serde_json::Value;
use std::cell::Cell;
use std::time::Duration;
use tempfile::TempDir;

/// How long each bench warms up and measures, and how many samples it takes.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    warm_up: Duration,
    measure: Duration,
    samples: usize,
}

impl Pace {
    /// For figures.
    pub(super) const FULL: Self =
        Self { warm_up: Duration::from_secs(1), measure: Duration::from_secs(3), samples: 100 };
    /// For tests of the benches themselves.
    #[cfg(test)]
    pub(super) const QUICK: Self =
        Self { warm_up: Duration::from_millis(5), measure: Duration::from_millis(20), samples: 10 };
}

/// Runs benches, one after the other, on this thread.
pub(super) struct Clock {
    criterion: Criterion,
    folder: TempDir,
}

impl Clock {
    /// Reports go to the standard output, samples into a directory that ends with this value.
    pub(super) fn new(pace: Pace) -> anyhow::Result<Self> {
        let folder = TempDir::new().context("no directory for samples")?;
        let criterion = Criterion::default()
            .without_plots()
            .output_directory(folder.path())
            .warm_up_time(pace.warm_up)
            .measurement_time(pace.measure)
            .sample_size(pace.samples);
        Ok(Self { criterion, folder })
    }

    /// The median time of one iteration.
    pub(super) fn median(&mut self, name: &str, mut work: impl FnMut() -> bool) -> anyhow::Result<Duration> {
        let all_well = Cell::new(true);
        let mut group = self.criterion.benchmark_group("bench");
        // As many iterations in every sample: a median over samples of growing length would weigh the short ones as much.
        group.sampling_mode(SamplingMode::Flat);
        group.bench_function(name, |bencher| {
            bencher.iter(|| all_well.set(all_well.get() & work()));
        });
        group.finish();
        ensure!(all_well.get(), "{name} failed while it was measured");
        let path = self.folder.path().join("bench").join(name).join("new/estimates.json");
        let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let estimates: Value = serde_json::from_slice(&text).context("estimates")?;
        let nanos =
            estimates.pointer("/median/point_estimate").and_then(Value::as_f64).context("no median")?;
        Ok(Duration::from_secs_f64(nanos / 1e9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_work_takes_longer_and_work_that_fails_is_told() {
        let mut clock = Clock::new(Pace::QUICK).unwrap();
        let work =
            |rounds: u64| (0..rounds).fold(1_u64, |sum, one| std::hint::black_box(sum ^ one)) != u64::MAX;
        let short = clock.median("short", || work(10)).unwrap();
        let long = clock.median("long", || work(10_000)).unwrap();
        assert!(short > Duration::ZERO && long > 10 * short, "{short:?} {long:?}");
        assert!(clock.median("failing", || false).is_err());
    }
}
