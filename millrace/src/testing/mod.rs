//! Test kits for those who build on the library.

pub mod contract;
mod given;
pub mod topology;
pub mod view;

pub use given::{Given, Outcome, given};
