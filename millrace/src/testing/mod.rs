//! Test kits for those who build on the library.

pub mod contract;
mod given;

pub use given::{Given, Outcome, given};
