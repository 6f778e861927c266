//! Operating a running system: the `millrace` command as its own processes, the stock Kafka tools beside it.

mod input;
mod metrics;
mod outages;
mod resets;
mod stats;
mod stream;
mod traces;
pub(crate) mod world;
