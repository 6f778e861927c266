//! What can be asked of a payment. The same structs are read from JSON over HTTP and from Avro on `payment.commands`.

use serde::{Deserialize, Serialize};

use crate::order::Coordination;

millrace::commands! {
    /// What can be asked of a payment.
    pub enum PaymentCommand for "payment" in "commerce" {
        RequestPayment [1] sent_by ["order-payment", "saga-steps"],
        RecordCharge [1],
        RecordChargeFailure [1],
        CancelPayment [1] sent_by ["order-payment", "saga-steps"],
        RecordRefund [1],
    }
}

/// Has the money for an order charged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestPayment {
    /// Who pays.
    pub customer_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// At least 1.
    pub amount_cents: i64,
    /// Who moves the order on, and so who is told.
    pub coordination: Coordination,
}

/// The gateway has charged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordCharge {
    /// The gateway's.
    pub charge_id: String,
    /// How much.
    pub amount_cents: i64,
}

/// The gateway has not charged and never will.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordChargeFailure {
    /// Why, for a person to read.
    pub reason: String,
}

/// The money is not wanted any longer: what was charged, or still is, goes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelPayment {
    /// Why, for a person to read.
    pub reason: String,
    /// Who moves the order on, and so who is told.
    pub coordination: Coordination,
}

/// The gateway has given the money back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordRefund {
    /// The gateway's.
    pub refund_id: String,
}
