//! Payments computed from the journal once more, by code that shares nothing with the projection.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::crash::oracle::Event;

/// What became of the money of an order.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Payment {
    pub(super) status: String,
    pub(super) charged_cents: i64,
    pub(super) refunded_cents: i64,
}

/// By order.
pub(super) fn fold(journal: &[Event], data: &[Value]) -> Result<BTreeMap<String, Payment>> {
    let mut payments: BTreeMap<String, Payment> = BTreeMap::new();
    for (event, data) in journal.iter().zip(data) {
        let payment = payments.entry(event.aggregate_id.clone()).or_default();
        // One that was cancelled before it was asked for never was anything else.
        if payment.status.is_empty() {
            "failed".clone_into(&mut payment.status);
        }
        let cents = || data["amount_cents"].as_i64().context("no amount_cents");
        let status = match event.event_type.as_str() {
            "PaymentRequested" => "requested",
            "PaymentReceived" => "received",
            "PaymentFailed" => "failed",
            "PaymentRefundRequested" => "refunding",
            "PaymentRefunded" => {
                payment.refunded_cents = cents()?;
                "refunded"
            }
            "PaymentProcessed" => {
                payment.charged_cents = cents()?;
                continue;
            }
            "PaymentWithdrawn" => continue,
            other => bail!("the oracle does not know {other}"),
        };
        status.clone_into(&mut payment.status);
    }
    Ok(payments)
}
