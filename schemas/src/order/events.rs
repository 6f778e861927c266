//! Events of an order: draft -> items added -> placed -> confirmed -> shipped -> delivered, or cancelled.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

millrace::events! {
    /// What can happen to an order.
    pub enum OrderEvent for "order" in "commerce" {
        OrderDrafted [1],
        OrderItemAdded [1],
        OrderPlaced [1, 2],
        OrderProductReserved [1],
        OrderConfirmed [1, 2],
        OrderShipped [1, 2, 3],
        OrderDelivered [1, 2],
        OrderCancelled [1, 2],
        OrderPaymentDue [1],
        OrderPaymentRecorded [1],
        OrderPaid [1],
        OrderPaymentWithdrawn [1],
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

/// How an order is paid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentMethod {
    /// Outside of this system: nothing is charged, and nobody waits for money.
    #[default]
    Invoice,
    /// Charged at the gateway before the order is confirmed.
    Gateway,
}

/// How much of a product an order has in all its lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProductQuantity {
    /// Which product.
    pub product_id: String,
    /// How many, at least 1.
    pub quantity: i64,
}

impl ProductQuantity {
    /// What these lines ask for, by product id: each product once, with the sum over its lines.
    pub fn of(lines: &[OrderLine]) -> Vec<Self> {
        let mut quantities: BTreeMap<&str, i64> = BTreeMap::new();
        for line in lines {
            let sum = quantities.entry(&line.product_id).or_default();
            *sum = sum.saturating_add(line.quantity);
        }
        quantities
            .into_iter()
            .map(|(product_id, quantity)| Self {
                product_id: product_id.to_owned(),
                quantity,
            })
            .collect()
    }
}

/// All that the order asks for of one product is set aside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderProductReserved {
    /// Which product.
    pub product_id: String,
    /// How many: the sum over the order's lines.
    pub quantity: i64,
}

/// Goods and money are settled; the order may be shipped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OrderConfirmed {
    /// Who ordered; since version 2, empty in events of version 1.
    #[serde(default)]
    pub customer_id: String,
}

/// The parcel left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderShipped {
    /// The carrier's code, where there is one.
    #[serde(default)]
    pub tracking_code: Option<String>,
    /// What is in it, by product; since version 2, empty in events of version 1.
    #[serde(default)]
    pub products: Vec<ProductQuantity>,
    /// Who ordered, so that whoever tells them need not ask the order; since version 3, empty in older events.
    #[serde(default)]
    pub customer_id: String,
}

/// The customer has the parcel.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OrderDelivered {
    /// Who ordered; since version 2, empty in events of version 1.
    #[serde(default)]
    pub customer_id: String,
}

/// Nothing more happens to the order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderCancelled {
    /// Why, for a person to read.
    pub reason: String,
    /// What was ordered, by product, and may be set aside; empty if the order was a draft. Since version 2, empty in
    /// events of version 1.
    #[serde(default)]
    pub products: Vec<ProductQuantity>,
}

/// A placed order is paid at the gateway and waits for the money. Follows [`OrderPlaced`] at once, and holds what whoever
/// sees to the money needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderPaymentDue {
    /// Who orders.
    pub customer_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// The order's total, above zero.
    pub amount_cents: i64,
    /// Who moves the order on.
    pub coordination: Coordination,
    /// What was ordered, by product.
    pub products: Vec<ProductQuantity>,
}

/// The money for the order came; goods may still be missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderPaymentRecorded {
    /// How much.
    pub amount_cents: i64,
}

/// The order was confirmed with its money: a sale. Follows [`OrderConfirmed`] at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderPaid {
    /// Who ordered.
    pub customer_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// The order's total.
    pub amount_cents: i64,
    /// Who moved the order on.
    pub coordination: Coordination,
}

/// The order was cancelled: it takes no money any longer, and what was paid goes back. Follows [`OrderCancelled`] at once,
/// where a payment was due.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OrderPaymentWithdrawn {
    /// Why, for a person to read.
    pub reason: String,
    /// Who moved the order on.
    pub coordination: Coordination,
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
