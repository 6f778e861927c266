//! Processors: the same suite over the kit without a broker and over Kafka, and what only a broker can show.

mod conformance;
mod fencing;
mod kafka;
mod memory;
mod published;
mod seats;
