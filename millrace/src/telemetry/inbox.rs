//! Commands from Kafka: how each ended, and how far the inbox is behind.

use std::sync::Arc;

use metrics::{Counter, counter};

use super::Metric;
use super::consumers::Group;
use crate::command::inbox::CommandOutcome;

pub(super) const METRICS: &[Metric] = &[COMMANDS];

const COMMANDS: Metric = Metric::counter(
    "millrace_inbox_commands_total",
    &["aggregate", "outcome"],
    "Commands that came by Kafka; outcome is accepted, rejected, conflict or dead_letter. A repeat counts as what it is answered with.",
);

/// Watches the inbox of one aggregate type.
pub(crate) struct Observed {
    /// How far its consumer is.
    pub(crate) group: Arc<Group>,
    accepted: Counter,
    rejected: Counter,
    conflict: Counter,
    dead_letter: Counter,
}

impl Observed {
    pub(crate) fn of(aggregate: &'static str, group: &str) -> Self {
        let commands = |outcome: &'static str| counter!(COMMANDS.name, "aggregate" => aggregate, "outcome" => outcome);
        Self {
            group: Group::of(group),
            accepted: commands("accepted"),
            rejected: commands("rejected"),
            conflict: commands("conflict"),
            dead_letter: commands("dead_letter"),
        }
    }

    /// One was answered.
    pub(crate) fn answered(&self, outcome: CommandOutcome) {
        match outcome {
            CommandOutcome::Accepted => self.accepted.increment(1),
            CommandOutcome::Rejected => self.rejected.increment(1),
            CommandOutcome::Conflict => self.conflict.increment(1),
        }
    }

    /// One became a dead letter.
    pub(crate) fn dead_letter(&self) {
        self.dead_letter.increment(1);
    }
}
