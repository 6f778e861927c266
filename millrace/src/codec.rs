//! Avro in the Confluent wire format: a zero byte, the schema id as four bytes big-endian, the body.
//!
//! Encoding uses the ids that [`crate::registry`] found at start and needs no registry after it.
//! Decoding reads with the writer's schema straight into the newest struct: a field that old bytes lack
//! comes from `#[serde(default)]`, one that the struct lacks is skipped. A schema id that was not met
//! before is fetched by [`crate::registry::Registry::learn`], first from the journal, then from the registry.
//!
//! Invariant: an event is encoded only by `write_ser`, never through `Value::resolve`, which silently
//! drops and fills fields.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

pub use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::command::{Command, CommandSet};
use crate::event::Event;

/// Bytes before the Avro body: a zero and the schema id.
pub const FRAME_BYTES: usize = 5;

/// Why a value could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The value does not begin with the registry's framing.
    #[error("the value is not in the registry's wire format: {0}")]
    NotFramed(&'static str),
    /// The schema id was not met before; learn it, then decode again.
    #[error("schema id {0} is not known here")]
    UnknownSchema(u32),
    /// The schema belongs to no event, or no command, of this aggregate type.
    #[error("record {record} is none of aggregate {aggregate}")]
    UnknownRecord {
        /// Aggregate type that was asked to read it.
        aggregate: &'static str,
        /// Record name of the writer's schema.
        record: String,
    },
    /// No schema was registered for what is to be encoded.
    #[error("record {record} of aggregate {aggregate} was not registered at start")]
    NotRegistered {
        /// Aggregate type.
        aggregate: &'static str,
        /// Record name.
        record: &'static str,
    },
    /// The bytes do not fit the schema, or the value does not.
    #[error("avro: {0}")]
    Avro(#[from] apache_avro::Error),
    /// The body is longer than its schema says.
    #[error("{0} bytes are left over after the record")]
    TrailingBytes(usize),
}

/// Reads bodies that were written with one schema.
pub struct DatumReader {
    reader: GenericDatumReader<'static>,
    record: String,
}

impl DatumReader {
    /// Prepares to read bodies written with the schema of this JSON text.
    ///
    /// The parsed schema lives as long as the process: the reader borrows it, and the set of schemas
    /// of our own subjects is small and bounded.
    pub fn parse(json: &str) -> Result<Self, CodecError> {
        let schema: &'static Schema = Box::leak(Box::new(Schema::parse_str(json)?));
        let record = schema
            .name()
            .map(|name| name.name().to_owned())
            .unwrap_or_default();
        let reader = GenericDatumReader::builder(schema).build()?;
        Ok(Self { reader, record })
    }

    /// Name of the record, without its namespace.
    pub fn record(&self) -> &str {
        &self.record
    }

    /// Reads one body into `T`, which must be the newest shape of the record.
    pub fn read<T: DeserializeOwned>(&self, mut body: &[u8]) -> Result<T, CodecError> {
        let value = self.reader.read_deser(&mut body)?;
        whole(body)?;
        Ok(value)
    }

    /// Reads one body as a generic Avro value, for tools that know no struct.
    pub fn read_value(&self, mut body: &[u8]) -> Result<Value, CodecError> {
        let value = self.reader.read_value(&mut body)?;
        whole(body)?;
        Ok(value)
    }
}

/// A body with bytes left over was not written with this schema, however well its start fits.
fn whole(rest: &[u8]) -> Result<(), CodecError> {
    match rest.len() {
        0 => Ok(()),
        left => Err(CodecError::TrailingBytes(left)),
    }
}

/// Encodes one struct as an Avro body; a missing or an additional field is an error.
pub fn write_datum<T: Serialize>(schema: &Schema, value: &T) -> Result<Vec<u8>, CodecError> {
    Ok(GenericDatumWriter::builder(schema)
        .build()?
        .write_ser_to_vec(value)?)
}

/// Splits a framed value into schema id and body.
pub fn unframe(payload: &[u8]) -> Result<(u32, &[u8]), CodecError> {
    match payload {
        [0, a, b, c, d, body @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), body)),
        [] => Err(CodecError::NotFramed("it is empty")),
        [0, ..] => Err(CodecError::NotFramed("it is shorter than five bytes")),
        _ => Err(CodecError::NotFramed("the first byte is not zero")),
    }
}

/// Puts the registry's framing before a body.
pub fn frame(schema_id: u32, body: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(FRAME_BYTES + body.len());
    payload.push(0);
    payload.extend_from_slice(&schema_id.to_be_bytes());
    payload.extend_from_slice(body);
    payload
}

/// A schema that records are written with, and its id in the registry.
#[derive(Debug, Clone)]
pub struct Writer {
    /// Id in the registry.
    pub schema_id: u32,
    /// Version of the `.avsc` file.
    pub version: u32,
    /// The parsed schema.
    pub schema: Schema,
}

/// Encodes and decodes events and commands; cheap to clone, shared by all roles of a process.
#[derive(Clone, Default)]
pub struct Codec {
    writers: Arc<HashMap<(&'static str, &'static str), Writer>>,
    readers: Arc<RwLock<HashMap<u32, Arc<DatumReader>>>>,
}

