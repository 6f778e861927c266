//! For how long a saga waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use millrace::timer::TimerChange;
use schemas::order_saga::{ExpireSagaStep, OrderSagaCommand, OrderSagaEvent, SagaStep};

/// Name of the timer; a saga has one step at a time.
const TIMER: &str = "step";

/// A quarter of an hour: longer than a payment may take to be charged, so that a charge is usually given up before its step is.
const TIMEOUT_MS: u64 = 900_000;

static STEP: AtomicU64 = AtomicU64::new(TIMEOUT_MS);
static COMPENSATION: AtomicU64 = AtomicU64::new(TIMEOUT_MS);

/// Settings of order sagas.
#[derive(Debug, Clone, clap::Args)]
pub struct SagaOptions {
    /// How long a saga waits in each step that moves its order on. Steps that were begun before a change keep the time that
    /// they were given.
    #[arg(long, env = "ORDER_SAGA_STEP_TIMEOUT_MS", default_value_t = TIMEOUT_MS, value_parser = clap::value_parser!(u64).range(1..=31_536_000_000))]
    pub order_saga_step_timeout_ms: u64,
    /// How long a saga waits in each step that undoes something, before it is tried again.
    #[arg(long, env = "ORDER_SAGA_COMPENSATION_TIMEOUT_MS", default_value_t = TIMEOUT_MS, value_parser = clap::value_parser!(u64).range(1..=31_536_000_000))]
    pub order_saga_compensation_timeout_ms: u64,
}

impl SagaOptions {
    /// Makes them this process's. A step's time stands in the journal beside its event, so nothing that is replayed depends on
    /// them.
    pub fn apply(&self) {
        STEP.store(self.order_saga_step_timeout_ms, Ordering::Relaxed);
        COMPENSATION.store(self.order_saga_compensation_timeout_ms, Ordering::Relaxed);
    }
}

/// What an event does to the timer. A step that follows in the same moment sets it anew.
pub(super) fn timers(event: &OrderSagaEvent) -> Vec<TimerChange<OrderSagaCommand>> {
    match event {
        OrderSagaEvent::OrderSagaStepBegun(begun) => {
            let limit = match begun.step {
                SagaStep::Reserve | SagaStep::Pay | SagaStep::Confirm => &STEP,
                SagaStep::Refund | SagaStep::Release | SagaStep::Cancel => &COMPENSATION,
            };
            let after = Duration::from_millis(limit.load(Ordering::Relaxed));
            let expire = ExpireSagaStep {
                step: begun.step,
                attempt: begun.attempt,
            };
            vec![TimerChange::set(TIMER, after, expire)]
        }
        OrderSagaEvent::OrderSagaStepDone(_)
        | OrderSagaEvent::OrderSagaStepFailed(_)
        | OrderSagaEvent::OrderSagaEnded(_) => vec![TimerChange::cancel(TIMER)],
        OrderSagaEvent::OrderSagaStarted(_)
        | OrderSagaEvent::OrderSagaFactRecorded(_)
        | OrderSagaEvent::OrderSagaStepOverdue(_) => Vec::new(),
    }
}
