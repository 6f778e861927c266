//! Orders: what can be asked of one, and what happens to it.

mod commands;
mod events;

pub use commands::*;
pub use events::*;
