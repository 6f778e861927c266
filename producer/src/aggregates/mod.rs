//! The aggregates: where the business rules of the reference system live.

pub mod identity;
pub mod library;
pub mod order;
pub mod order_saga;
pub mod payment;
pub mod product;
pub mod recipient;
pub mod sales_day;
pub mod stock;

/// Longest id of a customer, a product or an order, in bytes: it is a key elsewhere, and keys have limits.
const ID_BYTES_MAX: usize = 200;

/// Most of one product that an order asks for or that ever comes in: sums over millions of orders still fit.
const QUANTITY_MAX: i64 = 1_000_000_000_000;

/// Most that an order may cost: nine million such orders of one customer still fit a view's sum.
const TOTAL_CENTS_MAX: i64 = 1_000_000_000_000;

/// True for what an ISO 4217 code looks like.
fn is_currency(currency: &str) -> bool {
    currency.len() == 3 && currency.bytes().all(|byte| byte.is_ascii_uppercase())
}
