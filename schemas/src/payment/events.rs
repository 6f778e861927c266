//! Events of a payment: requested -> processed -> received, or failed; refunded where it is not wanted any longer.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::order::Coordination;

millrace::events! {
    /// What can happen to a payment.
    pub enum PaymentEvent for "payment" in "commerce" {
        PaymentRequested [1],
        PaymentProcessed [1],
        PaymentReceived [1],
        PaymentFailed [1],
        PaymentWithdrawn [1],
        PaymentRefundRequested [1],
        PaymentRefunded [1],
    }
}

/// The money for an order is to be charged; from now on it may be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PaymentRequested {
    /// Who pays.
    pub customer_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// At least 1.
    pub amount_cents: i64,
    /// Not charged after this time.
    #[serde(with = "chrono::serde::ts_milliseconds")]
    pub charge_before: DateTime<Utc>,
    /// Who moves the order on, and so who is told.
    pub coordination: Coordination,
}

/// The gateway has charged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PaymentProcessed {
    /// The gateway's.
    pub charge_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// How much.
    pub amount_cents: i64,
}

/// What was charged is the order's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PaymentReceived {
    /// Who pays.
    pub customer_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// How much.
    pub amount_cents: i64,
    /// Who moves the order on, and so who is told.
    pub coordination: Coordination,
}

/// Nothing was charged and nothing will be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PaymentFailed {
    /// Why, for a person to read.
    pub reason: String,
    /// Who moves the order on, and so who is told.
    pub coordination: Coordination,
}

/// The money is not wanted any longer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PaymentWithdrawn {
    /// Why, for a person to read.
    pub reason: String,
}

/// What was charged is to be given back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PaymentRefundRequested {
    /// The gateway's.
    pub charge_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// How much.
    pub amount_cents: i64,
}

/// What was charged went back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PaymentRefunded {
    /// The gateway's.
    pub refund_id: String,
    /// Who pays.
    pub customer_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// How much.
    pub amount_cents: i64,
    /// Who moves the order on, and so who is told.
    pub coordination: Coordination,
}
