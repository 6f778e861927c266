//! One file a view.

pub mod customer_totals;
pub mod event_log;
pub mod orders;
pub mod stock;
