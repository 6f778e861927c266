//! The view `customer_totals`: what each customer ordered, whatever became of it.

use millrace::event::Recorded;
use millrace::projection::{Poison, Start, Tally};
use schemas::order::OrderEvent;

millrace::tally_row! {
    /// What is added to a customer's total.
    pub struct CustomerTotal in "customer_totals" {
        key {
            /// Who.
            customer_id: String,
        }
        /// Orders placed.
        orders: i64,
        /// Their sum.
        total_cents: i64,
    }
}

/// Adds every placed order to its customer; never reduced, the outcome stands in `orders.status`.
pub struct CustomerTotals;

impl Tally for CustomerTotals {
    const NAME: &'static str = "customer-totals";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../migrations/customer_totals.sql");
    type Event = OrderEvent;
    type Row = CustomerTotal;

    fn add(&self, event: &Recorded<OrderEvent>) -> Result<Vec<CustomerTotal>, Poison> {
        let OrderEvent::OrderPlaced(placed) = &event.event else {
            return Ok(Vec::new());
        };
        let total = placed
            .lines
            .iter()
            .try_fold(0_i64, |sum, line| sum.checked_add(line.total_cents));
        Ok(vec![CustomerTotal {
            customer_id: placed.customer_id.clone(),
            orders: 1,
            total_cents: total.ok_or_else(|| Poison::new("the total overflows"))?,
        }])
    }
}
