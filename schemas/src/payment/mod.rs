//! The payment of an order; the order's id is the aggregate's.
//!
//! What was processed was charged, what was received is the order's, what was refunded went back. Charged less
//! refunded is what the confirmed orders cost, once nothing is under way.

mod commands;
mod events;

pub use commands::*;
pub use events::*;
