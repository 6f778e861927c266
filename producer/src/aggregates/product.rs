//! A product: what it is called and what it costs. Its id is that of its stock too.
//!
//! An order's lines carry their own totals: a price that changes later changes no order.

use millrace::aggregate::{Aggregate, Context};
use schemas::product::*;
use serde::{Deserialize, Serialize};

use crate::aggregates::{TOTAL_CENTS_MAX, is_currency};

/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 500;

/// Why a product does not do what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A name that cannot be shown.
    #[error("name is empty, longer than {NAME_BYTES_MAX} bytes or holds a control character")]
    Name,
    /// Not a currency.
    #[error("currency {0:?} is not an ISO 4217 code: three capital letters")]
    Currency(String),
    /// A price that cannot be.
    #[error("price is {0} cents, must be from 0 to {TOTAL_CENTS_MAX}")]
    Price(i64),
    /// It is in the range already, under another name.
    #[error("the product exists already, as {0:?}")]
    Exists(String),
    /// It is not in the range.
    #[error("there is no such product; create it first")]
    Unknown,
}

/// A product, as far as a decision reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Product {
    /// Empty for one that does not exist.
    name: String,
    currency: String,
    price_cents: i64,
}

impl Aggregate for Product {
    type Command = ProductCommand;
    type Event = ProductEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 1;

    fn decide(&self, command: ProductCommand, _: &Context) -> Result<Vec<ProductEvent>, Rejection> {
        match command {
            ProductCommand::CreateProduct(CreateProduct {
                name,
                currency,
                price_cents,
            }) => {
                if !self.name.is_empty() {
                    return Err(Rejection::Exists(self.name.clone()));
                }
                if name.is_empty()
                    || name.len() > NAME_BYTES_MAX
                    || name.chars().any(char::is_control)
                {
                    return Err(Rejection::Name);
                }
                let priced = priced(currency, price_cents)?;
                Ok(vec![ProductCreated { name }.into(), priced])
            }
            ProductCommand::PriceProduct(PriceProduct {
                currency,
                price_cents,
            }) => {
                if self.name.is_empty() {
                    return Err(Rejection::Unknown);
                }
                if self.currency == currency && self.price_cents == price_cents {
                    return Ok(Vec::new());
                }
                Ok(vec![priced(currency, price_cents)?])
            }
        }
    }

    fn evolve(&mut self, event: &ProductEvent) {
        match event {
            ProductEvent::ProductCreated(created) => self.name.clone_from(&created.name),
            ProductEvent::ProductPriced(priced) => {
                self.currency.clone_from(&priced.currency);
                self.price_cents = priced.price_cents;
            }
        }
    }
}

fn priced(currency: String, price_cents: i64) -> Result<ProductEvent, Rejection> {
    if !is_currency(&currency) {
        return Err(Rejection::Currency(currency));
    }
    if !(0..=TOTAL_CENTS_MAX).contains(&price_cents) {
        return Err(Rejection::Price(price_cents));
    }
    Ok(ProductPriced {
        currency,
        price_cents,
    }
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace::testing::given;

    fn create(name: &str, price_cents: i64) -> CreateProduct {
        CreateProduct {
            name: name.into(),
            currency: "EUR".into(),
            price_cents,
        }
    }

    fn price(currency: &str, price_cents: i64) -> PriceProduct {
        PriceProduct {
            currency: currency.into(),
            price_cents,
        }
    }

    fn created() -> ProductEvent {
        ProductCreated { name: "Tea".into() }.into()
    }

    fn priced(price_cents: i64) -> ProductEvent {
        ProductPriced {
            currency: "EUR".into(),
            price_cents,
        }
        .into()
    }

    #[test]
    fn a_product_is_created_with_its_price_and_once() {
        given::<Product>([])
            .when(create("Tea", 250))
            .then([created(), priced(250)]);
        given::<Product>([created(), priced(250)])
            .when(create("Coffee", 250))
            .then_rejected(Rejection::Exists("Tea".into()));
    }

    #[test]
    fn a_product_gets_another_price_and_the_same_one_changes_nothing() {
        given::<Product>([created(), priced(250)])
            .when(price("EUR", 300))
            .then([priced(300)]);
        given::<Product>([created(), priced(250)])
            .when(price("EUR", 250))
            .then_nothing();
        given::<Product>([])
            .when(price("EUR", 300))
            .then_rejected(Rejection::Unknown);
    }

    #[test]
    fn names_currencies_and_prices_are_bounded() {
        given::<Product>([])
            .when(create("", 1))
            .then_rejected(Rejection::Name);
        given::<Product>([])
            .when(create("Tea\n", 1))
            .then_rejected(Rejection::Name);
        given::<Product>([])
            .when(create("Tea", -1))
            .then_rejected(Rejection::Price(-1));
        given::<Product>([created(), priced(250)])
            .when(price("euro", 1))
            .then_rejected(Rejection::Currency("euro".into()));
    }
}
