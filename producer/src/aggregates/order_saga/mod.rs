//! The saga of one order that is paid at the gateway and says `orchestration`; the order's id is the aggregate's.
//!
//! reserve -> pay -> confirm, and the order is confirmed. Where a step cannot be carried out, what was done is undone in
//! reverse: refund, release, cancel. A saga acts by its events alone: the flow `saga-steps` makes commands of
//! [`OrderSagaStepBegun`], and what stock, payment and order say to them comes back as [`SagaFact`]s. So it survives a kill at every
//! moment: what was decided stands in the journal, and what follows from it is sent again under the same ids.
//!
//! Nothing of it waits for ever. Each step has a time limit, a timer of the library's ([`SagaOptions`]), so a saga wakes by itself:
//! - *reserve* and *pay* fail when their time is over, and are undone;
//! - *refund*, *release* and *cancel* must be carried out: they are tried again, [`ATTEMPTS_MAX`] times, and then given up until an
//!   operator says [`ResumeOrderSaga`] or the answer comes after all;
//! - *confirm* is where there is no way back by itself: once the confirmation was sent the order may be confirmed. So when its time is
//!   over the order is asked to expire, which it does unless it was confirmed, and its word counts.
//!
//! Invariant: money is given back only before the confirmation was sent, or after the order said that it is cancelled. An order
//! with a saga cannot be confirmed by anybody else, so none is confirmed with its money gone.
//!
//! The schedules that would break it, each with its test:
//! - *A confirmation that is slow*: sent, its time over, the money refunded, and then the order confirms itself.
//!   (`a_confirmation_that_has_no_answer_is_left_to_the_order`)
//! - *A reservation that is slow*: its time over, the goods released, and then set aside. Both commands have one key and keep their
//!   order, and the release waits for both answers. (`a_product_that_never_answered_is_released_when_it_has`)
//! - *An order cancelled by hand in the middle*: whatever step it is at, all is undone, and the cancellation is not asked for again.
//!   (`an_order_that_is_cancelled_by_hand_is_undone_from_any_step`)
//! - *An answer before its question*: the payment may hear of a cancelled order, and fail, before this saga was started. Facts are kept
//!   from the first on. (`what_came_before_the_start_counts`)
//! - *A timer that fires in the moment of the answer*: it names step and attempt, and those of another one change nothing.
//!   (`a_timer_of_a_step_that_is_over_changes_nothing`)

mod limits;

use std::collections::BTreeMap;

use millrace::aggregate::{Aggregate, Context};
use millrace::timer::TimerChange;
use schemas::order::ProductQuantity;
use schemas::order_saga::*;
use serde::{Deserialize, Serialize};

pub use limits::SagaOptions;

/// How often a step that must be carried out is tried before it waits for an operator.
const ATTEMPTS_MAX: i64 = 8;

/// Most products that are named where a saga says what it waits for.
const NAMED_MAX: usize = 5;

/// Why a saga does not do what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Nothing to move on.
    #[error("an order without products or without a price has no saga")]
    Nothing,
    /// It goes on by itself.
    #[error("the saga has given up no step")]
    NotGivenUp,
}

/// What became of a product's goods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Goods {
    /// They were asked for, or will be.
    Asked,
    /// They are set aside.
    Reserved,
    /// Nothing is set aside: refused, not tracked, or given back.
    Free,
    /// There are too few.
    Refused,
}

/// Goods that are set aside, or may be.
const UNSETTLED: [Goods; 2] = [Goods::Asked, Goods::Reserved];

/// What became of the money.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Money {
    #[default]
    Open,
    Received,
    /// Not charged, or given back.
    None,
}

/// What became of the order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    #[default]
    Placed,
    Confirmed,
    Cancelled,
}

/// Where a saga is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    /// Not started.
    #[default]
    New,
    /// The step is to be begun; never so between two commands.
    Begin { step: SagaStep, attempt: i64 },
    /// The step waits for its answers.
    In {
        step: SagaStep,
        attempt: i64,
        given_up: bool,
    },
    /// It is to end; never so between two commands.
    End(SagaOutcome),
    /// It has ended.
    Ended,
}

/// The saga of an order, as far as a decision reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OrderSaga {
    stage: Stage,
    customer_id: String,
    currency: String,
    due_cents: i64,
    products: Vec<ProductQuantity>,
    goods: BTreeMap<String, Goods>,
    money: Money,
    order: Order,
    /// Why all is undone, or would be.
    reason: Option<String>,
}

impl Aggregate for OrderSaga {
    type Command = OrderSagaCommand;
    type Event = OrderSagaEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 1;

    fn decide(
        &self,
        command: OrderSagaCommand,
        _: &Context,
    ) -> Result<Vec<OrderSagaEvent>, Rejection> {
        let first = match command {
            OrderSagaCommand::StartOrderSaga(command) => self.start(command)?,
            OrderSagaCommand::RecordSagaFact(command) => self.record(command),
            OrderSagaCommand::ExpireSagaStep(command) => self.expire(&command),
            OrderSagaCommand::ResumeOrderSaga(ResumeOrderSaga {}) => Some(self.resume()?),
        };
        Ok(first.map_or_else(Vec::new, |event| self.with_what_follows(event)))
    }

