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

mod checks;
mod expiry;

use std::collections::BTreeSet;

use millrace::aggregate::{Aggregate, Context};
use millrace::timer::TimerChange;
use schemas::order::*;
use serde::{Deserialize, Serialize};

use crate::aggregates::{ID_BYTES_MAX, QUANTITY_MAX};
use checks::{check_currency, check_customer, check_lines, settled};
pub use expiry::OrderOptions;

/// Most that an order may cost: nine million such orders of one customer still fit a view's sum.
const TOTAL_CENTS_MAX: i64 = 1_000_000_000_000;

/// Most lines of one order.
const LINES_MAX: usize = 1000;

/// Why an order does not do what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The order is at another step.
    #[error("order is {status}, not {needed}")]
    WrongStatus {
        /// Where it is.
        status: Status,
        /// Where it must be.
        needed: &'static str,
    },
    /// The data names another order.
    #[error("order_id is {found}, the command is addressed to {expected}")]
    OtherOrder {
        /// In the data.
        found: String,
        /// The aggregate's id.
        expected: String,
    },
    /// A field that a new order needs.
    #[error("{0} is missing: an order that was not drafted needs customer_id, currency and lines")]
    Missing(&'static str),
    /// The draft says otherwise.
    #[error("{field} is {found}, the draft says {drafted}")]
    DiffersFromDraft {
        /// Which field.
        field: &'static str,
        /// In the command.
        found: String,
        /// In the draft.
        drafted: String,
    },
    /// Not a currency.
    #[error("currency {0:?} is not an ISO 4217 code: three capital letters")]
    Currency(String),
    /// Nothing in it.
    #[error("an order without lines cannot be placed")]
    Empty,
    /// More than is handled.
    #[error("an order has at most {LINES_MAX} lines")]
    TooManyLines,
    /// A line that cannot be.
    #[error("line {line} (product {product_id}): {reason}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// Which product.
        product_id: String,
        /// What is wrong.
        reason: String,
    },
    /// More than is handled.
    #[error("the order's total is above {TOTAL_CENTS_MAX} cents")]
    Total,
    /// More than is handled.
    #[error("the order's quantities sum to more than {QUANTITY_MAX}")]
    TotalQuantity,
    /// An id that cannot be a key.
    #[error("{0} is longer than {ID_BYTES_MAX} bytes")]
    LongId(&'static str),
    /// An answer about a product that is in no line.
    #[error("product {0} is in no line of the order")]
    NotOrdered(String),
    /// An answer about another quantity than the order asks for.
    #[error("{found} of product {product_id}: the order asks for {ordered}")]
    OtherQuantity {
        /// Which product.
        product_id: String,
        /// In the answer.
        found: i64,
        /// Over all lines of the order.
        ordered: i64,
    },
}

/// Where an order is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// There is no such order yet.
    #[default]
    New,
    /// Items are being collected.
    Draft,
    /// The customer committed to it.
    Placed,
    /// Goods and money are settled.
    Confirmed,
    /// The parcel left.
    Shipped,
    /// The customer has it.
    Delivered,
    /// Nothing more happens.
    Cancelled,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Draft => "draft",
            Self::Placed => "placed",
            Self::Confirmed => "confirmed",
            Self::Shipped => "shipped",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
        })
    }
}

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
}

impl Aggregate for Order {
    type Command = OrderCommand;
    type Event = OrderEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 2;

    fn decide(
        &self,
        command: OrderCommand,
        context: &Context,
    ) -> Result<Vec<OrderEvent>, Rejection> {
        let event = match command {
            OrderCommand::DraftOrder(command) => self.draft(command)?,
            OrderCommand::AddItem(command) => self.add_item(command)?,
            OrderCommand::PlaceOrder(command) => self.place(command, context)?,
            OrderCommand::RecordReservation(command) => return self.record_reservation(command),
            OrderCommand::RecordShortage(command) => return self.record_shortage(command),
            OrderCommand::ExpireOrder(ExpireOrder {}) => return self.expire(),
            OrderCommand::ConfirmOrder(ConfirmOrder {}) => {
                self.must_be(Status::Placed, "placed")?;
                self.confirmed()
            }
            OrderCommand::ShipOrder(ShipOrder { tracking_code }) => {
                self.must_be(Status::Confirmed, "confirmed")?;
                OrderShipped {
                    tracking_code,
                    products: ProductQuantity::of(&self.lines),
                }
                .into()
            }
            OrderCommand::DeliverOrder(DeliverOrder {}) => {
                self.must_be(Status::Shipped, "shipped")?;
                let customer_id = self.customer_id.clone();
                OrderDelivered { customer_id }.into()
            }
            OrderCommand::CancelOrder(CancelOrder { reason }) => match self.status {
                Status::Draft | Status::Placed | Status::Confirmed => self.cancelled(reason),
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

    fn place(&self, command: PlaceOrder, context: &Context) -> Result<OrderEvent, Rejection> {
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
        Ok(OrderPlaced {
            customer_id,
            currency,
            placed_at: command.placed_at.unwrap_or(context.now),
            lines,
            coordination: command.coordination,
        }
        .into())
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
        if self.awaited.len() == 1 {
            events.push(self.confirmed());
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
        Ok(vec![self.cancelled(reason)])
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
            Status::Placed => vec![self.cancelled("not confirmed in time".to_owned())],
            _ => Vec::new(),
        })
    }

    fn confirmed(&self) -> OrderEvent {
        let customer_id = self.customer_id.clone();
        OrderConfirmed { customer_id }.into()
    }

    fn cancelled(&self, reason: String) -> OrderEvent {
        let products = match self.status {
            Status::Draft => Vec::new(),
            _ => ProductQuantity::of(&self.lines),
        };
        OrderCancelled { reason, products }.into()
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
