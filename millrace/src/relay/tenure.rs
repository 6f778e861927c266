//! How long a relay may hold the lease without getting anywhere.
//!
//! A renewed lease says that a process lives and reaches Postgres. It says nothing about Kafka. Schedule that breaks
//! on renewals alone: the leader's host loses its way to the brokers, the renewals go on, and a healthy stand-by
//! waits for ever. The same when the relay's thread hangs in a call that the watchdog does not see.
//!
//! Invariant: at twice the lease's time after the holder last got somewhere, it frees the lease with the first
//! error; and after [`HANG_TICKS`] without a step of its thread nothing renews the lease any more. Getting somewhere
//! is a commit, or a whole lease's time at the publisher with nothing to publish. To take a seat is not: a host that
//! reaches some brokers and not others takes its seat again and again.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, JoinHandle};
use uuid::Uuid;

use crate::lease::Lease;

const TICK: Duration = Duration::from_secs(1);
/// Longer than any call takes that ends: the longest, under the watchdog, has 20 s.
const HANG_TICKS: u32 = 60;

/// A lease, and how its holder fares.
pub(super) struct Tenure {
    pub(super) lease: Lease,
    patience: Duration,
    progress_at: Cell<Instant>,
    steps: Arc<AtomicU64>,
    guard: JoinHandle<()>,
}

impl Tenure {
    /// Begins now. Must run inside a runtime, which then watches for a hang.
    pub(super) fn begin(lease: Lease, ttl: Duration) -> Self {
        let steps = Arc::new(AtomicU64::new(0));
        let guard = tokio::spawn(guard(Arc::clone(&steps), lease.renewals(), TICK));
        Self {
            lease,
            patience: 2 * ttl,
            progress_at: Cell::new(Instant::now()),
            steps,
            guard,
        }
    }

    /// The thread is alive: to be called between any two calls that may hang.
    pub(super) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// The holder got somewhere.
    pub(super) fn progress(&self) {
        self.step();
        self.progress_at.set(Instant::now());
    }

    /// True when, after an error, someone else should try.
    pub(super) fn is_exhausted(&self) -> bool {
        self.progress_at.get().elapsed() >= self.patience
    }

    /// Ends the watch; the lease is still held.
    pub(super) fn end(self) -> Lease {
        self.guard.abort();
        self.lease
    }
}

/// Ends the renewals when no step was made for [`HANG_TICKS`]. Ticks are counted, not time: a process that was
/// stopped did not hang.
async fn guard(steps: Arc<AtomicU64>, renewals: AbortHandle, tick: Duration) {
    let (mut seen, mut ticks) = (0, 0);
    while !renewals.is_finished() {
        tokio::time::sleep(tick).await;
        let now = steps.load(Ordering::Relaxed);
        ticks = if now == seen { ticks + 1 } else { 0 };
        seen = now;
        if ticks >= HANG_TICKS {
            tracing::error!(
                "the relay's thread has hung for {HANG_TICKS} s: its lease is not renewed any more, another relay takes over"
            );
            renewals.abort();
        }
    }
}

/// How long to wait after the lease was freed: every stand-by asks at least twice meanwhile. With jitter, or two
/// relays that both reach nothing would move in step.
pub(super) fn pause_after_giving_up(standby_pause: Duration) -> Duration {
    let jitter = Uuid::now_v7().as_u128() % standby_pause.as_millis().max(1);
    4 * standby_pause + Duration::from_millis(jitter as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(1);

    fn renewing() -> JoinHandle<()> {
        tokio::spawn(std::future::pending())
    }

    #[tokio::test]
    async fn a_thread_that_makes_no_step_loses_its_renewals() {
        let renewals = renewing();
        guard(Arc::default(), renewals.abort_handle(), QUICK).await;
        assert!(renewals.await.is_err_and(|error| error.is_cancelled()));
    }

    #[tokio::test]
    async fn a_thread_that_goes_on_keeps_them() {
        let (steps, renewals) = (Arc::new(AtomicU64::new(0)), renewing());
        let guard = tokio::spawn(guard(Arc::clone(&steps), renewals.abort_handle(), QUICK));
        // Many times as many ticks as a hang has, with a step in each.
        for _ in 0..4 * HANG_TICKS {
            steps.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(QUICK).await;
        }
        assert!(!renewals.is_finished() && !guard.is_finished());
        guard.abort();
        renewals.abort();
    }

    #[test]
    fn who_gave_up_waits_longer_than_a_standby_between_two_tries() {
        let pause = Duration::from_millis(400);
        for _ in 0..100 {
            let waited = pause_after_giving_up(pause);
            assert!(waited >= 4 * pause && waited < 5 * pause, "{waited:?}");
        }
    }
}
