//! The view `orders`: every order as it stands.

use chrono::{DateTime, Utc};
use millrace::event::Recorded;
use millrace::projection::{Fold, Poison, Start};
use schemas::order::OrderEvent;

millrace::view_row! {
    /// An order.
    pub struct OrderRow in "orders" {
        /// Who ordered.
        customer_id: String,
        /// `draft`, `placed`, `confirmed`, `shipped`, `delivered` or `cancelled`.
        status: String,
        /// ISO 4217 code.
        currency: String,
        /// Number of lines.
        line_count: i64,
        /// Sum over the lines.
        total_cents: i64,
        /// When the customer placed it; null for a draft.
        placed_at: Option<DateTime<Utc>>,
        /// Time of its newest event.
        updated_at: DateTime<Utc>,
    }
}

/// Folds an order's events into its row.
pub struct Orders;

impl Fold for Orders {
    const NAME: &'static str = "orders";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../migrations/orders.sql");
    type Event = OrderEvent;
    type Rows = Option<OrderRow>;

    fn evolve(
        &self,
        row: &mut Option<OrderRow>,
        event: &Recorded<OrderEvent>,
    ) -> Result<(), Poison> {
        let at = event.metadata.occurred_at;
        match &event.event {
            OrderEvent::OrderDrafted(drafted) => {
                *row = Some(OrderRow {
                    customer_id: drafted.customer_id.clone(),
                    status: "draft".to_owned(),
                    currency: drafted.currency.clone(),
                    line_count: 0,
                    total_cents: 0,
                    placed_at: None,
                    updated_at: at,
                });
            }
            OrderEvent::OrderPlaced(placed) => {
                let total = placed
                    .lines
                    .iter()
                    .try_fold(0_i64, |sum, line| sum.checked_add(line.total_cents));
                *row = Some(OrderRow {
                    customer_id: placed.customer_id.clone(),
                    status: "placed".to_owned(),
                    currency: placed.currency.clone(),
                    line_count: placed.lines.len() as i64,
                    total_cents: total.ok_or_else(|| Poison::new("the total overflows"))?,
                    placed_at: Some(placed.placed_at),
                    updated_at: at,
                });
            }
            OrderEvent::OrderItemAdded(added) => change(row, at, None, |row| {
                row.line_count += 1;
                row.total_cents = row.total_cents.saturating_add(added.total_cents);
            }),
            OrderEvent::OrderProductReserved(_)
            | OrderEvent::OrderPaymentDue(_)
            | OrderEvent::OrderPaymentRecorded(_)
            | OrderEvent::OrderPaid(_)
            | OrderEvent::OrderPaymentWithdrawn(_) => change(row, at, None, |_| {}),
            OrderEvent::OrderConfirmed(_) => change(row, at, Some("confirmed"), |_| {}),
            OrderEvent::OrderShipped(_) => change(row, at, Some("shipped"), |_| {}),
            OrderEvent::OrderDelivered(_) => change(row, at, Some("delivered"), |_| {}),
            OrderEvent::OrderCancelled(_) => change(row, at, Some("cancelled"), |_| {}),
        }
        Ok(())
    }
}

/// There is no row only where an operator skipped the order's beginning; then there is nothing to show.
fn change(
    row: &mut Option<OrderRow>,
    at: DateTime<Utc>,
    status: Option<&str>,
    more: impl FnOnce(&mut OrderRow),
) {
    if let Some(row) = row {
        row.updated_at = at;
        if let Some(status) = status {
            status.clone_into(&mut row.status);
        }
        more(row);
    }
}
