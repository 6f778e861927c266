//! The view `saga_steps`: every step of every order's saga, in the order in which they were begun.

use chrono::{DateTime, Utc};
use millrace::event::Recorded;
use millrace::projection::{Fold, Poison, Rows, Start};
use schemas::order_saga::{OrderSagaEvent, SagaStep};

use super::saga_instances::name;

millrace::view_row! {
    /// A step of a saga.
    pub struct SagaStepRow in "saga_steps" {
        key {
            /// Which step of the saga, from 1.
            number: i64,
        }
        /// `reserve`, `pay`, `confirm`, `refund`, `release` or `cancel`.
        step: String,
        /// `waiting`, `overdue`, `given_up`, `done` or `failed`.
        status: String,
        /// How often it was tried.
        attempts: i64,
        /// When it was begun.
        since: DateTime<Utc>,
        /// What had not answered when its time was over.
        waits_for: Option<String>,
        /// Why it failed, or why it undoes what was done.
        reason: Option<String>,
        /// When it was done or failed.
        ended_at: Option<DateTime<Utc>>,
    }
}

/// Folds a saga's events into a row a step.
pub struct SagaSteps;

impl Fold for SagaSteps {
    const NAME: &'static str = "saga-steps";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../migrations/saga_steps.sql");
    type Event = OrderSagaEvent;
    type Rows = Rows<SagaStepRow>;

    fn evolve(
        &self,
        rows: &mut Rows<SagaStepRow>,
        event: &Recorded<OrderSagaEvent>,
    ) -> Result<(), Poison> {
        let at = event.metadata.occurred_at;
        match &event.event {
            OrderSagaEvent::OrderSagaStepBegun(begun) if begun.attempt == 1 => {
                let number = rows.len() as i64 + 1;
                rows.put(SagaStepRow {
                    number,
                    step: name(begun.step).to_owned(),
                    status: "waiting".to_owned(),
                    attempts: 1,
                    since: at,
                    waits_for: None,
                    reason: begun.reason.clone(),
                    ended_at: None,
                });
            }
            OrderSagaEvent::OrderSagaStepBegun(begun) => change(rows, begun.step, |row| {
                row.attempts = begun.attempt;
                "overdue"
            }),
            OrderSagaEvent::OrderSagaStepDone(done) => change(rows, done.step, |row| {
                row.ended_at = Some(at);
                "done"
            }),
            OrderSagaEvent::OrderSagaStepFailed(failed) => change(rows, failed.step, |row| {
                row.ended_at = Some(at);
                row.reason = Some(failed.reason.clone());
                "failed"
            }),
            OrderSagaEvent::OrderSagaStepOverdue(overdue) => change(rows, overdue.step, |row| {
                row.waits_for = Some(overdue.waits_for.clone());
                if overdue.given_up {
                    "given_up"
                } else {
                    "overdue"
                }
            }),
            OrderSagaEvent::OrderSagaStarted(_)
            | OrderSagaEvent::OrderSagaFactRecorded(_)
            | OrderSagaEvent::OrderSagaEnded(_) => {}
        }
        Ok(())
    }
}

/// Changes the row of a step, which a saga has once. There is none only where an operator skipped its beginning.
fn change(
    rows: &mut Rows<SagaStepRow>,
    step: SagaStep,
    change: impl FnOnce(&mut SagaStepRow) -> &'static str,
) {
    let of_step = rows.iter().find(|row| row.step == name(step));
    let Some(number) = of_step.map(|row| row.number) else {
        return;
    };
    if let Some(row) = rows.get_mut(&(number,)) {
        change(row).clone_into(&mut row.status);
    }
}