    fn evolve(&mut self, event: &OrderSagaEvent) {
        match event {
            OrderSagaEvent::OrderSagaStarted(started) => {
                self.customer_id.clone_from(&started.customer_id);
                self.currency.clone_from(&started.currency);
                self.due_cents = started.due_cents;
                self.products.clone_from(&started.products);
                let ids = started.products.iter().map(|one| one.product_id.clone());
                self.goods = ids.map(|id| (id, Goods::Asked)).collect();
                self.stage = first_try(SagaStep::Reserve);
            }
            OrderSagaEvent::OrderSagaStepBegun(begun) => {
                self.stage = Stage::In {
                    step: begun.step,
                    attempt: begun.attempt,
                    given_up: false,
                };
            }
            OrderSagaEvent::OrderSagaFactRecorded(recorded) => self.learn(recorded),
            OrderSagaEvent::OrderSagaStepDone(done) => self.stage = after(done.step),
            OrderSagaEvent::OrderSagaStepFailed(failed) => {
                self.reason = Some(failed.reason.clone());
                self.stage = first_try(match failed.step {
                    SagaStep::Reserve => SagaStep::Release,
                    _ => SagaStep::Refund,
                });
            }
            OrderSagaEvent::OrderSagaStepOverdue(overdue) => {
                let (step, attempt) = (overdue.step, overdue.attempt);
                self.stage = match overdue.given_up {
                    true => Stage::In {
                        step,
                        attempt,
                        given_up: true,
                    },
                    false => Stage::Begin {
                        step,
                        attempt: attempt + 1,
                    },
                };
            }
            OrderSagaEvent::OrderSagaEnded(_) => self.stage = Stage::Ended,
        }
    }

    fn timers(event: &OrderSagaEvent) -> Vec<TimerChange<OrderSagaCommand>> {
        limits::timers(event)
    }
}

fn first_try(step: SagaStep) -> Stage {
    Stage::Begin { step, attempt: 1 }
}

fn after(step: SagaStep) -> Stage {
    match step {
        SagaStep::Reserve => first_try(SagaStep::Pay),
        SagaStep::Pay => first_try(SagaStep::Confirm),
        SagaStep::Confirm => Stage::End(SagaOutcome::Completed),
        SagaStep::Refund => first_try(SagaStep::Release),
        SagaStep::Release => first_try(SagaStep::Cancel),
        SagaStep::Cancel => Stage::End(SagaOutcome::Compensated),
    }
}

impl OrderSaga {
    fn start(&self, command: StartOrderSaga) -> Result<Option<OrderSagaEvent>, Rejection> {
        let StartOrderSaga {
            customer_id,
            currency,
            due_cents,
            products,
        } = command;
        if products.is_empty() || due_cents <= 0 {
            return Err(Rejection::Nothing);
        }
        let started = || OrderSagaStarted {
            customer_id,
            currency,
            due_cents,
            products,
        };
        Ok((self.stage == Stage::New).then(|| started().into()))
    }

    /// Keeps a fact that says something new.
    fn record(&self, command: RecordSagaFact) -> Option<OrderSagaEvent> {
        let RecordSagaFact {
            fact,
            product_id,
            detail,
        } = command;
        let recorded = OrderSagaFactRecorded {
            fact,
            product_id,
            detail,
        };
        let mut next = self.clone();
        next.learn(&recorded);
        let news = next != *self && self.stage != Stage::Ended;
        news.then(|| recorded.into())
    }

    fn learn(&mut self, recorded: &OrderSagaFactRecorded) {
        let product = recorded.product_id.as_deref().unwrap_or_default();
        let goods = self.goods.get_mut(product);
        let reason = recorded.detail.as_deref();
        match (recorded.fact, goods) {
            (SagaFact::ProductReserved, Some(goods @ Goods::Asked)) => *goods = Goods::Reserved,
            (SagaFact::ProductUntracked, Some(goods @ Goods::Asked)) => *goods = Goods::Free,
            (SagaFact::ProductRefused, Some(goods @ Goods::Asked)) => {
                *goods = Goods::Refused;
                self.because("out of stock", reason);
            }
            (SagaFact::ProductReleased, Some(goods @ Goods::Reserved)) => *goods = Goods::Free,
            (SagaFact::PaymentReceived, _) if self.money == Money::Open => {
                self.money = Money::Received;
            }
            (SagaFact::PaymentFailed | SagaFact::PaymentRefunded, _)
                if self.money != Money::None =>
            {
                self.money = Money::None;
                self.because("no payment", reason);
            }
            (SagaFact::OrderConfirmed, _) if self.order == Order::Placed => {
                self.order = Order::Confirmed;
            }
            (SagaFact::OrderCancelled, _) if self.order != Order::Cancelled => {
                self.order = Order::Cancelled;
                self.because("the order was cancelled", reason);
            }
            _ => {}
        }
    }

