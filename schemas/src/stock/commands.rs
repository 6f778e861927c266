//! What can be asked of the stock of a product. The same structs are read from JSON over HTTP and from Avro on `stock.commands`.

use serde::{Deserialize, Serialize};

use crate::order::Coordination;

millrace::commands! {
    /// What can be asked of the stock of a product.
    pub enum StockCommand for "stock" in "commerce" {
        ReceiveStock [1],
        ReserveStock [1, 2] sent_by ["order-stock", "saga-steps"],
        ReleaseStock [1] sent_by ["order-stock", "saga-steps"],
        ShipOutStock [1] sent_by ["order-stock"],
        SetReorderLevel [1],
    }
}

/// Goods came in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiveStock {
    /// How many, at least 1.
    pub quantity: i64,
}

/// Sets goods aside for an order, all of them or none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReserveStock {
    /// For whom.
    pub order_id: String,
    /// How many, at least 1.
    pub quantity: i64,
    /// Who moves the order on, and so who is told; since version 2.
    #[serde(default)]
    pub coordination: Coordination,
}

/// Makes available again what is set aside for an order, if anything is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseStock {
    /// Whose it is.
    pub order_id: String,
}

/// Takes out what is set aside for an order, if anything is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShipOutStock {
    /// Whose it is.
    pub order_id: String,
}

/// Says at how many the stock is low.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetReorderLevel {
    /// 0 where it never is.
    pub level: i64,
}
