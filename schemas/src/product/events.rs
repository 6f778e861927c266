//! Events of a product.

use serde::{Deserialize, Serialize};

millrace::events! {
    /// What can happen to a product.
    pub enum ProductEvent for "product" in "commerce" {
        ProductCreated [1],
        ProductPriced [1],
    }
}

/// A product was taken into the range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProductCreated {
    /// What it is called.
    pub name: String,
}

/// A product got a price.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProductPriced {
    /// ISO 4217 code.
    pub currency: String,
    /// Price of one.
    pub price_cents: i64,
}
