//! An order's money, where it is paid at the gateway.
//!
//! Invariant: such an order is confirmed only with its money, and one that is cancelled says at once that it takes none
//! ([`OrderPaymentWithdrawn`]). Both are decided here, on one version of the order, so no order is both; what the payment makes of it
//! stands in [`crate::aggregates::payment`].
//!
//! - With `choreography` the order confirms itself when the last of goods and money has come.
//! - With `orchestration` its saga says when ([`ConfirmPaidOrder`]); the stock's and the payment's answers are that one's.
//! - A confirmation by hand is refused. (Broken by one that comes while the saga gives the money back.)
//! - Money that goes back after the confirmation cancels the order, unless it was shipped: then it was a favour.

use std::sync::atomic::{AtomicBool, Ordering};

use schemas::order::*;
use serde::{Deserialize, Serialize};

use super::{Order, Rejection, Status};

/// What an order knows of its money.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Money {
    /// It waits for none.
    #[default]
    NotDue,
    /// It waits for it, or leaves that to its saga.
    Due,
    /// It came.
    Received,
}

/// [`PaymentMethod`] as a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OrderPayment {
    /// Outside of this system.
    Invoice,
    /// At the gateway.
    Gateway,
}

static GATEWAY: AtomicBool = AtomicBool::new(false);

pub(super) fn set_default(payment: OrderPayment) {
    GATEWAY.store(payment == OrderPayment::Gateway, Ordering::Relaxed);
}

/// What is to be paid at the gateway. Nothing for an order that costs nothing: a gateway charges no zero.
pub(super) fn due(placed: &OrderPlaced, method: Option<PaymentMethod>) -> Option<OrderPaymentDue> {
    let by_default = match GATEWAY.load(Ordering::Relaxed) {
        true => PaymentMethod::Gateway,
        false => PaymentMethod::Invoice,
    };
    let amount_cents = total(&placed.lines);
    if method.unwrap_or(by_default) == PaymentMethod::Invoice || amount_cents == 0 {
        return None;
    }
    Some(OrderPaymentDue {
        customer_id: placed.customer_id.clone(),
        currency: placed.currency.clone(),
        amount_cents,
        coordination: placed.coordination,
        products: ProductQuantity::of(&placed.lines),
    })
}

/// What lines cost that were checked: the sum fits.
fn total(lines: &[OrderLine]) -> i64 {
    lines.iter().map(|line| line.total_cents).sum()
}

impl Order {
    pub(super) fn record_payment(
        &self,
        command: &RecordPayment,
    ) -> Result<Vec<OrderEvent>, Rejection> {
        let amount_cents = self.must_cost(command.amount_cents)?;
        let waits = self.status == Status::Placed
            && self.coordination == Coordination::Choreography
            && self.money == Money::Due;
        if !waits {
            return Ok(Vec::new());
        }
        let mut events = vec![OrderPaymentRecorded { amount_cents }.into()];
        if self.awaited.is_empty() {
            events.extend(self.confirmed());
        }
        Ok(events)
    }

    pub(super) fn record_payment_failure(
        &self,
        command: &RecordPaymentFailure,
    ) -> Result<Vec<OrderEvent>, Rejection> {
        self.must_have_been_placed()?;
        if self.money == Money::NotDue {
            return Err(Rejection::NoPaymentDue);
        }
        let ends = match self.status {
            Status::Placed => self.coordination == Coordination::Choreography,
            Status::Confirmed => true,
            _ => false,
        };
        if !ends {
            return Ok(Vec::new());
        }
        Ok(self.cancelled(format!("payment: {}", command.reason)))
    }

    pub(super) fn confirm_paid(
        &self,
        command: &ConfirmPaidOrder,
    ) -> Result<Vec<OrderEvent>, Rejection> {
        self.must_cost(command.paid_cents)?;
        match self.status {
            Status::Placed if self.coordination == Coordination::Orchestration => {
                Ok(self.confirmed().collect())
            }
            Status::Confirmed => Ok(Vec::new()),
            _ => Err(self.wrong("placed, with orchestration")),
        }
    }

    /// The order's total, if that was paid.
    fn must_cost(&self, paid: i64) -> Result<i64, Rejection> {
        self.must_have_been_placed()?;
        if self.money == Money::NotDue {
            return Err(Rejection::NoPaymentDue);
        }
        let due = total(&self.lines);
        if paid == due {
            Ok(due)
        } else {
            Err(Rejection::OtherAmount { paid, due })
        }
    }

    pub(super) fn confirmed(&self) -> impl Iterator<Item = OrderEvent> {
        let paid = (self.money != Money::NotDue).then(|| OrderPaid {
            customer_id: self.customer_id.clone(),
            currency: self.currency.clone(),
            amount_cents: total(&self.lines),
            coordination: self.coordination,
        });
        let customer_id = self.customer_id.clone();
        let confirmed = OrderConfirmed { customer_id };
        std::iter::once(confirmed.into()).chain(paid.map(OrderEvent::from))
    }

    /// That it takes no money any longer, where it took any.
    pub(super) fn withdrawn(&self, reason: &str) -> Option<OrderEvent> {
        (self.money != Money::NotDue).then(|| {
            OrderPaymentWithdrawn {
                reason: reason.to_owned(),
                coordination: self.coordination,
            }
            .into()
        })
    }
}
