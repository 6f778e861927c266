//! Whether a processor gets on: unhealthy is one that is behind and makes no progress.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::engine::Step;
use crate::failing::Failing;

/// What a processor tells about itself; written by its thread, read by anyone.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// What fails now, and since when; cleared by progress, or when there is none to make and Kafka answers.
    failing: Failing,
    last_error: Option<String>,
    partitions: usize,
    waiting: usize,
    blocked_keys: usize,
    handled: u64,
    emitted: u64,
    dead_letters: u64,
    transactions: u64,
}

/// A processor's health at one moment.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct ProcessorReport {
    /// Its name.
    pub name: String,
    /// False if it has events that it could not handle for longer than allowed.
    pub healthy: bool,
    /// Partitions that this member holds.
    pub partitions: usize,
    /// Events that were read and not handled yet.
    pub waiting: usize,
    /// Keys with dead letters, on the partitions that it holds.
    pub blocked_keys: usize,
    /// Events handled since it started.
    pub handled: u64,
    /// Commands and integration events emitted since it started.
    pub emitted: u64,
    /// Dead letters written since it started.
    pub dead_letters: u64,
    /// Transactions committed since it started.
    pub transactions: u64,
    /// What is wrong now.
    pub error: Option<String>,
    /// The newest error, whether or not it is over.
    pub last_error: Option<String>,
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .lock()
            .expect("no thread panics while it holds the health")
    }

    /// How it is; what fails for less than `grace` is not unhealthy yet.
    pub(super) fn report(&self, name: &str, grace: Duration) -> ProcessorReport {
        let state = self.state();
        ProcessorReport {
            name: name.to_owned(),
            healthy: !state.failing.is_overdue(grace),
            partitions: state.partitions,
            waiting: state.waiting,
            blocked_keys: state.blocked_keys,
            handled: state.handled,
            emitted: state.emitted,
            dead_letters: state.dead_letters,
            transactions: state.transactions,
            error: state.failing.error().map(str::to_owned),
            last_error: state.last_error.clone(),
        }
    }

    pub(super) fn failed(&self, error: String) {
        let mut state = self.state();
        state.last_error = Some(error.clone());
        state.failing.failed(error);
    }

    pub(super) fn recovered(&self) {
        self.state().failing.recovered();
    }

    pub(super) fn is_failing(&self) -> bool {
        self.state().failing.is_failing()
    }

    /// A step is committed. Events that are tried again do not count as a failure of the processor before their last try.
    pub(super) fn committed(&self, step: &Step) {
        let mut state = self.state();
        state.failing.recovered();
        state.transactions += 1;
        state.handled += step.handled as u64;
        state.emitted += step.emitted as u64;
        state.dead_letters += step.letters as u64;
    }

    /// A handler failed; no failure of the processor itself.
    pub(super) fn noted(&self, error: &str) {
        self.state().last_error = Some(error.to_owned());
    }

    pub(super) fn set_counts(&self, partitions: usize, waiting: usize, blocked_keys: usize) {
        let mut state = self.state();
        state.partitions = partitions;
        state.waiting = waiting;
        state.blocked_keys = blocked_keys;
    }
}
