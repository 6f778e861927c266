//! Kafka: clients with every setting that matters, the topics, the one consumer loop's parts and its transactions.
//!
//! Nothing but the relay, the processors and what answers commands produces to Kafka.

pub mod client;
pub(crate) mod consumer;
pub mod contact;
pub mod headers;
pub mod offsets;
pub mod read;
pub mod record;
pub mod topics;
pub(crate) mod transaction;
pub(crate) mod watchdog;

pub use consumer::Key;
