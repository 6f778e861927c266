//! What goes wrong right now: a passing failure of a loop, and how long it has lasted.

use std::time::{Duration, Instant};

/// Nothing, or the newest error of a failure that has not ended.
#[derive(Debug, Default)]
pub(crate) struct Failing(Option<(Instant, String)>);

impl Failing {
    /// It failed, perhaps not for the first time: the failure counts from its first error.
    pub(crate) fn failed(&mut self, error: String) {
        match &mut self.0 {
            Some((_, last)) => *last = error,
            None => self.0 = Some((Instant::now(), error)),
        }
    }

    /// It got on.
    pub(crate) fn recovered(&mut self) {
        self.0 = None;
    }

    /// True while it lasts.
    pub(crate) fn is_failing(&self) -> bool {
        self.0.is_some()
    }

    /// The newest error.
    pub(crate) fn error(&self) -> Option<&str> {
        self.0.as_ref().map(|(_, error)| error.as_str())
    }

    /// True if it has lasted for as long as this.
    pub(crate) fn is_overdue(&self, grace: Duration) -> bool {
        self.0
            .as_ref()
            .is_some_and(|(since, _)| since.elapsed() >= grace)
    }
}
