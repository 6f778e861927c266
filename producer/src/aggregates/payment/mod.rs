//! The payment of one order; the order's id is the aggregate's.
//!
//! Requested -> charged and so received, or failed; what is not wanted any longer goes back. The gateway is called by an
//! effect, which reads [`PaymentRequested`] and [`PaymentRefundRequested`] and sends what the gateway answered.
//!
//! Invariant: what was charged and not refunded is what the confirmed orders cost. Three aggregates hold it together, each
//! for its own part:
//! - the **order** alone says whether it is confirmed or cancelled, never both at once; one that is paid at the gateway is confirmed
//!   with its money only, and not by hand;
//! - the **payment** says whether a charge is wanted. Once it was told that it is not ([`CancelPayment`]) no charge is
//!   received any more, whenever its answer comes: it is refunded at once;
//! - whoever cancels a payment does so after the order was cancelled, or while it cannot be confirmed (its saga has not yet
//!   sent the confirmation, and nobody else may).
//!
//! The schedules that would break it, each with its test:
//! - *A late charge after a cancel*: requested, cancelled, and then the answer "charged". It is processed and
//!   goes back, and is never received. (`a_charge_that_comes_after_the_cancellation_goes_back`)
//! - *A cancel that overtakes its request*: the commands come from different processors. The payment fails at once and a later
//!   request finds it so: nothing is charged. (`a_payment_that_was_cancelled_first_is_never_requested`)
//! - *A refund racing a late answer*: the gateway answers twice, the second time while or after the charge is refunded. The answer is
//!   known by its charge. (`an_answer_that_comes_again_changes_nothing`)
//! - *An order cancelled by hand after the payment*: received, cancelled: it goes back. (`a_received_payment_that_is_cancelled_goes_back`)
//! - *A charge that was given up and came through*: the effect voids the key at the gateway before it says that nothing was charged,
//!   so none can come. If one does, it goes back. (`a_charge_that_was_given_up_and_came_through_goes_back`)
//! - *The confirmation's timer against the payment*: the order decides which was first. Cancelled by the timer, it takes no money
//!   and cancels the payment; confirmed, the timer changes nothing. (`order::tests`, `an_order_that_expires_gives_its_money_back`)
//! - *A process that dies between charge and answer*: the effect asks the gateway by the call's key; the same key is charged
//!   once. (`tests/tests/commerce`)

mod window;

use millrace::aggregate::{Aggregate, Context};
use schemas::order::Coordination;
use schemas::payment::*;
use serde::{Deserialize, Serialize};

use crate::aggregates::{ID_BYTES_MAX, TOTAL_CENTS_MAX, is_currency};
pub use window::PaymentOptions;

/// Why a payment does not do what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// An amount that cannot be charged.
    #[error("amount is {0} cents, must be from 1 to {TOTAL_CENTS_MAX}")]
    Amount(i64),
    /// Not a currency.
    #[error("currency {0:?} is not an ISO 4217 code: three capital letters")]
    Currency(String),
    /// Nobody's, or an id that cannot be a key.
    #[error("{0} is empty or longer than {ID_BYTES_MAX} bytes")]
    Id(&'static str),
    /// The order's payment was requested with other terms.
    #[error("the payment of {requested} cents was requested already, this one is of {asked}")]
    OtherTerms {
        /// What it is about.
        requested: i64,
        /// What is asked for now.
        asked: i64,
    },
    /// An answer about nothing.
    #[error("no payment was requested")]
    NotRequested,
    /// The gateway took another amount than it was asked to.
    #[error("{charged} cents were charged, {requested} were requested")]
    OtherAmount {
        /// By the gateway.
        charged: i64,
        /// Of the gateway.
        requested: i64,
    },
    /// There is another charge for the order.
    #[error("charge {charge_id} is not the payment's, which is {known}")]
    OtherCharge {
        /// In the answer.
        charge_id: String,
        /// The payment's.
        known: String,
    },
    /// The first word counts.
    #[error("the payment was charged already, as {0}")]
    Charged(String),
    /// Nothing is to be given back.
    #[error("no refund was requested")]
    NoRefund,
}

