//! Whether a sink gets on: unhealthy is one that is behind and makes no progress.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::failing::Failing;
use crate::telemetry::consumers::Hung;

/// What a sink tells about itself; written by its thread, read by anyone.
#[derive(Debug, Default)]
pub struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// What fails now, and since when; cleared by progress, or when there is none to make and both servers answer.
    failing: Failing,
    /// Partitions that stand still until an operator acts.
    stopped: BTreeMap<(String, i32), String>,
    /// Partitions where a transaction of some producer hangs.
    hung: Vec<Hung>,
    paused: bool,
    partitions: usize,
    applied: u64,
    batches: u64,
}

/// A sink's health at one moment.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct HealthReport {
    /// False if it has records that it could not write for longer than allowed, a stopped partition, or one where a transaction hangs.
    pub healthy: bool,
    /// An operator paused it, which is no fault.
    pub paused: bool,
    /// Partitions that it holds.
    pub partitions: usize,
    /// Events applied since it started.
    pub applied: u64,
    /// Transactions committed since it started.
    pub batches: u64,
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
    pub fn report(&self, grace: Duration) -> HealthReport {
        let state = self.state();
        let overdue = state.failing.is_overdue(grace);
        let failing = state.failing.error().map(str::to_owned);
        HealthReport {
            healthy: !overdue && state.stopped.is_empty() && state.hung.is_empty(),
            paused: state.paused,
            partitions: state.partitions,
            applied: state.applied,
            batches: state.batches,
            errors: failing
                .into_iter()
                .chain(state.stopped.values().cloned())
                .chain(state.hung.iter().map(|hung| hung.reason.clone()))
                .collect(),
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

    pub(super) fn wrote(&self, applied: usize) {
        let mut state = self.state();
        state.failing.recovered();
        state.batches += 1;
        state.applied += applied as u64;
    }

    pub(super) fn stopped(&self, key: (String, i32), reason: String) {
        self.state().stopped.insert(key, reason);
    }

    pub(super) fn released(&self, key: &(String, i32)) {
        self.state().stopped.remove(key);
    }

    pub(super) fn set_hung(&self, hung: Vec<Hung>) {
        self.state().hung = hung;
    }

    /// Where a transaction hangs, and what to do about it.
    pub(super) fn hung(&self) -> BTreeMap<(String, i32), String> {
        let state = self.state();
        let entry = |hung: &Hung| ((hung.topic.clone(), hung.partition), hung.reason.clone());
        state.hung.iter().map(entry).collect()
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.state().paused = paused;
    }

    pub(super) fn set_partitions(&self, partitions: usize) {
        self.state().partitions = partitions;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_only_for_a_moment_is_not_unhealthy_and_progress_clears_it() {
        let health = Health::default();
        health.failed("postgres is away".to_owned());
        assert!(health.report(Duration::from_secs(10)).healthy);
        assert!(!health.report(Duration::ZERO).healthy);
        health.wrote(1);
        assert!(health.report(Duration::ZERO).healthy);
    }

    #[test]
    fn a_stopped_partition_is_unhealthy_until_it_is_released() {
        let health = Health::default();
        let key = ("counter.events".to_owned(), 3);
        health.stopped(key.clone(), "out of range".to_owned());
        assert!(!health.report(Duration::from_secs(10)).healthy);
        health.released(&key);
        assert!(health.report(Duration::ZERO).healthy);
    }
}
