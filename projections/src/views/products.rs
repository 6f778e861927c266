//! The view `products`: what is sold, and for how much.

use chrono::{DateTime, Utc};
use millrace::event::Recorded;
use millrace::projection::{Fold, Poison, Start};
use schemas::product::ProductEvent;

millrace::view_row! {
    /// A product.
    pub struct ProductRow in "products" {
        /// What it is called.
        name: String,
        /// ISO 4217 code.
        currency: Option<String>,
        /// Price of one.
        price_cents: Option<i64>,
        /// Time of its newest event.
        updated_at: DateTime<Utc>,
    }
}

/// Folds a product's events into its row.
pub struct Products;

impl Fold for Products {
    const NAME: &'static str = "products";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../migrations/products.sql");
    type Event = ProductEvent;
    type Rows = Option<ProductRow>;

    fn evolve(
        &self,
        row: &mut Option<ProductRow>,
        event: &Recorded<ProductEvent>,
    ) -> Result<(), Poison> {
        let at = event.metadata.occurred_at;
        let row = row.get_or_insert_with(|| ProductRow {
            name: String::new(),
            currency: None,
            price_cents: None,
            updated_at: at,
        });
        row.updated_at = at;
        match &event.event {
            ProductEvent::ProductCreated(created) => row.name.clone_from(&created.name),
            ProductEvent::ProductPriced(priced) => {
                row.currency = Some(priced.currency.clone());
                row.price_cents = Some(priced.price_cents);
            }
        }
        Ok(())
    }
}
