//! The contract of the reference system: Avro schemas in `avro/`, and the structs that carry them.
//!
//! `avro/<domain>/<Event>.v<N>.avsc` and `avro/<domain>/commands/<Command>.v<N>.avsc` are never edited once released: a change is a new number, a breaking
//! change a new record. `tests/contract.rs` ties every struct to its newest file.

pub mod order;
pub mod stock;

use millrace::registry::SchemaSet;

/// The schemas of every aggregate type; what is registered at start.
pub fn all() -> Vec<SchemaSet> {
    vec![
        SchemaSet::of::<order::OrderEvent>(),
        SchemaSet::of_commands::<order::OrderCommand>(),
        SchemaSet::of_replies::<order::OrderCommand>(),
        SchemaSet::of::<stock::StockEvent>(),
        SchemaSet::of_commands::<stock::StockCommand>(),
        SchemaSet::of_replies::<stock::StockCommand>(),
    ]
}