    /// The first reason is the one that counts; what follows it are its consequences.
    fn because(&mut self, what: &str, detail: Option<&str>) {
        self.reason.get_or_insert_with(|| match detail {
            Some(detail) => format!("{what}: {detail}"),
            None => what.to_owned(),
        });
    }

    fn expire(&self, command: &ExpireSagaStep) -> Option<OrderSagaEvent> {
        let &ExpireSagaStep { step, attempt } = command;
        let waiting = Stage::In {
            step,
            attempt,
            given_up: false,
        };
        if self.stage != waiting {
            return None;
        }
        let waits_for = self.waits_for(step);
        Some(match step {
            SagaStep::Reserve | SagaStep::Pay => OrderSagaStepFailed {
                step,
                reason: format!("no answer in time from {waits_for}"),
            }
            .into(),
            SagaStep::Confirm | SagaStep::Refund | SagaStep::Release | SagaStep::Cancel => {
                OrderSagaStepOverdue {
                    step,
                    attempt,
                    waits_for,
                    given_up: attempt % ATTEMPTS_MAX == 0,
                }
                .into()
            }
        })
    }

    fn resume(&self) -> Result<OrderSagaEvent, Rejection> {
        match self.stage {
            Stage::In {
                step,
                attempt,
                given_up: true,
            } => Ok(self.begun(step, attempt + 1)),
            _ => Err(Rejection::NotGivenUp),
        }
    }

    fn waits_for(&self, step: SagaStep) -> String {
        match step {
            SagaStep::Reserve | SagaStep::Release => {
                let unanswered = match step {
                    SagaStep::Reserve => [Goods::Asked].as_slice(),
                    _ => &UNSETTLED,
                };
                let open = self.products_that_are(unanswered);
                let named: Vec<&str> = open.iter().map(|one| one.product_id.as_str()).collect();
                let (first, rest) = named.split_at(named.len().min(NAMED_MAX));
                let more = match rest.len() {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                format!("the stock of {}{more}", first.join(", "))
            }
            SagaStep::Pay | SagaStep::Refund => "the payment".to_owned(),
            SagaStep::Confirm | SagaStep::Cancel => "the order".to_owned(),
        }
    }

    fn products_that_are(&self, wanted: &[Goods]) -> Vec<ProductQuantity> {
        let is_wanted = |one: &&ProductQuantity| {
            let goods = self.goods.get(&one.product_id);
            goods.is_some_and(|goods| wanted.contains(goods))
        };
        self.products.iter().filter(is_wanted).cloned().collect()
    }

    fn with_what_follows(&self, first: OrderSagaEvent) -> Vec<OrderSagaEvent> {
        let mut next = self.clone();
        let mut events = Vec::new();
        let mut following = Some(first);
        while let Some(event) = following {
            next.evolve(&event);
            events.push(event);
            following = next.following();
        }
        events
    }

    /// What happens by itself from here; nothing where an answer is missing.
    fn following(&self) -> Option<OrderSagaEvent> {
        match self.stage {
            Stage::New | Stage::Ended => None,
            Stage::Begin { step, attempt } => Some(self.begun(step, attempt)),
            Stage::In { step, .. } => self.outcome(step),
            Stage::End(outcome) => {
                let reason = match outcome {
                    SagaOutcome::Completed => None,
                    SagaOutcome::Compensated => self.reason.clone(),
                };
                Some(OrderSagaEnded { outcome, reason }.into())
            }
        }
    }

    fn begun(&self, step: SagaStep, attempt: i64) -> OrderSagaEvent {
        let products = match step {
            SagaStep::Reserve | SagaStep::Release => self.products_that_are(&UNSETTLED),
            SagaStep::Pay | SagaStep::Confirm | SagaStep::Refund | SagaStep::Cancel => Vec::new(),
        };
        let undoes = step >= SagaStep::Refund;
        OrderSagaStepBegun {
            step,
            attempt,
            reason: self.reason.clone().filter(|_| undoes),
            customer_id: self.customer_id.clone(),
            currency: self.currency.clone(),
            due_cents: self.due_cents,
            products,
        }
        .into()
    }

    /// How a step ended, if it has.
    fn outcome(&self, step: SagaStep) -> Option<OrderSagaEvent> {
        let cancelled = self.order == Order::Cancelled;
        let goods = |of: Goods| self.goods.values().any(|goods| *goods == of);
        let (done, failed) = match step {
            SagaStep::Reserve => (!goods(Goods::Asked), goods(Goods::Refused) || cancelled),
            SagaStep::Pay => (
                self.money == Money::Received,
                self.money == Money::None || cancelled,
            ),
            SagaStep::Confirm => (self.order == Order::Confirmed, cancelled),
            SagaStep::Refund => (self.money == Money::None, false),
            SagaStep::Release => (!goods(Goods::Asked) && !goods(Goods::Reserved), false),
            SagaStep::Cancel => (cancelled, false),
        };
        if failed {
            let reason = self.reason.clone().unwrap_or_default();
            return Some(OrderSagaStepFailed { step, reason }.into());
        }
        done.then(|| OrderSagaStepDone { step }.into())
    }
}

#[cfg(test)]
mod tests;
