//! An order: draft -> items added -> placed -> confirmed -> shipped -> delivered; cancelled until it is shipped.
//!
//! A placed order waits until the stock of each of its products has answered. When all have set aside what it asks for it
//! confirms itself, at the first shortage it cancels itself, and what is set aside for an order that is cancelled is
//! released by whoever reads the event. An answer that comes later, when the order is cancelled or further on, changes
//! nothing. That holds too for an order that was confirmed by hand ([`ConfirmOrder`]): whoever does that answers for
//! the goods, a shortage does not take it back, and what was set aside is shipped or released with the order.
//!
//! An order that is not confirmed in time ([`OrderOptions`]) cancels itself, whoever coordinates it.
//!
//! An order with `orchestration` leaves the answers to its saga and changes by that one's commands alone.
//!
//! An order that is paid at the gateway ([`PaymentMethod::Gateway`]) is confirmed when goods and money are both there, and not
//! by hand; see [`payment`].

mod checks;
mod expiry;
mod payment;
mod rejection;

use std::collections::BTreeSet;

use millrace::aggregate::{Aggregate, Context};
use millrace::timer::TimerChange;
use schemas::order::*;
use serde::{Deserialize, Serialize};

use checks::{check_currency, check_customer, check_lines, settled};
pub use expiry::OrderOptions;
use payment::Money;
pub use payment::OrderPayment;
pub use rejection::{Rejection, Status};

/// Most lines of one order.
const LINES_MAX: usize = 1000;

/// An order, as far as a decision reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Order {
    status: Status,
    customer_id: String,
    currency: String,
    lines: Vec<OrderLine>,
    coordination: Coordination,
    /// Products of a placed order whose stock has not answered.
    awaited: BTreeSet<String>,
    money: Money,
}

impl Aggregate for Order {
    type Command = OrderCommand;
    type Event = OrderEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 3;

    fn decide(
        &self,
        command: OrderCommand,
        context: &Context,
    ) -> Result<Vec<OrderEvent>, Rejection> {
        let event = match command {
            OrderCommand::DraftOrder(command) => self.draft(command)?,
            OrderCommand::AddItem(command) => self.add_item(command)?,
            OrderCommand::PlaceOrder(command) => return self.place(command, context),
            OrderCommand::RecordReservation(command) => return self.record_reservation(command),
            OrderCommand::RecordShortage(command) => return self.record_shortage(command),
            OrderCommand::ExpireOrder(ExpireOrder {}) => return self.expire(),
            OrderCommand::RecordPayment(command) => return self.record_payment(&command),
            OrderCommand::RecordPaymentFailure(command) => {
                return self.record_payment_failure(&command);
            }
            OrderCommand::ConfirmPaidOrder(command) => return self.confirm_paid(&command),
            OrderCommand::ConfirmOrder(ConfirmOrder {}) => {
                self.must_be(Status::Placed, "placed")?;
                if self.money != Money::NotDue {
                    return Err(Rejection::PaidAtGateway);
                }
                return Ok(self.confirmed().collect());
            }
            OrderCommand::ShipOrder(ShipOrder { tracking_code }) => {
                self.must_be(Status::Confirmed, "confirmed")?;
                OrderShipped {
                    tracking_code,
                    products: ProductQuantity::of(&self.lines),
                    customer_id: self.customer_id.clone(),
                }
                .into()
            }
            OrderCommand::DeliverOrder(DeliverOrder {}) => {
                self.must_be(Status::Shipped, "shipped")?;
                let customer_id = self.customer_id.clone();
                OrderDelivered { customer_id }.into()
            }
            OrderCommand::CancelOrder(CancelOrder { reason }) => match self.status {
                Status::Draft | Status::Placed | Status::Confirmed => {
                    return Ok(self.cancelled(reason));
                }
                _ => return Err(self.wrong("draft, placed or confirmed")),
            },
        };
        Ok(vec![event])
    }

    fn evolve(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::OrderDrafted(drafted) => {
                self.status = Status::Draft;
                self.customer_id.clone_from(&drafted.customer_id);
                self.currency.clone_from(&drafted.currency);
            }
            OrderEvent::OrderItemAdded(item) => self.lines.push(OrderLine {
                product_id: item.product_id.clone(),
                quantity: item.quantity,
                total_cents: item.total_cents,
            }),
            OrderEvent::OrderPlaced(placed) => {
                self.status = Status::Placed;
                self.customer_id.clone_from(&placed.customer_id);
                self.currency.clone_from(&placed.currency);
                self.lines.clone_from(&placed.lines);
                self.coordination = placed.coordination;
                self.awaited = placed
                    .lines
                    .iter()
                    .map(|line| line.product_id.clone())
                    .collect();
            }
            OrderEvent::OrderProductReserved(reserved) => {
                self.awaited.remove(&reserved.product_id);
            }
            OrderEvent::OrderConfirmed(_) => self.status = Status::Confirmed,
            OrderEvent::OrderShipped(_) => self.status = Status::Shipped,
            OrderEvent::OrderDelivered(_) => self.status = Status::Delivered,
            OrderEvent::OrderCancelled(_) => self.status = Status::Cancelled,
            OrderEvent::OrderPaymentDue(_) => self.money = Money::Due,
            OrderEvent::OrderPaymentRecorded(_) => self.money = Money::Received,
            OrderEvent::OrderPaid(_) | OrderEvent::OrderPaymentWithdrawn(_) => {}
        }
    }

    fn timers(event: &OrderEvent) -> Vec<TimerChange<OrderCommand>> {
        expiry::timers(event)
    }
}

