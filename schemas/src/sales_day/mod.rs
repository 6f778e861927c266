//! What was sold on one day in UTC; the day, such as `2026-01-31`, is the aggregate's id.

mod commands;
mod events;

pub use commands::*;
pub use events::*;
