//! Events of the stock of a product.

use serde::{Deserialize, Serialize};

use crate::order::Coordination;

millrace::events! {
    /// What can happen to the stock of a product.
    pub enum StockEvent for "stock" in "commerce" {
        StockReceived [1],
        StockReserved [1, 2],
        StockReservationRefused [1, 2],
        StockReleased [1, 2],
        StockShippedOut [1],
        StockReorderLevelSet [1],
        StockRanLow [1],
    }
}

/// Goods came in; from the first time on the stock of the product is tracked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StockReceived {
    /// How many, at least 1.
    pub quantity: i64,
}

/// Goods are set aside for an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StockReserved {
    /// For whom.
    pub order_id: String,
    /// How many, at least 1.
    pub quantity: i64,
    /// False where the product was never stocked: nothing was taken from anywhere, and nothing is given back.
    pub tracked: bool,
    /// Who moves the order on, and so who is told; since version 2.
    #[serde(default)]
    pub coordination: Coordination,
}

/// There is less than an order asks for; nothing is set aside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StockReservationRefused {
    /// Who asked.
    pub order_id: String,
    /// How many were asked for.
    pub quantity: i64,
    /// What there was instead.
    pub available: i64,
    /// Who moves the order on, and so who is told; since version 2.
    #[serde(default)]
    pub coordination: Coordination,
}

/// Goods that were set aside for an order are available again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StockReleased {
    /// Whose they were.
    pub order_id: String,
    /// How many.
    pub quantity: i64,
    /// Who moves the order on, and so who is told; since version 2.
    #[serde(default)]
    pub coordination: Coordination,
}

/// Goods that were set aside for an order left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StockShippedOut {
    /// Whose they are.
    pub order_id: String,
    /// How many.
    pub quantity: i64,
}

/// From how many on the stock is low.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StockReorderLevelSet {
    /// 0 where it never is.
    pub level: i64,
}

/// What is available fell to the reorder level or below it; said once until it was above it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StockRanLow {
    /// What is left to be reserved.
    pub available: i64,
    /// At how many it is low.
    pub reorder_level: i64,
}
