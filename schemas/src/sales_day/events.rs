//! Events of a day's sales.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

millrace::events! {
    /// What can happen to a day's sales.
    pub enum SalesDayEvent for "sales_day" in "commerce" {
        SalesDayOpened [1],
        SaleCounted [1],
        SalesDigestReopened [1],
        SalesDigestIssued [1],
    }
}

/// What was sold in one currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrencyTotal {
    /// ISO 4217 code.
    pub currency: String,
    /// How many orders.
    pub orders: i64,
    /// What they cost.
    pub total_cents: i64,
}

/// The first sale of a day came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SalesDayOpened {
    /// When.
    #[serde(with = "chrono::serde::ts_milliseconds")]
    pub opened_at: DateTime<Utc>,
    /// When the digest is due.
    #[serde(with = "chrono::serde::ts_milliseconds")]
    pub closes_at: DateTime<Utc>,
}

/// A paid order of the day was counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SaleCounted {
    /// Which one.
    pub order_id: String,
    /// ISO 4217 code.
    pub currency: String,
    /// What it cost.
    pub total_cents: i64,
}

/// A sale came after the day's digest: there will be another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SalesDigestReopened {
    /// Of the digest that it was too late for.
    pub revision: i64,
}

/// What was sold on the day. The one event of a day that is meant for readers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SalesDigestIssued {
    /// From 1; each counts all of the day again.
    pub revision: i64,
    /// By currency.
    pub totals: Vec<CurrencyTotal>,
}
