//! The aggregates: where the business rules of the reference system live.

pub mod order;
pub mod stock;

/// Longest id of a customer, a product or an order, in bytes: it is a key elsewhere, and keys have limits.
const ID_BYTES_MAX: usize = 200;

/// Most of one product that an order asks for or that ever comes in: sums over millions of orders still fit.
const QUANTITY_MAX: i64 = 1_000_000_000_000;
