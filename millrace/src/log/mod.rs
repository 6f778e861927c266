//! Kafka: clients with every setting that matters, and the topics.
//!
//! Nothing but the relay and the consumer loops produces to Kafka.

pub mod client;
pub mod headers;
pub mod topics;