impl Order {
    fn draft(&self, command: DraftOrder) -> Result<OrderEvent, Rejection> {
        self.must_be(Status::New, "new")?;
        check_currency(&command.currency)?;
        if command.customer_id.is_empty() {
            return Err(Rejection::Missing("customer_id"));
        }
        check_customer(&command.customer_id)?;
        let DraftOrder {
            customer_id,
            currency,
        } = command;
        Ok(OrderDrafted {
            customer_id,
            currency,
        }
        .into())
    }

    fn add_item(&self, command: AddItem) -> Result<OrderEvent, Rejection> {
        self.must_be(Status::Draft, "draft")?;
        let AddItem {
            product_id,
            quantity,
            total_cents,
        } = command;
        let mut lines = self.lines.clone();
        lines.push(OrderLine {
            product_id: product_id.clone(),
            quantity,
            total_cents,
        });
        check_lines(&lines)?;
        Ok(OrderItemAdded {
            product_id,
            quantity,
            total_cents,
        }
        .into())
    }

    fn place(&self, command: PlaceOrder, context: &Context) -> Result<Vec<OrderEvent>, Rejection> {
        if let Some(found) = command.order_id.filter(|id| *id != context.aggregate_id) {
            let expected = context.aggregate_id.clone();
            return Err(Rejection::OtherOrder { found, expected });
        }
        let drafted = match self.status {
            Status::New => None,
            Status::Draft => Some(self),
            _ => return Err(self.wrong("new or draft")),
        };
        let customer = drafted.map(|draft| draft.customer_id.as_str());
        let customer_id = settled("customer_id", command.customer_id, customer)?;
        check_customer(&customer_id)?;
        let drafted_currency = drafted.map(|draft| draft.currency.as_str());
        let currency = settled("currency", command.currency, drafted_currency)?;
        check_currency(&currency)?;
        let mut lines = self.lines.clone();
        lines.extend(command.lines);
        if lines.is_empty() {
            return Err(Rejection::Empty);
        }
        check_lines(&lines)?;
        let placed = OrderPlaced {
            customer_id,
            currency,
            placed_at: command.placed_at.unwrap_or(context.now),
            lines,
            coordination: command.coordination,
        };
        let due = payment::due(&placed, command.payment);
        let placed = std::iter::once(placed.into());
        Ok(placed.chain(due.map(OrderEvent::from)).collect())
    }

    fn record_reservation(&self, command: RecordReservation) -> Result<Vec<OrderEvent>, Rejection> {
        let RecordReservation {
            product_id,
            quantity,
        } = command;
        if !self.awaits(&product_id, quantity)? {
            return Ok(Vec::new());
        }
        let mut events = vec![
            OrderProductReserved {
                product_id,
                quantity,
            }
            .into(),
        ];
        if self.awaited.len() == 1 && self.money != Money::Due {
            events.extend(self.confirmed());
        }
        Ok(events)
    }

    fn record_shortage(&self, command: RecordShortage) -> Result<Vec<OrderEvent>, Rejection> {
        let RecordShortage {
            product_id,
            quantity,
            available,
        } = command;
        if !self.awaits(&product_id, quantity)? {
            return Ok(Vec::new());
        }
        let reason =
            format!("out of stock: {quantity} of {product_id} asked for, {available} available");
        Ok(self.cancelled(reason))
    }

    /// True if this answer of a product's stock is one that moves the order on.
    fn awaits(&self, product_id: &str, quantity: i64) -> Result<bool, Rejection> {
        self.must_have_been_placed()?;
        let ordered = ProductQuantity::of(&self.lines)
            .into_iter()
            .find(|product| product.product_id == product_id)
            .ok_or_else(|| Rejection::NotOrdered(product_id.to_owned()))?;
        if ordered.quantity != quantity {
            return Err(Rejection::OtherQuantity {
                product_id: ordered.product_id,
                found: quantity,
                ordered: ordered.quantity,
            });
        }
        Ok(self.status == Status::Placed
            && self.coordination == Coordination::Choreography
            && self.awaited.contains(product_id))
    }

    fn expire(&self) -> Result<Vec<OrderEvent>, Rejection> {
        self.must_have_been_placed()?;
        Ok(match self.status {
            Status::Placed => self.cancelled("not confirmed in time".to_owned()),
            _ => Vec::new(),
        })
    }

    fn cancelled(&self, reason: String) -> Vec<OrderEvent> {
        let products = match self.status {
            Status::Draft => Vec::new(),
            _ => ProductQuantity::of(&self.lines),
        };
        let withdrawn = self.withdrawn(&reason);
        let cancelled = OrderCancelled { reason, products };
        let cancelled = std::iter::once(cancelled.into());
        cancelled.chain(withdrawn).collect()
    }

    fn must_have_been_placed(&self) -> Result<(), Rejection> {
        match self.status {
            Status::New | Status::Draft => Err(self.wrong("placed")),
            _ => Ok(()),
        }
    }

    fn must_be(&self, status: Status, needed: &'static str) -> Result<(), Rejection> {
        if self.status == status {
            Ok(())
        } else {
            Err(self.wrong(needed))
        }
    }

    fn wrong(&self, needed: &'static str) -> Rejection {
        Rejection::WrongStatus {
            status: self.status,
            needed,
        }
    }
}

#[cfg(test)]
mod tests;
