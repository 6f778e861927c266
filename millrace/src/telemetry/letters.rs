//! Dead letters: records that a processor or an effect put aside.

use metrics::{Counter, counter};

use super::Metric;

pub(super) const METRICS: &[Metric] = &[LETTERS];

const LETTERS: Metric = Metric::counter(
    "millrace_dead_letters_total",
    &["group", "reason"],
    "Records written to the group's dead letter topic; reason is poison (it failed itself) or blocked (it follows one of its key).",
);

/// Counts the dead letters of one consumer group.
#[derive(Clone)]
pub struct DeadLetters {
    poison: Counter,
    blocked: Counter,
}

impl DeadLetters {
    /// For the group, such as `millrace.processor.reserve-stock`.
    pub fn of(group: &str) -> Self {
        let of = |reason: &'static str| counter!(LETTERS.name, "group" => group.to_owned(), "reason" => reason);
        Self {
            poison: of("poison"),
            blocked: of("blocked"),
        }
    }

    /// Records that failed themselves were written there.
    pub fn poison(&self, records: u64) {
        self.poison.increment(records);
    }

    /// Records that follow a dead letter of their key were written there.
    pub fn blocked(&self, records: u64) {
        self.blocked.increment(records);
    }
}
