//! Millrace: Kafka-native event sourcing and CQRS.
//!
//! Commands are decided by pure functions over an aggregate's own events ([`aggregate`]). The events are Avro
//! records described in schema files ([`event`], [`codec`], [`registry`]). A command's events are appended to a
//! Postgres journal with optimistic concurrency and published exactly once, in order, to one Kafka topic per
//! aggregate type. Projections are functions of that log with a committed position, so whatever they derive can be
//! thrown away and replayed.
//!
//! Invariant: this crate holds no word of any business domain.

pub mod aggregate;
mod checkpoints;
pub mod codec;
pub mod command;
pub mod config;
pub mod effect;
pub mod event;
mod failing;
pub mod handled;
pub mod http;
pub mod journal;
pub mod json;
pub mod lease;
pub mod log;
pub mod migration;
pub mod position;
pub mod processor;
pub mod projection;
pub mod query;
pub mod rebuild;
pub mod registry;
pub mod relay;
pub mod replay;
pub mod startup;
pub mod stats;
pub mod telemetry;
pub mod testing;
pub mod time;
pub mod timer;
