//! The queries over the library's views.

mod cards;
mod profiles;
mod statistics;

pub use cards::*;
pub use profiles::*;
pub use statistics::*;