/// Where a payment is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nobody asked for it.
    #[default]
    New,
    /// It may be charged at any time.
    Requested,
    /// It was charged, and is the order's.
    Received,
    /// It was charged, and goes back.
    Refunding,
    /// It went back.
    Refunded,
    /// It was not charged.
    Failed,
}

/// A payment, as far as a decision reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Payment {
    status: Status,
    /// The money is not wanted any longer; there is no way back from here.
    withdrawn: bool,
    customer_id: String,
    currency: String,
    /// What was requested, and then what was charged.
    amount_cents: i64,
    coordination: Coordination,
    charge_id: String,
}

impl Aggregate for Payment {
    type Command = PaymentCommand;
    type Event = PaymentEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 1;

    fn decide(
        &self,
        command: PaymentCommand,
        context: &Context,
    ) -> Result<Vec<PaymentEvent>, Rejection> {
        match command {
            PaymentCommand::RequestPayment(command) => self.request(command, context),
            PaymentCommand::RecordCharge(charge) => self.record_charge(charge),
            PaymentCommand::RecordChargeFailure(RecordChargeFailure { reason }) => {
                self.record_failure(reason)
            }
            PaymentCommand::CancelPayment(command) => Ok(self.cancel(command)),
            PaymentCommand::RecordRefund(RecordRefund { refund_id }) => {
                self.record_refund(refund_id)
            }
        }
    }

    fn evolve(&mut self, event: &PaymentEvent) {
        match event {
            PaymentEvent::PaymentRequested(requested) => {
                self.status = Status::Requested;
                self.customer_id.clone_from(&requested.customer_id);
                self.currency.clone_from(&requested.currency);
                self.amount_cents = requested.amount_cents;
                self.coordination = requested.coordination;
            }
            PaymentEvent::PaymentProcessed(processed) => {
                self.charge_id.clone_from(&processed.charge_id);
                self.amount_cents = processed.amount_cents;
            }
            PaymentEvent::PaymentReceived(_) => self.status = Status::Received,
            PaymentEvent::PaymentFailed(failed) => {
                self.status = Status::Failed;
                self.coordination = failed.coordination;
            }
            PaymentEvent::PaymentWithdrawn(_) => self.withdrawn = true,
            PaymentEvent::PaymentRefundRequested(_) => self.status = Status::Refunding,
            PaymentEvent::PaymentRefunded(_) => self.status = Status::Refunded,
        }
    }
}

impl Payment {
    fn request(
        &self,
        command: RequestPayment,
        context: &Context,
    ) -> Result<Vec<PaymentEvent>, Rejection> {
        let RequestPayment {
            customer_id,
            currency,
            amount_cents,
            coordination,
        } = command;
        if !(1..=TOTAL_CENTS_MAX).contains(&amount_cents) {
            return Err(Rejection::Amount(amount_cents));
        }
        if !is_currency(&currency) {
            return Err(Rejection::Currency(currency));
        }
        if customer_id.is_empty() || customer_id.len() > ID_BYTES_MAX {
            return Err(Rejection::Id("customer_id"));
        }
        match self.status {
            Status::New => Ok(vec![
                PaymentRequested {
                    customer_id,
                    currency,
                    amount_cents,
                    charge_before: context.now + window::window(),
                    coordination,
                }
                .into(),
            ]),
            // It was cancelled before it was requested, or is requested once more.
            _ if self.customer_id.is_empty() => Ok(Vec::new()),
            _ if self.amount_cents == amount_cents && self.currency == currency => Ok(Vec::new()),
            _ => Err(Rejection::OtherTerms {
                requested: self.amount_cents,
                asked: amount_cents,
            }),
        }
    }

