//! Products: what is sold, and for how much. The product's id is that of its stock too.

mod commands;
mod events;

pub use commands::*;
pub use events::*;
