//! Commands: how long each took, by aggregate type and outcome.

use std::sync::Arc;
use std::time::Instant;

use metrics::{Histogram, Unit, histogram};
use tracing::Span;

use super::{Metric, trace};
use crate::command::{Accepted, CommandError, Envelope};

pub(super) const METRICS: &[Metric] = &[DURATION];

const DURATION: Metric = Metric::histogram(
    "millrace_command_duration_seconds",
    Unit::Seconds,
    &["aggregate", "outcome"],
    "Time from a command's arrival at its handler to its answer; outcome is accepted, repeated, rejected, conflict, malformed or failure.",
);

const OUTCOMES: [&str; 6] = [
    "accepted",
    "repeated",
    "rejected",
    "conflict",
    "malformed",
    "failure",
];

/// Watches the commands of one aggregate type.
pub(crate) struct Observed {
    aggregate: &'static str,
    durations: [Histogram; 6],
}

impl Observed {
    pub(crate) fn of(aggregate: &'static str) -> Self {
        let of =
            |outcome| histogram!(DURATION.name, "aggregate" => aggregate, "outcome" => outcome);
        Self {
            aggregate,
            durations: OUTCOMES.map(of),
        }
    }

    /// A command has arrived; where traces are exported, its trace context becomes that of its span.
    pub(crate) fn begin(self: &Arc<Self>, envelope: &mut Envelope) -> Seen {
        Seen {
            observed: Arc::clone(self),
            started: Instant::now(),
            span: trace::command(
                self.aggregate,
                &envelope.command_type,
                &mut envelope.traceparent,
            ),
        }
    }
}

/// A command on its way to its answer.
pub(crate) struct Seen {
    observed: Arc<Observed>,
    started: Instant,
    span: Span,
}

impl Seen {
    /// Counts the answer and hands it on.
    pub(crate) fn end(
        self,
        answer: Result<Accepted, CommandError>,
    ) -> Result<Accepted, CommandError> {
        let outcome = outcome(&answer);
        self.observed.durations[outcome].record(self.started.elapsed());
        self.span.record("outcome", OUTCOMES[outcome]);
        answer
    }
}

/// Index into [`OUTCOMES`].
fn outcome(answer: &Result<Accepted, CommandError>) -> usize {
    match answer {
        Ok(accepted) if !accepted.repeated => 0,
        Ok(_) | Err(CommandError::Rejected { repeated: true, .. }) => 1,
        Err(CommandError::Rejected { .. }) => 2,
        Err(CommandError::Conflict { .. } | CommandError::ReusedId { .. }) => 3,
        Err(
            CommandError::Malformed(_)
            | CommandError::Data(_)
            | CommandError::UnknownAggregate { .. }
            | CommandError::TooLarge { .. },
        ) => 4,
        Err(
            CommandError::Overloaded(_)
            | CommandError::Unavailable(_)
            | CommandError::InDoubt(_)
            | CommandError::Fault(_),
        ) => 5,
    }
}
