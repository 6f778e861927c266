//! How an order gets its goods, by the events of the aggregates alone:
//!
//! ```text
//! OrderPlaced ─[order-stock]─> ReserveStock to each product
//!     StockReserved ─[stock-order]─> RecordReservation ─> OrderProductReserved … OrderConfirmed with the last
//!     StockReservationRefused ─[stock-order]─> RecordShortage ─> OrderCancelled
//! OrderShipped ─[order-stock]─> ShipOutStock to each product
//! OrderCancelled ─[order-stock]─> ReleaseStock to each product
//! ```
//!
//! A placed order that hears nothing is cancelled by its timer. A confirmed one is posted to a webhook, where one is set.
//!
//! Per order and product the commands follow the order's events: these have one key, and so have the commands. A release
//! never overtakes the reservation that it gives back.

pub mod order_stock;
pub mod order_webhook;
pub mod stock_order;
