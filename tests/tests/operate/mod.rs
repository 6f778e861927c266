//! Operating a running system: the `millrace` command as its own processes, the stock Kafka tools beside it.

mod fenced;
mod input;
mod metrics;
mod openapi;
mod outages;
mod resets;
pub(crate) mod stats;
mod stream;
mod traces;
pub(crate) mod world;
