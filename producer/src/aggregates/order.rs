//! An order: draft -> items added -> placed -> confirmed -> shipped -> delivered; cancelled until it is shipped.
//!
//! A placed order waits until the stock of each of its products has answered. When all have set aside what it asks for it
//! confirms itself, at the first shortage it cancels itself, and what is set aside for an order that is cancelled is
//! released by whoever reads the event. An answer that comes later, when the order is cancelled or further on, changes
//! nothing. That holds too for an order that was confirmed by hand ([`ConfirmOrder`]): whoever does that answers for
//! the goods, a shortage does not take it back, and what was set aside is shipped or released with the order.
//!
//! An order with `orchestration` leaves the answers to its saga and changes by that one's commands alone.

use std::collections::BTreeSet;

use millrace::aggregate::{Aggregate, Context};
use schemas::order::*;
use serde::{Deserialize, Serialize};

use crate::aggregates::{ID_BYTES_MAX, QUANTITY_MAX};

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
                OrderConfirmed {}.into()
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
                OrderDelivered {}.into()
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
            events.push(OrderConfirmed {}.into());
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
    let (mut total, mut quantity) = (0_i64, 0_i64);
    for (index, line) in lines.iter().enumerate() {
        let wrong = |reason: String| Rejection::Line {
            line: index + 1,
            product_id: line.product_id.clone(),
            reason,
        };
        if line.product_id.is_empty() {
            return Err(wrong("product_id is empty".to_owned()));
        }
        if line.product_id.chars().any(char::is_control) {
            return Err(wrong("product_id holds a control character".to_owned()));
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
        quantity = quantity
            .checked_add(line.quantity)
            .filter(|quantity| *quantity <= QUANTITY_MAX)
            .ok_or(Rejection::TotalQuantity)?;
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

    /// An order of a cup and, on two lines, of five teas.
    fn placed_two() -> OrderEvent {
        let OrderEvent::OrderPlaced(mut placed) = placed() else {
            unreachable!();
        };
        let product_id = "cup".to_owned();
        placed.lines = vec![
            line(2, 500),
            OrderLine {
                product_id,
                ..line(1, 90)
            },
            line(3, 700),
        ];
        placed.into()
    }

    fn products(quantities: &[(&str, i64)]) -> Vec<ProductQuantity> {
        let of = |(product, quantity): &(&str, i64)| ProductQuantity {
            product_id: (*product).to_owned(),
            quantity: *quantity,
        };
        quantities.iter().map(of).collect()
    }

    fn cancelled(reason: &str, quantities: &[(&str, i64)]) -> OrderEvent {
        OrderCancelled {
            reason: reason.into(),
            products: products(quantities),
        }
        .into()
    }

    fn reserved(product: &str, quantity: i64) -> OrderEvent {
        OrderProductReserved {
            product_id: product.into(),
            quantity,
        }
        .into()
    }

    fn reservation(product: &str, quantity: i64) -> RecordReservation {
        RecordReservation {
            product_id: product.into(),
            quantity,
        }
    }

    /// One less than what is asked for is there.
    fn shortage(product: &str, quantity: i64) -> RecordShortage {
        RecordShortage {
            product_id: product.into(),
            quantity,
            available: quantity - 1,
        }
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
                products: products(&[("tea", 2)]),
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
        let shipped = OrderShipped {
            tracking_code: None,
            products: products(&[("tea", 2)]),
        };
        given::<Order>([drafted(), item()])
            .when(cancel())
            .then([cancelled("changed my mind", &[])]);
        given::<Order>([placed()])
            .when(cancel())
            .then([cancelled("changed my mind", &[("tea", 2)])]);
        given::<Order>([placed(), OrderConfirmed {}.into(), shipped.into()])
            .when(cancel())
            .then_rejected(wrong(Status::Shipped, "draft, placed or confirmed"));
    }

    #[test]
    fn an_order_is_confirmed_when_all_its_products_are_reserved_and_not_before() {
        given::<Order>([placed_two()])
            .when(reservation("cup", 1))
            .then([reserved("cup", 1)]);
        given::<Order>([placed_two(), reserved("cup", 1)])
            .when(reservation("tea", 5))
            .then([reserved("tea", 5), OrderConfirmed {}.into()]);
    }

    #[test]
    fn a_repeated_reservation_confirms_nothing() {
        given::<Order>([placed_two(), reserved("cup", 1)])
            .when(reservation("cup", 1))
            .then_nothing();
    }

    #[test]
    fn a_shortage_cancels_the_order_and_says_what_was_ordered_by_product() {
        let reason = "out of stock: 5 of tea asked for, 4 available";
        let all = [("cup", 1), ("tea", 5)];
        given::<Order>([placed_two(), reserved("cup", 1)])
            .when(shortage("tea", 5))
            .then([cancelled(reason, &all)]);
        for late in [
            OrderCommand::from(reservation("cup", 1)),
            shortage("cup", 1).into(),
        ] {
            given::<Order>([placed_two(), cancelled(reason, &all)])
                .when(late)
                .then_nothing();
        }
    }

    #[test]
    fn an_order_that_was_confirmed_by_hand_stays_so_whatever_the_stock_answers() {
        for late in [
            OrderCommand::from(reservation("tea", 2)),
            shortage("tea", 2).into(),
        ] {
            given::<Order>([placed(), OrderConfirmed {}.into()])
                .when(late)
                .then_nothing();
        }
    }

    #[test]
    fn an_orchestrated_order_leaves_the_stocks_answers_to_its_saga() {
        let OrderEvent::OrderPlaced(mut orchestrated) = placed() else {
            unreachable!();
        };
        orchestrated.coordination = Coordination::Orchestration;
        for answer in [
            OrderCommand::from(reservation("tea", 2)),
            shortage("tea", 2).into(),
        ] {
            given::<Order>([orchestrated.clone().into()])
                .when(answer)
                .then_nothing();
        }
    }

    #[test]
    fn an_answer_must_be_about_what_was_ordered() {
        given::<Order>([])
            .when(reservation("tea", 2))
            .then_rejected(wrong(Status::New, "placed"));
        given::<Order>([drafted(), item()])
            .when(shortage("tea", 2))
            .then_rejected(wrong(Status::Draft, "placed"));
        given::<Order>([placed()])
            .when(reservation("pot", 1))
            .then_rejected(Rejection::NotOrdered("pot".into()));
        given::<Order>([placed()])
            .when(reservation("tea", 1))
            .then_rejected(Rejection::OtherQuantity {
                product_id: "tea".into(),
                found: 1,
                ordered: 2,
            });
    }

    #[test]
    fn an_order_expires_unless_it_was_confirmed_or_has_ended() {
        let expired = cancelled("not confirmed in time", &[("tea", 2)]);
        given::<Order>([placed()])
            .when(ExpireOrder {})
            .then([expired.clone()]);
        given::<Order>([placed(), OrderConfirmed {}.into()])
            .when(ExpireOrder {})
            .then_nothing();
        given::<Order>([placed(), expired])
            .when(ExpireOrder {})
            .then_nothing();
        given::<Order>([])
            .when(ExpireOrder {})
            .then_rejected(wrong(Status::New, "placed"));
    }

    #[test]
    fn a_product_id_that_can_be_no_key_and_a_quantity_beyond_all_stock_are_rejected() {
        let nul = OrderLine {
            product_id: "t\0".into(),
            ..line(1, 5)
        };
        given::<Order>([])
            .when(place(vec![nul]))
            .then_rejected(Rejection::Line {
                line: 1,
                product_id: "t\0".into(),
                reason: "product_id holds a control character".into(),
            });
        given::<Order>([])
            .when(place(vec![line(QUANTITY_MAX, 5), line(1, 5)]))
            .then_rejected(Rejection::TotalQuantity);
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
