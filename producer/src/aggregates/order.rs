//! An order: draft -> items added -> placed -> confirmed -> shipped -> delivered; cancelled until it is shipped.

use millrace::aggregate::{Aggregate, Context};
use schemas::order::*;
use serde::{Deserialize, Serialize};

use crate::aggregates::ID_BYTES_MAX;

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
    /// An id that cannot be a key.
    #[error("{0} is longer than {ID_BYTES_MAX} bytes")]
    LongId(&'static str),
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
    /// Of a draft; placed orders keep them for whoever looks at the state.
    lines: Vec<OrderLine>,
}

impl Aggregate for Order {
    type Command = OrderCommand;
    type Event = OrderEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 1;

    fn decide(
        &self,
        command: OrderCommand,
        context: &Context,
    ) -> Result<Vec<OrderEvent>, Rejection> {
        let event = match command {
            OrderCommand::DraftOrder(command) => self.draft(command)?,
            OrderCommand::AddItem(command) => self.add_item(command)?,
            OrderCommand::PlaceOrder(command) => self.place(command, context)?,
            OrderCommand::ConfirmOrder(ConfirmOrder {}) => {
                self.must_be(Status::Placed, "placed")?;
                OrderConfirmed {}.into()
            }
            OrderCommand::ShipOrder(ShipOrder { tracking_code }) => {
                self.must_be(Status::Confirmed, "confirmed")?;
                OrderShipped { tracking_code }.into()
            }
            OrderCommand::DeliverOrder(DeliverOrder {}) => {
                self.must_be(Status::Shipped, "shipped")?;
                OrderDelivered {}.into()
            }
            OrderCommand::CancelOrder(CancelOrder { reason }) => match self.status {
                Status::Draft | Status::Placed | Status::Confirmed => {
                    OrderCancelled { reason }.into()
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
            }
            OrderEvent::OrderConfirmed(_) => self.status = Status::Confirmed,
            OrderEvent::OrderShipped(_) => self.status = Status::Shipped,
            OrderEvent::OrderDelivered(_) => self.status = Status::Delivered,
            OrderEvent::OrderCancelled(_) => self.status = Status::Cancelled,
        }
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

/// What the command says, or else the draft; both only where they agree.
fn settled(
    field: &'static str,
    given: Option<String>,
    drafted: Option<&str>,
) -> Result<String, Rejection> {
    match (given, drafted) {
        (Some(found), Some(drafted)) if found != drafted => Err(Rejection::DiffersFromDraft {
            field,
            found,
            drafted: drafted.to_owned(),
        }),
        (Some(given), _) if !given.is_empty() => Ok(given),
        (_, Some(drafted)) => Ok(drafted.to_owned()),
        (_, None) => Err(Rejection::Missing(field)),
    }
}

fn check_customer(customer_id: &str) -> Result<(), Rejection> {
    if customer_id.len() > ID_BYTES_MAX {
        return Err(Rejection::LongId("customer_id"));
    }
    Ok(())
}

fn check_currency(currency: &str) -> Result<(), Rejection> {
    if currency.len() == 3 && currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
        Ok(())
    } else {
        Err(Rejection::Currency(currency.to_owned()))
    }
}

fn check_lines(lines: &[OrderLine]) -> Result<(), Rejection> {
    if lines.len() > LINES_MAX {
        return Err(Rejection::TooManyLines);
    }
    let mut total: i64 = 0;
    for (index, line) in lines.iter().enumerate() {
        let wrong = |reason: String| Rejection::Line {
            line: index + 1,
            product_id: line.product_id.clone(),
            reason,
        };
        if line.product_id.is_empty() {
            return Err(wrong("product_id is empty".to_owned()));
        }
        if line.product_id.len() > ID_BYTES_MAX {
            return Err(Rejection::LongId("product_id"));
        }
        if line.quantity <= 0 {
            return Err(wrong(format!(
                "quantity is {}, must be at least 1",
                line.quantity
            )));
        }
        if line.total_cents < 0 {
            return Err(wrong(format!(
                "total_cents is {}, must not be negative",
                line.total_cents
            )));
        }
        total = total
            .checked_add(line.total_cents)
            .filter(|total| *total <= TOTAL_CENTS_MAX)
            .ok_or(Rejection::Total)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use millrace::testing::given;

    fn line(quantity: i64, total_cents: i64) -> OrderLine {
        OrderLine {
            product_id: "tea".into(),
            quantity,
            total_cents,
        }
    }

    fn drafted() -> OrderEvent {
        OrderDrafted {
            customer_id: "ada".into(),
            currency: "EUR".into(),
        }
        .into()
    }

    fn item() -> OrderEvent {
        OrderItemAdded {
            product_id: "tea".into(),
            quantity: 2,
            total_cents: 500,
        }
        .into()
    }

    fn placed() -> OrderEvent {
        OrderPlaced {
            customer_id: "ada".into(),
            currency: "EUR".into(),
            placed_at: DateTime::from_timestamp(1_767_225_600, 0).unwrap(),
            lines: vec![line(2, 500)],
            coordination: Coordination::Choreography,
        }
        .into()
    }

    fn place(lines: Vec<OrderLine>) -> PlaceOrder {
        PlaceOrder {
            customer_id: Some("ada".into()),
            currency: Some("EUR".into()),
            lines,
            ..PlaceOrder::default()
        }
    }

    fn wrong(status: Status, needed: &'static str) -> Rejection {
        Rejection::WrongStatus { status, needed }
    }

    #[test]
    fn a_new_order_is_created_and_placed_at_once() {
        given::<Order>([])
            .when(place(vec![line(2, 500)]))
            .then([placed()]);
    }

    #[test]
    fn a_draft_is_placed_with_the_items_that_were_added() {
        given::<Order>([drafted(), item()])
            .when(PlaceOrder::default())
            .then([placed()]);
    }

    #[test]
    fn only_a_draft_takes_items() {
        let add = AddItem {
            product_id: "tea".into(),
            quantity: 2,
            total_cents: 500,
        };
        given::<Order>([drafted()]).when(add.clone()).then([item()]);
        given::<Order>([])
            .when(add.clone())
            .then_rejected(wrong(Status::New, "draft"));
        given::<Order>([placed()])
            .when(add)
            .then_rejected(wrong(Status::Placed, "draft"));
    }

    #[test]
    fn nothing_empty_is_placed() {
        given::<Order>([])
            .when(place(vec![]))
            .then_rejected(Rejection::Empty);
        given::<Order>([drafted()])
            .when(PlaceOrder::default())
            .then_rejected(Rejection::Empty);
    }

    #[test]
    fn a_quantity_of_zero_is_rejected_with_its_line() {
        given::<Order>([])
            .when(place(vec![line(1, 5), line(0, 0)]))
            .then_rejected(Rejection::Line {
                line: 2,
                product_id: "tea".into(),
                reason: "quantity is 0, must be at least 1".into(),
            });
    }

    #[test]
    fn a_total_that_sums_cannot_hold_is_rejected() {
        given::<Order>([])
            .when(place(vec![line(1, i64::MAX), line(1, 1)]))
            .then_rejected(Rejection::Total);
        given::<Order>([])
            .when(place(vec![line(1, TOTAL_CENTS_MAX), line(1, 1)]))
            .then_rejected(Rejection::Total);
    }

    #[test]
    fn an_id_that_is_too_long_for_a_key_is_rejected() {
        let long = PlaceOrder {
            customer_id: Some("c".repeat(201)),
            ..place(vec![line(1, 5)])
        };
        given::<Order>([])
            .when(long)
            .then_rejected(Rejection::LongId("customer_id"));
    }

    #[test]
    fn the_id_in_the_data_must_be_the_orders_own() {
        let other = PlaceOrder {
            order_id: Some("2".into()),
            ..place(vec![line(1, 5)])
        };
        given::<Order>([])
            .when(other)
            .then_rejected(Rejection::OtherOrder {
                found: "2".into(),
                expected: "1".into(),
            });
    }

    #[test]
    fn a_currency_is_three_capital_letters() {
        let euro = PlaceOrder {
            currency: Some("euro".into()),
            ..place(vec![line(1, 5)])
        };
        given::<Order>([])
            .when(euro)
            .then_rejected(Rejection::Currency("euro".into()));
    }

    #[test]
    fn an_order_moves_from_placed_to_delivered_in_order() {
        let confirmed = || OrderEvent::from(OrderConfirmed {});
        let ship = ShipOrder {
            tracking_code: None,
        };
        let shipped = || {
            OrderEvent::from(OrderShipped {
                tracking_code: None,
            })
        };
        given::<Order>([placed()])
            .when(ConfirmOrder {})
            .then([confirmed()]);
        given::<Order>([placed()])
            .when(ship.clone())
            .then_rejected(wrong(Status::Placed, "confirmed"));
        given::<Order>([placed(), confirmed()])
            .when(ship)
            .then([shipped()]);
        given::<Order>([placed(), confirmed(), shipped()])
            .when(DeliverOrder {})
            .then([OrderDelivered {}.into()]);
    }

    #[test]
    fn an_order_can_be_cancelled_until_it_is_shipped() {
        let cancel = || CancelOrder {
            reason: "changed my mind".into(),
        };
        let cancelled = OrderCancelled {
            reason: "changed my mind".into(),
        };
        let shipped = OrderShipped {
            tracking_code: None,
        };
        given::<Order>([placed()])
            .when(cancel())
            .then([cancelled.into()]);
        given::<Order>([placed(), OrderConfirmed {}.into(), shipped.into()])
            .when(cancel())
            .then_rejected(wrong(Status::Shipped, "draft, placed or confirmed"));
    }

    #[test]
    fn an_order_of_the_retired_event_is_as_good_as_a_placed_one() {
        let old = OrderSubmitted {
            customer_id: "ada".into(),
            currency: "EUR".into(),
            submitted_at: DateTime::from_timestamp(1_767_225_600, 0).unwrap(),
            items: vec![SubmittedItem {
                product_id: "tea".into(),
                quantity: 2,
                unit_price_cents: 250,
            }],
        };
        assert_eq!(OrderEvent::from(OrderPlaced::from(old)), placed());
    }
}
