//! Events of the saga of an order.

use serde::{Deserialize, Serialize};

use crate::order::ProductQuantity;

millrace::events! {
    /// What can happen in the saga of an order.
    pub enum OrderSagaEvent for "order_saga" in "commerce" {
        OrderSagaStarted [1],
        OrderSagaStepBegun [1],
        OrderSagaFactRecorded [1],
        OrderSagaStepDone [1],
        OrderSagaStepFailed [1],
        OrderSagaStepOverdue [1],
        OrderSagaEnded [1],
    }
}

/// What a saga does: the first three move the order on, the others undo that in reverse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SagaStep {
    /// All goods are set aside.
    Reserve,
    /// The money is charged.
    Pay,
    /// The order is confirmed.
    Confirm,
    /// The money goes back, or is not charged.
    Refund,
    /// The goods are available again.
    Release,
    /// The order is cancelled.
    Cancel,
}

/// What a saga waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SagaFact {
    /// A product's goods are set aside.
    ProductReserved,
    /// The product is not tracked: nothing was set aside, and nothing is given back.
    ProductUntracked,
    /// There is too little of a product.
    ProductRefused,
    /// A product's goods were given back.
    ProductReleased,
    /// The money came.
    PaymentReceived,
    /// No money was charged, and none will be.
    PaymentFailed,
    /// The money went back.
    PaymentRefunded,
    /// The order was confirmed.
    OrderConfirmed,
    /// The order was cancelled.
    OrderCancelled,
}

/// How a saga ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SagaOutcome {
    /// The order is confirmed.
    Completed,
    /// All is undone.
    Compensated,
}

/// A saga moves an order on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderSagaStarted {
    /// Who orders.
    pub customer_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// What the order costs, above zero.
    pub due_cents: i64,
    /// What was ordered, by product.
    pub products: Vec<ProductQuantity>,
}

/// A step was begun, or is tried again. Holds all that its commands need, so that whoever sends them remembers nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderSagaStepBegun {
    /// Which one.
    pub step: SagaStep,
    /// Of the step, from 1.
    pub attempt: i64,
    /// Why the order is undone, where it is.
    #[serde(default)]
    pub reason: Option<String>,
    /// Who orders.
    pub customer_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// What the order costs, above zero.
    pub due_cents: i64,
    /// What the step is about, by product.
    pub products: Vec<ProductQuantity>,
}

/// Something that the saga waits for happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderSagaFactRecorded {
    /// What.
    pub fact: SagaFact,
    /// Where it is about a product.
    #[serde(default)]
    pub product_id: Option<String>,
    /// For a person to read.
    #[serde(default)]
    pub detail: Option<String>,
}

/// A step was carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderSagaStepDone {
    /// Which one.
    pub step: SagaStep,
}

/// A step cannot be carried out: what was done is undone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderSagaStepFailed {
    /// Which one.
    pub step: SagaStep,
    /// Why, for a person to read.
    pub reason: String,
}

/// A step that must be carried out has no answer in time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderSagaStepOverdue {
    /// Which one.
    pub step: SagaStep,
    /// Of the step, from 1.
    pub attempt: i64,
    /// For a person to read.
    pub waits_for: String,
    /// True where it is not tried again by itself.
    pub given_up: bool,
}

/// The order is confirmed, or all is undone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderSagaEnded {
    /// Which of both.
    pub outcome: SagaOutcome,
    /// Why it was undone.
    #[serde(default)]
    pub reason: Option<String>,
}
