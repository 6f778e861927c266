//! What can be asked of an order. The same structs are read from JSON over HTTP and from Avro on `order.commands`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Coordination, OrderLine, PaymentMethod};

millrace::commands! {
    /// What can be asked of an order.
    pub enum OrderCommand for "order" in "commerce" {
        DraftOrder [1],
        AddItem [1],
        PlaceOrder [1, 2],
        RecordReservation [1] sent_by ["stock-order"],
        RecordShortage [1] sent_by ["stock-order"],
        ConfirmOrder [1],
        ShipOrder [1],
        DeliverOrder [1],
        CancelOrder [1],
        ExpireOrder [1] sent_by ["confirmation", "saga-steps"],
        RecordPayment [1] sent_by ["payment-order"],
        RecordPaymentFailure [1] sent_by ["payment-order"],
        ConfirmPaidOrder [1] sent_by ["saga-steps"],
    }
}

/// Begins an order whose items come one by one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DraftOrder {
    /// Who orders.
    pub customer_id: String,
    /// ISO 4217 code.
    pub currency: String,
}

/// Adds a line to a draft.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddItem {
    /// What is ordered.
    pub product_id: String,
    /// How many, at least 1.
    pub quantity: i64,
    /// Price of the whole line.
    pub total_cents: i64,
}

/// Places a draft, or creates and places at once; then customer, currency and lines are needed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceOrder {
    /// If present, equal to the aggregate's id.
    #[serde(default)]
    pub order_id: Option<String>,
    /// Who orders.
    #[serde(default)]
    pub customer_id: Option<String>,
    /// ISO 4217 code.
    #[serde(default)]
    pub currency: Option<String>,
    /// When the customer placed it; the time of the command where it is missing.
    #[serde(default, with = "millrace::time::option")]
    pub placed_at: Option<DateTime<Utc>>,
    /// Who moves the order on.
    #[serde(default)]
    pub coordination: Coordination,
    /// What is ordered; of a draft, further lines.
    #[serde(default)]
    pub lines: Vec<OrderLine>,
    /// How it is paid; as the producer is set to where it is missing. Since version 2.
    #[serde(default)]
    pub payment: Option<PaymentMethod>,
}

/// The stock of a product has set aside what the order asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordReservation {
    /// Which product.
    pub product_id: String,
    /// How many.
    pub quantity: i64,
}

/// The stock of a product has less than the order asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordShortage {
    /// Which product.
    pub product_id: String,
    /// How many were asked for.
    pub quantity: i64,
    /// What there was instead.
    pub available: i64,
}

/// Goods and money are settled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfirmOrder {}

/// The parcel left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShipOrder {
    /// The carrier's code, where there is one.
    #[serde(default)]
    pub tracking_code: Option<String>,
}

/// The customer has the parcel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliverOrder {}

/// Ends an order that was not shipped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CancelOrder {
    /// Why, for a person to read.
    pub reason: String,
}

/// Ends an order that was not confirmed in time; one that was, or that has ended, stays as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpireOrder {}

/// The money for the order came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordPayment {
    /// How much.
    pub amount_cents: i64,
}

/// No money comes for the order, or it went back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordPaymentFailure {
    /// Why, for a person to read.
    pub reason: String,
}

/// Goods and money are there, says the order's saga.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfirmPaidOrder {
    /// How much was paid.
    pub paid_cents: i64,
}
