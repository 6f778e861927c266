//! What can be asked of a day's sales. The same structs are read from JSON over HTTP and from Avro on `sales_day.commands`.

use serde::{Deserialize, Serialize};

millrace::commands! {
    /// What can be asked of a day's sales.
    pub enum SalesDayCommand for "sales_day" in "commerce" {
        CountSale [1] sent_by ["order-sales"],
        IssueSalesDigest [1] sent_by ["digest"],
    }
}

/// Counts a paid order of the day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountSale {
    /// Which one.
    pub order_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// What it cost.
    pub total_cents: i64,
}

/// Says what was sold on the day; sent by its timer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssueSalesDigest {}
