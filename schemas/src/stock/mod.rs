//! The stock of a product; the product's id is the aggregate's.
//!
//! What was received is at any time available, reserved or shipped out. A product that was never received is not
//! tracked: it reserves always, and such a reservation is in none of these numbers.

mod commands;
mod events;

pub use commands::*;
pub use events::*;
