//! For how long a payment may be charged.

use std::sync::atomic::{AtomicU64, Ordering};

use chrono::TimeDelta;

/// Ten minutes: longer than a gateway is usually away, shorter than anybody waits for an order's confirmation.
const WINDOW_MS: u64 = 600_000;

static WINDOW: AtomicU64 = AtomicU64::new(WINDOW_MS);

/// Settings of payments.
#[derive(Debug, Clone, clap::Args)]
pub struct PaymentOptions {
    /// How long after its request a payment may still be charged; given up then, so that nobody is charged for an order that
    /// they have long forgotten. Payments that were requested before a change keep the time that they were given.
    #[arg(long, env = "PAYMENT_WINDOW_MS", default_value_t = WINDOW_MS, value_parser = clap::value_parser!(u64).range(1..=31_536_000_000))]
    pub payment_window_ms: u64,
}

impl PaymentOptions {
    /// Makes them this process's. A payment's time stands in its event, so nothing that is replayed depends on them.
    pub fn apply(&self) {
        WINDOW.store(self.payment_window_ms, Ordering::Relaxed);
    }
}

pub(super) fn window() -> TimeDelta {
    let window_ms = WINDOW.load(Ordering::Relaxed);
    TimeDelta::milliseconds(i64::try_from(window_ms).unwrap_or(i64::MAX))
}
