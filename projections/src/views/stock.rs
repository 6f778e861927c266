//! The view `stock`: what there is of every product.

use chrono::{DateTime, Utc};
use millrace::event::Recorded;
use millrace::projection::{Fold, Poison, Start};
use schemas::stock::StockEvent;

millrace::view_row! {
    /// The stock of a product; available + reserved + shipped out = received.
    pub struct StockRow in "stock" {
        /// All that ever came in; 0 where the product is not tracked.
        received: i64,
        /// What can be reserved.
        available: i64,
        /// What is set aside for orders.
        reserved: i64,
        /// What left.
        shipped_out: i64,
        /// What orders reserved before the product was tracked; in none of the numbers above.
        untracked: i64,
        /// How many reservations were refused.
        refusals: i64,
        /// At how many it is low; 0 where it never is.
        reorder_level: i64,
        /// How often it ran low.
        times_low: i64,
        /// Time of its newest event.
        updated_at: DateTime<Utc>,
    }
}

/// Folds a product's events into its row.
pub struct Stock;

impl Fold for Stock {
    const NAME: &'static str = "stock";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../migrations/stock.sql");
    type Event = StockEvent;
    type Rows = Option<StockRow>;

    fn evolve(
        &self,
        row: &mut Option<StockRow>,
        event: &Recorded<StockEvent>,
    ) -> Result<(), Poison> {
        let row = row.get_or_insert_with(|| StockRow {
            received: 0,
            available: 0,
            reserved: 0,
            shipped_out: 0,
            untracked: 0,
            refusals: 0,
            reorder_level: 0,
            times_low: 0,
            updated_at: event.metadata.occurred_at,
        });
        row.updated_at = event.metadata.occurred_at;
        match &event.event {
            StockEvent::StockReceived(received) => {
                add(&mut row.received, received.quantity)?;
                add(&mut row.available, received.quantity)
            }
            StockEvent::StockReserved(reserved) if reserved.tracked => {
                add(&mut row.available, -reserved.quantity)?;
                add(&mut row.reserved, reserved.quantity)
            }
            StockEvent::StockReserved(reserved) => add(&mut row.untracked, reserved.quantity),
            StockEvent::StockReservationRefused(_) => add(&mut row.refusals, 1),
            StockEvent::StockReleased(released) => {
                add(&mut row.reserved, -released.quantity)?;
                add(&mut row.available, released.quantity)
            }
            StockEvent::StockShippedOut(shipped) => {
                add(&mut row.reserved, -shipped.quantity)?;
                add(&mut row.shipped_out, shipped.quantity)
            }
            StockEvent::StockReorderLevelSet(set) => {
                row.reorder_level = set.level;
                Ok(())
            }
            StockEvent::StockRanLow(_) => add(&mut row.times_low, 1),
        }
    }
}

fn add(number: &mut i64, quantity: i64) -> Result<(), Poison> {
    *number = number
        .checked_add(quantity)
        .ok_or_else(|| Poison::new("a quantity overflows"))?;
    Ok(())
}
