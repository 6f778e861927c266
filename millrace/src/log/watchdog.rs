//! Ends the process when a Kafka call hangs: some transactional calls of librdkafka ignore their timeout.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::log::client::TRANSACTION_TIMEOUT;

const TICK: Duration = Duration::from_millis(500);

/// Counts the calls: odd while one is under way. A thread watches until this is dropped.
#[derive(Debug)]
pub(crate) struct Watchdog {
    calls: Arc<AtomicU64>,
}

impl Watchdog {
    /// Starts watching.
    pub(crate) fn start() -> std::io::Result<Self> {
        let calls = Arc::new(AtomicU64::new(0));
        let watched = Arc::downgrade(&calls);
        std::thread::Builder::new()
            .name("kafka-watchdog".to_owned())
            .spawn(move || {
                // Ticks are counted, not time: a process that was stopped for a minute did not hang in a call.
                let (mut seen, mut ticks) = (0, 0);
                let ticks_max = 2 * TRANSACTION_TIMEOUT.as_millis() / TICK.as_millis();
                loop {
                    std::thread::sleep(TICK);
                    let Some(calls) = watched.upgrade() else { return };
                    let now = calls.load(Ordering::Acquire);
                    ticks = if now % 2 == 1 && now == seen { ticks + 1 } else { 0 };
                    seen = now;
                    if ticks > ticks_max {
                        tracing::error!(
                            "a transactional call to kafka has hung for twice the transaction timeout: aborting the process, another one takes over"
                        );
                        std::process::abort();
                    }
                }
            })?;
        Ok(Self { calls })
    }

    /// Runs one call under watch.
    pub(crate) fn watch<T>(&self, call: impl FnOnce() -> T) -> T {
        self.calls.fetch_add(1, Ordering::AcqRel);
        let result = call();
        self.calls.fetch_add(1, Ordering::AcqRel);
        result
    }
}
