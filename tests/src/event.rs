//! Events as a relay would have published them, for suites that have none.

use std::collections::HashMap;

use anyhow::Result;
use millrace::codec::{Codec, Schema, Writer};
use millrace::event::RecordSchema;
use rdkafka::message::{Header, OwnedHeaders};
use uuid::Uuid;

/// Reads and writes these records of one aggregate under ids that count up from the first.
pub fn codec(aggregate: &'static str, schemas: &[&RecordSchema], first_id: u32) -> Result<Codec> {
    let of_it: Vec<_> = schemas.iter().map(|schema| (aggregate, *schema)).collect();
    codec_of(&of_it, first_id)
}

/// The same for records of several aggregates or contexts.
pub fn codec_of(schemas: &[(&'static str, &RecordSchema)], first_id: u32) -> Result<Codec> {
    let mut writers = HashMap::new();
    for ((aggregate, schema), schema_id) in schemas.iter().zip(first_id..) {
        let writer = Writer {
            schema_id,
            version: schema.version,
            schema: Schema::parse_str(schema.json)?,
        };
        writers.insert((*aggregate, schema.record), writer);
    }
    let codec = Codec::new(writers);
    for ((_, schema), schema_id) in schemas.iter().zip(first_id..) {
        codec.add_reader(schema_id, schema.json)?;
    }
    Ok(codec)
}

/// The headers of an event of a journal in which it stands at this position.
pub fn headers(id: Uuid, subject: &str, sequence: i64, position: i64) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new();
    for (key, value) in [
        ("ce_specversion", "1.0".to_owned()),
        ("ce_id", id.to_string()),
        ("ce_subject", subject.to_owned()),
        ("ce_time", "2026-01-02T03:04:05.678901Z".to_owned()),
        ("ce_sequence", sequence.to_string()),
        ("ce_schemaversion", "1".to_owned()),
        ("ce_correlationid", format!("corr-{subject}")),
        ("ce_tenantid", "acme".to_owned()),
        ("millrace_position", format!("1:7:{position}")),
    ] {
        headers = headers.insert(Header {
            key,
            value: Some(&value),
        });
    }
    headers
}
