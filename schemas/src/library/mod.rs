//! The library: cards that curators collect, collections of them, and profiles that others follow.
//!
//! A card's id is whatever its first curator called it; a profile's id is its user's, and so are curators, owners and
//! followers named by user id.

mod card;
mod collection;
mod profile;
mod published;

pub use card::*;
pub use collection::*;
pub use profile::*;
pub use published::*;
