//! Events of an order: draft -> items added -> placed -> confirmed -> shipped -> delivered, or cancelled.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

millrace::events! {
    /// What can happen to an order.
    pub enum OrderEvent for "order" in "commerce" {
        OrderDrafted [1],
        OrderItemAdded [1],
        OrderPlaced [1, 2],
        OrderConfirmed [1],
        OrderShipped [1],
        OrderDelivered [1],
        OrderCancelled [1],
    }
    retired { OrderSubmitted [1] => OrderPlaced }
}

/// A customer began to collect items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderDrafted {
    /// Who orders.
    pub customer_id: String,
    /// ISO 4217 code.
    pub currency: String,
}

/// A line was added to a draft.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderItemAdded {
    /// What is ordered.
    pub product_id: String,
    /// How many, at least 1.
    pub quantity: i64,
    /// Price of the whole line.
    pub total_cents: i64,
}

/// The customer committed to the order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderPlaced {
    /// Who orders.
    pub customer_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// When the customer placed it, which may be before we heard of it.
    #[serde(with = "chrono::serde::ts_milliseconds")]
    pub placed_at: DateTime<Utc>,
    /// What is ordered; never empty.
    pub lines: Vec<OrderLine>,
    /// Who moves the order on; since version 2.
    #[serde(default)]
    pub coordination: Coordination,
}

/// One line of an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderLine {
    /// What is ordered.
    pub product_id: String,
    /// How many, at least 1.
    pub quantity: i64,
    /// Price of the whole line.
    pub total_cents: i64,
}

/// Who moves a placed order on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coordination {
    /// Each part reacts to the others' events.
    #[default]
    Choreography,
    /// A saga tells each part what to do.
    Orchestration,
}

/// Goods and money are settled; the order may be shipped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderConfirmed {}

/// The parcel left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderShipped {
    /// The carrier's code, where there is one.
    #[serde(default)]
    pub tracking_code: Option<String>,
}

/// The customer has the parcel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderDelivered {}

/// Nothing more happens to the order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderCancelled {
    /// Why, for a person to read.
    pub reason: String,
}

/// Retired: what [`OrderPlaced`] was before lines carried their own totals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderSubmitted {
    /// Who orders.
    pub customer_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// When the customer placed it.
    #[serde(with = "chrono::serde::ts_milliseconds")]
    pub submitted_at: DateTime<Utc>,
    /// What is ordered.
    pub items: Vec<SubmittedItem>,
}

/// One item of an [`OrderSubmitted`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubmittedItem {
    /// What is ordered.
    pub product_id: String,
    /// How many.
    pub quantity: i64,
    /// Price of one.
    pub unit_price_cents: i64,
}

impl From<OrderSubmitted> for OrderPlaced {
    fn from(old: OrderSubmitted) -> Self {
        Self {
            customer_id: old.customer_id,
            currency: old.currency,
            placed_at: old.submitted_at,
            lines: old
                .items
                .into_iter()
                .map(|item| OrderLine {
                    product_id: item.product_id,
                    quantity: item.quantity,
                    total_cents: item.unit_price_cents.saturating_mul(item.quantity),
                })
                .collect(),
            coordination: Coordination::default(),
        }
    }
}
