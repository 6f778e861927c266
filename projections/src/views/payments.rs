//! The view `payments`: what became of the money of every order that is paid at the gateway.

use chrono::{DateTime, Utc};
use millrace::event::Recorded;
use millrace::projection::{Fold, Poison, Start};
use schemas::payment::PaymentEvent;

millrace::view_row! {
    /// A payment; charged less refunded is what is kept.
    pub struct PaymentRow in "payments" {
        /// Who pays; empty where it was cancelled before it was requested.
        customer_id: String,
        /// `requested`, `received`, `failed`, `refunding` or `refunded`.
        status: String,
        /// ISO 4217 code.
        currency: String,
        /// How much was asked for.
        requested_cents: i64,
        /// How much the gateway took.
        charged_cents: i64,
        /// How much of it went back.
        refunded_cents: i64,
        /// Why it failed or is not wanted any longer.
        reason: Option<String>,
        /// Time of its newest event.
        updated_at: DateTime<Utc>,
    }
}

/// Folds a payment's events into its row.
pub struct Payments;

impl Fold for Payments {
    const NAME: &'static str = "payments";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../migrations/payments.sql");
    type Event = PaymentEvent;
    type Rows = Option<PaymentRow>;

    fn evolve(
        &self,
        row: &mut Option<PaymentRow>,
        event: &Recorded<PaymentEvent>,
    ) -> Result<(), Poison> {
        let at = event.metadata.occurred_at;
        let row = row.get_or_insert_with(|| PaymentRow {
            customer_id: String::new(),
            status: "failed".to_owned(),
            currency: String::new(),
            requested_cents: 0,
            charged_cents: 0,
            refunded_cents: 0,
            reason: None,
            updated_at: at,
        });
        row.updated_at = at;
        let status = match &event.event {
            PaymentEvent::PaymentRequested(requested) => {
                row.customer_id.clone_from(&requested.customer_id);
                row.currency.clone_from(&requested.currency);
                row.requested_cents = requested.amount_cents;
                "requested"
            }
            PaymentEvent::PaymentProcessed(processed) => {
                row.charged_cents = processed.amount_cents;
                return Ok(());
            }
            PaymentEvent::PaymentReceived(_) => "received",
            PaymentEvent::PaymentFailed(failed) => {
                row.reason = Some(failed.reason.clone());
                "failed"
            }
            PaymentEvent::PaymentWithdrawn(withdrawn) => {
                row.reason = Some(withdrawn.reason.clone());
                return Ok(());
            }
            PaymentEvent::PaymentRefundRequested(_) => "refunding",
            PaymentEvent::PaymentRefunded(refunded) => {
                row.refunded_cents = refunded.amount_cents;
                "refunded"
            }
        };
        status.clone_into(&mut row.status);
        Ok(())
    }
}
