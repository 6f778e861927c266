//! Whether an effect gets on: unhealthy is one whose servers are away for long, or that has a stopped partition. An outside
//! that is away is no fault of ours: it stands in the counts.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::failing::Failing;

/// What an effect tells about itself; written by its loops, read by anyone.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failing: Failing,
    stopped: BTreeMap<(String, i32), String>,
    report: HealthReport,
}

/// An effect's health at one moment; counts since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct HealthReport {
    /// False if Kafka, Postgres or the registry is away for longer than allowed, or a partition is stopped.
    pub healthy: bool,
    /// An operator paused it, which is no fault.
    pub paused: bool,
    /// Partitions that it holds.
    pub partitions: usize,
    /// Events claimed.
    pub claimed: u64,
    /// Calls that the outside carried out.
    pub done: u64,
    /// Calls that failed, by class.
    pub failed: BTreeMap<&'static str, u64>,
    /// Rows found uncertain.
    pub uncertain: u64,
    /// Outcome commands produced.
    pub commands: u64,
    /// Dead letters produced.
    pub dead_letters: u64,
    /// What is wrong, one sentence each.
    pub errors: Vec<String>,
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .lock()
            .expect("no thread panics while it holds the health")
    }

    /// How it is; what fails for less than `grace` is not unhealthy yet.
    pub(super) fn report(&self, grace: Duration) -> HealthReport {
        let state = self.state();
        let overdue = state.failing.is_overdue(grace);
        let failing = state.failing.error().map(str::to_owned);
        HealthReport {
            healthy: !overdue && state.stopped.is_empty(),
            errors: failing
                .into_iter()
                .chain(state.stopped.values().cloned())
                .collect(),
            ..state.report.clone()
        }
    }

    pub(super) fn failed(&self, error: String) {
        self.state().failing.failed(error);
    }

    pub(super) fn recovered(&self) {
        self.state().failing.recovered();
    }

    pub(super) fn is_failing(&self) -> bool {
        self.state().failing.is_failing()
    }

    pub(super) fn stopped(&self, key: (String, i32), reason: String) {
        self.state().stopped.insert(key, reason);
    }

    pub(super) fn released(&self, key: &(String, i32)) {
        self.state().stopped.remove(key);
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.state().report.paused = paused;
    }

    pub(super) fn set_partitions(&self, partitions: usize) {
        self.state().report.partitions = partitions;
    }

    pub(super) fn claimed(&self, rows: u64) {
        let mut state = self.state();
        state.failing.recovered();
        state.report.claimed += rows;
    }

    /// Changes the counts.
    pub(super) fn count(&self, change: impl FnOnce(&mut HealthReport)) {
        change(&mut self.state().report);
    }
}
