//! What can be asked of the saga of an order. The same structs are read from JSON over HTTP and from Avro on
//! `order_saga.commands`.

use serde::{Deserialize, Serialize};

use super::{SagaFact, SagaStep};
use crate::order::ProductQuantity;

millrace::commands! {
    /// What can be asked of the saga of an order.
    pub enum OrderSagaCommand for "order_saga" in "commerce" {
        StartOrderSaga [1] sent_by ["order-saga"],
        RecordSagaFact [1] sent_by ["order-saga", "payment-saga", "stock-saga"],
        ExpireSagaStep [1] sent_by ["step"],
        ResumeOrderSaga [1],
    }
}

/// Begins to move an order on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartOrderSaga {
    /// Who orders.
    pub customer_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// What the order costs, above zero.
    pub due_cents: i64,
    /// What was ordered, by product.
    pub products: Vec<ProductQuantity>,
}

/// Something that the saga waits for happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordSagaFact {
    /// What.
    pub fact: SagaFact,
    /// Where it is about a product.
    #[serde(default)]
    pub product_id: Option<String>,
    /// For a person to read.
    #[serde(default)]
    pub detail: Option<String>,
}

/// A step's time is over; sent by its timer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpireSagaStep {
    /// Which one.
    pub step: SagaStep,
    /// Of the step, from 1.
    pub attempt: i64,
}

/// Tries a step again that was given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeOrderSaga {}
