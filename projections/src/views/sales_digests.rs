//! The view `sales_digests`: what was sold on each day, by currency, as the day's newest digest says.

use chrono::{DateTime, Utc};
use millrace::event::Recorded;
use millrace::projection::{Fold, Poison, Rows, Start};
use schemas::sales_day::SalesDayEvent;

millrace::view_row! {
    /// What was sold on a day in one currency.
    pub struct SalesDigestRow in "sales_digests" {
        key {
            /// ISO 4217 code.
            currency: String,
        }
        /// How many orders.
        orders: i64,
        /// What they cost.
        total_cents: i64,
        /// Of the digest, from 1.
        revision: i64,
        /// When the digest came.
        issued_at: DateTime<Utc>,
    }
}

/// Takes the newest digest of each day; single sales are not shown.
pub struct SalesDigests;

impl Fold for SalesDigests {
    const NAME: &'static str = "sales-digests";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../migrations/sales_digests.sql");
    type Event = SalesDayEvent;
    type Rows = Rows<SalesDigestRow>;

    fn evolve(
        &self,
        rows: &mut Rows<SalesDigestRow>,
        event: &Recorded<SalesDayEvent>,
    ) -> Result<(), Poison> {
        let SalesDayEvent::SalesDigestIssued(digest) = &event.event else {
            return Ok(());
        };
        for total in &digest.totals {
            rows.put(SalesDigestRow {
                currency: total.currency.clone(),
                orders: total.orders,
                total_cents: total.total_cents,
                revision: digest.revision,
                issued_at: event.metadata.occurred_at,
            });
        }
        Ok(())
    }
}
