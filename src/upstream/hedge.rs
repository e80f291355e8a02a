//! When a second endpoint is asked the same, because the first one is slow to answer.
//!
//! Settings and how long nearly all answers take; who is asked, and which answer counts, `serve` decides.

use std::time::{Duration, Instant};

use super::budget::Budget;
use crate::algo::quantile::Latencies;
use crate::settings;
use crate::value::{Decode, Item, Reader, Share, parse_duration};

settings! {
    /// A second attempt for idempotent requests without a body, while the first one still runs.
    pub struct Settings as "how to hedge" {
        /// `"p95"`: when the first has taken longer than so many per cent of the latest answers; or a time.
        after: After = After::Quantile(0.95),
        /// Of the requests, so many may be asked twice.
        budget: Share = Share::percent(5),
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum After {
    /// Of the latest answers' times to their heads.
    Quantile(f64),
    Time(Duration),
}

impl Decode for After {
    fn decode(item: &Item, reader: &mut Reader<'_>) -> Option<Self> {
        let text = String::decode(item, reader)?;
        let quantile =
            text.strip_prefix('p').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()) && (2..=4).contains(&digits.len()));
        // `p999` is 99.9 per cent.
        let quantile = quantile.and_then(|digits| format!("0.{digits}").parse::<f64>().ok()).filter(|&share| share >= 0.5);
        let time = parse_duration(&text).filter(|time| !time.is_zero());
        let after = quantile.map(Self::Quantile).or(time.map(Self::Time));
        if after.is_none() {
            let help = "write \"p50\" to \"p999\", or a time such as \"20ms\"";
            reader.error(item.place, format!("`{text}` does not say when to ask again")).help(help);
        }
        after
    }
}

/// What a pool knows for hedging.
pub struct Hedging {
    settings: Settings,
    after: After,
    pub budget: Budget,
    /// One for each worker.
    latencies: Box<[Latencies]>,
}

impl Hedging {
    pub fn new(settings: &Settings, workers: usize, now: Instant) -> Self {
        let workers = workers.max(1);
        let budget = Budget::new(settings.budget, workers, now);
        Self { settings: settings.clone(), after: settings.after, budget, latencies: (0..workers).map(|_| Latencies::default()).collect() }
    }

    /// Whether it was made from the same.
    pub fn is_as(&self, settings: &Settings) -> bool {
        self.settings == *settings
    }

    /// How long to wait for the first answer. `None` while too few are known to tell.
    pub fn delay(&self, worker: usize) -> Option<Duration> {
        match self.after {
            After::Time(time) => Some(time),
            After::Quantile(share) => self.latencies[worker % self.latencies.len()].quantile(share),
        }
    }

    pub fn answered(&self, worker: usize, waited: Duration) {
        self.latencies[worker % self.latencies.len()].record(waited);
    }
}
