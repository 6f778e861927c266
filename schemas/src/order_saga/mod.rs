//! The saga that moves an order on: reserve -> pay -> confirm; what was done is undone in reverse: refund, release, cancel.
//! The order's id is the aggregate's.

mod commands;
mod events;

pub use commands::*;
pub use events::*;
