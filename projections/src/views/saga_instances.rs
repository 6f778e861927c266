//! The view `saga_instances`: where the saga of every order is, since when, and why it waits or failed.

use chrono::{DateTime, Utc};
use millrace::event::Recorded;
use millrace::projection::{Fold, Poison, Start};
use schemas::order_saga::{OrderSagaEvent, SagaOutcome, SagaStep};

millrace::view_row! {
    /// The saga of an order.
    pub struct SagaInstanceRow in "saga_instances" {
        /// `running`, `compensating`, `stuck`, `completed` or `compensated`.
        status: String,
        /// The step that it is at; null before it was started and after its end.
        step: Option<String>,
        /// How often that step was tried.
        attempt: i64,
        /// Since when it is there.
        since: DateTime<Utc>,
        /// What it waits for where its time is over, and why it is undone where it is.
        reason: Option<String>,
        /// Time of its first event.
        started_at: DateTime<Utc>,
        /// When it ended.
        ended_at: Option<DateTime<Utc>>,
    }
}

/// Folds a saga's events into its row.
pub struct SagaInstances;

/// As it is written in events and views.
pub(super) fn name(step: SagaStep) -> &'static str {
    match step {
        SagaStep::Reserve => "reserve",
        SagaStep::Pay => "pay",
        SagaStep::Confirm => "confirm",
        SagaStep::Refund => "refund",
        SagaStep::Release => "release",
        SagaStep::Cancel => "cancel",
    }
}

impl Fold for SagaInstances {
    const NAME: &'static str = "saga-instances";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../migrations/saga_instances.sql");
    type Event = OrderSagaEvent;
    type Rows = Option<SagaInstanceRow>;

    fn evolve(
        &self,
        row: &mut Option<SagaInstanceRow>,
        event: &Recorded<OrderSagaEvent>,
    ) -> Result<(), Poison> {
        let at = event.metadata.occurred_at;
        let row = row.get_or_insert_with(|| SagaInstanceRow {
            status: "running".to_owned(),
            step: None,
            attempt: 0,
            since: at,
            reason: None,
            started_at: at,
            ended_at: None,
        });
        match &event.event {
            OrderSagaEvent::OrderSagaStarted(_)
            | OrderSagaEvent::OrderSagaFactRecorded(_)
            | OrderSagaEvent::OrderSagaStepDone(_) => {}
            OrderSagaEvent::OrderSagaStepBegun(begun) => {
                let undoes = begun.step >= SagaStep::Refund;
                let status = if undoes { "compensating" } else { "running" };
                status.clone_into(&mut row.status);
                row.step = Some(name(begun.step).to_owned());
                row.attempt = begun.attempt;
                if begun.attempt == 1 {
                    row.since = at;
                    row.reason.clone_from(&begun.reason);
                }
            }
            OrderSagaEvent::OrderSagaStepFailed(failed) => {
                row.reason = Some(failed.reason.clone());
            }
            OrderSagaEvent::OrderSagaStepOverdue(overdue) => {
                row.reason = Some(format!("no answer in time from {}", overdue.waits_for));
                if overdue.given_up {
                    "stuck".clone_into(&mut row.status);
                }
            }
            OrderSagaEvent::OrderSagaEnded(ended) => {
                let status = match ended.outcome {
                    SagaOutcome::Completed => "completed",
                    SagaOutcome::Compensated => "compensated",
                };
                status.clone_into(&mut row.status);
                row.step = None;
                row.attempt = 0;
                row.since = at;
                row.reason.clone_from(&ended.reason);
                row.ended_at = Some(at);
            }
        }
        Ok(())
    }
}
