//! What can be asked of a product. The same structs are read from JSON over HTTP and from Avro on `product.commands`.

use serde::{Deserialize, Serialize};

millrace::commands! {
    /// What can be asked of a product.
    pub enum ProductCommand for "product" in "commerce" {
        CreateProduct [1],
        PriceProduct [1],
    }
}

/// Takes a product into the range, with its price.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateProduct {
    /// What it is called.
    pub name: String,
    /// ISO 4217 code.
    pub currency: String,
    /// Price of one.
    pub price_cents: i64,
}

/// Gives a product another price.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceProduct {
    /// ISO 4217 code.
    pub currency: String,
    /// Price of one.
    pub price_cents: i64,
}