impl Codec {
    /// A codec that writes with these schemas, by aggregate type and record name.
    pub fn new(writers: HashMap<(&'static str, &'static str), Writer>) -> Self {
        Self {
            writers: Arc::new(writers),
            readers: Arc::default(),
        }
    }

    /// Makes a schema id known for decoding.
    pub fn add_reader(&self, schema_id: u32, json: &str) -> Result<(), CodecError> {
        let reader = Arc::new(DatumReader::parse(json)?);
        self.readers
            .write()
            .expect("no thread panics while it holds the readers")
            .entry(schema_id)
            .or_insert(reader);
        Ok(())
    }

    /// The schema that a record is written with.
    pub fn writer(
        &self,
        aggregate: &'static str,
        record: &'static str,
    ) -> Result<&Writer, CodecError> {
        self.writers
            .get(&(aggregate, record))
            .ok_or(CodecError::NotRegistered { aggregate, record })
    }

    /// The framed value of an event, as it will stand in journal and topic, and its schema id.
    pub fn encode<E: Event>(&self, event: &E) -> Result<(u32, Vec<u8>), CodecError> {
        let writer = self.writer(E::AGGREGATE, event.event_type())?;
        let body = event.write(&writer.schema)?;
        Ok((writer.schema_id, frame(writer.schema_id, &body)))
    }

    /// Reads a framed value into the newest shape of its event.
    pub fn decode<E: Event>(&self, payload: &[u8]) -> Result<E, CodecError> {
        let (schema_id, body) = unframe(payload)?;
        let reader = self.reader(schema_id)?;
        E::read(reader.record(), &reader, body)
    }

    /// The framed value of a command, as it will stand in its topic, and its schema id.
    pub fn encode_command<C: Command>(&self, command: &C) -> Result<(u32, Vec<u8>), CodecError> {
        let writer = self.writer(C::Set::AGGREGATE, C::TYPE)?;
        let body = write_datum(&writer.schema, command)?;
        Ok((writer.schema_id, frame(writer.schema_id, &body)))
    }

    /// The same for a command of any type of its aggregate.
    pub fn encode_any_command<C: CommandSet>(
        &self,
        command: &C,
    ) -> Result<(u32, Vec<u8>), CodecError> {
        let writer = self.writer(C::AGGREGATE, command.command_type())?;
        let body = command.write(&writer.schema)?;
        Ok((writer.schema_id, frame(writer.schema_id, &body)))
    }

    /// Reads a framed value into the newest shape of its command.
    pub fn decode_command<C: CommandSet>(&self, payload: &[u8]) -> Result<C, CodecError> {
        let (schema_id, body) = unframe(payload)?;
        let reader = self.reader(schema_id)?;
        C::read(reader.record(), &reader, body)
    }

    /// Name of the record that a framed value was written as.
    pub fn record(&self, payload: &[u8]) -> Result<String, CodecError> {
        let (schema_id, _) = unframe(payload)?;
        Ok(self.reader(schema_id)?.record().to_owned())
    }

    /// Name of the record that this schema describes.
    pub(crate) fn record_of(&self, schema_id: u32) -> Result<String, CodecError> {
        Ok(self.reader(schema_id)?.record().to_owned())
    }

    /// Reads a framed value as JSON, in its writer's shape, and the record's name.
    pub fn decode_json(&self, payload: &[u8]) -> Result<(String, serde_json::Value), CodecError> {
        let (schema_id, body) = unframe(payload)?;
        let reader = self.reader(schema_id)?;
        let value = serde_json::Value::try_from(reader.read_value(body)?)?;
        Ok((reader.record().to_owned(), value))
    }

    /// True where values written with this schema can be read.
    pub fn can_read(&self, schema_id: u32) -> bool {
        self.reader(schema_id).is_ok()
    }

    fn reader(&self, schema_id: u32) -> Result<Arc<DatumReader>, CodecError> {
        self.readers
            .read()
            .expect("no thread panics while it holds the readers")
            .get(&schema_id)
            .cloned()
            .ok_or(CodecError::UnknownSchema(schema_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_not_framed_is_refused_with_the_reason() {
        assert!(matches!(
            unframe(b""),
            Err(CodecError::NotFramed("it is empty"))
        ));
        assert!(matches!(
            unframe(b"{\"a\":1}"),
            Err(CodecError::NotFramed(_))
        ));
        assert!(matches!(unframe(&[0, 0, 0]), Err(CodecError::NotFramed(_))));
        assert_eq!(unframe(&frame(258, b"body")).unwrap(), (258, &b"body"[..]));
    }

    #[test]
    fn bytes_left_over_after_the_record_are_an_error() {
        let reader = DatumReader::parse(
            r#"{"type":"record","name":"A","fields":[{"name":"n","type":"long"}]}"#,
        )
        .unwrap();
        assert!(matches!(
            reader.read_value(&[2, 2]),
            Err(CodecError::TrailingBytes(1))
        ));
    }
}
