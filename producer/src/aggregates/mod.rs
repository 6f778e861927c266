//! The aggregates: where the business rules of the reference system live.

pub mod order;