    fn record_charge(&self, charge: RecordCharge) -> Result<Vec<PaymentEvent>, Rejection> {
        let RecordCharge {
            charge_id,
            amount_cents,
        } = charge;
        if charge_id.is_empty() || charge_id.len() > ID_BYTES_MAX {
            return Err(Rejection::Id("charge_id"));
        }
        match self.status {
            Status::New => Err(Rejection::NotRequested),
            Status::Received | Status::Refunding | Status::Refunded => {
                if self.charge_id == charge_id {
                    Ok(Vec::new())
                } else {
                    let known = self.charge_id.clone();
                    Err(Rejection::OtherCharge { charge_id, known })
                }
            }
            Status::Requested | Status::Failed if self.requested_other_than(amount_cents) => {
                Err(Rejection::OtherAmount {
                    charged: amount_cents,
                    requested: self.amount_cents,
                })
            }
            Status::Requested if !self.withdrawn => {
                let processed = self.processed(charge_id, amount_cents);
                let received = PaymentReceived {
                    customer_id: self.customer_id.clone(),
                    currency: self.currency.clone(),
                    amount_cents,
                    coordination: self.coordination,
                };
                Ok(vec![processed, received.into()])
            }
            Status::Requested | Status::Failed => {
                let processed = self.processed(charge_id.clone(), amount_cents);
                Ok(vec![processed, self.refund(charge_id, amount_cents)])
            }
        }
    }

    fn requested_other_than(&self, amount_cents: i64) -> bool {
        !self.customer_id.is_empty() && self.amount_cents != amount_cents
    }

    fn processed(&self, charge_id: String, amount_cents: i64) -> PaymentEvent {
        let currency = self.currency.clone();
        PaymentProcessed {
            charge_id,
            currency,
            amount_cents,
        }
        .into()
    }

    fn refund(&self, charge_id: String, amount_cents: i64) -> PaymentEvent {
        let currency = self.currency.clone();
        PaymentRefundRequested {
            charge_id,
            currency,
            amount_cents,
        }
        .into()
    }

    fn record_failure(&self, reason: String) -> Result<Vec<PaymentEvent>, Rejection> {
        let coordination = self.coordination;
        match self.status {
            Status::New => Err(Rejection::NotRequested),
            Status::Requested => Ok(vec![
                PaymentFailed {
                    reason,
                    coordination,
                }
                .into(),
            ]),
            Status::Failed => Ok(Vec::new()),
            Status::Received | Status::Refunding | Status::Refunded => {
                Err(Rejection::Charged(self.charge_id.clone()))
            }
        }
    }

    fn cancel(&self, command: CancelPayment) -> Vec<PaymentEvent> {
        let CancelPayment {
            reason,
            coordination,
        } = command;
        if self.withdrawn {
            return Vec::new();
        }
        let withdrawn = PaymentWithdrawn {
            reason: reason.clone(),
        };
        match self.status {
            Status::New => {
                let failed = PaymentFailed {
                    reason,
                    coordination,
                };
                vec![withdrawn.into(), failed.into()]
            }
            // The charge may be under way: its answer says whether there is something to give back.
            Status::Requested => vec![withdrawn.into()],
            Status::Received => {
                let refund = self.refund(self.charge_id.clone(), self.amount_cents);
                vec![withdrawn.into(), refund]
            }
            Status::Refunding | Status::Refunded | Status::Failed => Vec::new(),
        }
    }

    fn record_refund(&self, refund_id: String) -> Result<Vec<PaymentEvent>, Rejection> {
        match self.status {
            Status::Refunding => Ok(vec![
                PaymentRefunded {
                    refund_id,
                    customer_id: self.customer_id.clone(),
                    currency: self.currency.clone(),
                    amount_cents: self.amount_cents,
                    coordination: self.coordination,
                }
                .into(),
            ]),
            Status::Refunded => Ok(Vec::new()),
            Status::New | Status::Requested | Status::Received | Status::Failed => {
                Err(Rejection::NoRefund)
            }
        }
    }
}

#[cfg(test)]
mod tests;
