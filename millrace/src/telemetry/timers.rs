//! Timers: what they came to, and whether they are late.

use metrics::{Counter, Gauge, Unit, counter, gauge};

use super::Metric;
use crate::timer::TimerStatus;

pub(super) const METRICS: &[Metric] = &[FIRED, PENDING, LATE];

const FIRED: Metric = Metric::counter(
    "millrace_timers_total",
    &["outcome"],
    "Timers that this process fired; outcome is fired, rejected (the moment had passed), failed (a fault of ours) or again (its end is not known yet).",
);
const PENDING: Metric = Metric::gauge(
    "millrace_timers_pending",
    Unit::Count,
    &[],
    "Timers of the journal that have not fired.",
);
const LATE: Metric = Metric::gauge(
    "millrace_timers_late_seconds",
    Unit::Seconds,
    &[],
    "For how long the oldest timer that is due has been, 0 if none is due.",
);

/// Watches the timers of one process.
pub(crate) struct Observed {
    fired: Counter,
    rejected: Counter,
    failed: Counter,
    again: Counter,
    pending: Gauge,
    late: Gauge,
}

impl Observed {
    pub(crate) fn new() -> Self {
        let fired = |outcome: &'static str| counter!(FIRED.name, "outcome" => outcome);
        Self {
            fired: fired("fired"),
            rejected: fired("rejected"),
            failed: fired("failed"),
            again: fired("again"),
            pending: gauge!(PENDING.name),
            late: gauge!(LATE.name),
        }
    }

    /// What one timer came to; nothing if its end is not known.
    pub(crate) fn fired(&self, state: Option<&str>) {
        match state {
            Some("fired") => self.fired.increment(1),
            Some("rejected") => self.rejected.increment(1),
            Some(_) => self.failed.increment(1),
            None => self.again.increment(1),
        }
    }

    /// How all of them are.
    pub(crate) fn status(&self, status: &TimerStatus) {
        self.pending.set(status.pending as f64);
        let late_ms = status.oldest_due_age_ms.unwrap_or_default();
        self.late.set(late_ms as f64 / 1000.0);
    }
}
