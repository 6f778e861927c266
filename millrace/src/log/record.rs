//! A record as it was consumed: kept whole, so that it can be parked as it stands on the topic.

use std::sync::Arc;

use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers};
use serde_json::{Map, Value};

use crate::event::Metadata;
use crate::log::headers::{self, HeaderError};

/// Longest key of an event: it stands in the primary keys of views and of parking, whose entries are bounded.
const KEY_MAX_BYTES: usize = 200;

/// A consumed record.
#[derive(Debug, Clone)]
pub struct Record {
    /// Topic, such as `counter.events`.
    pub topic: Arc<str>,
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// Its key as it stands there.
    pub key: Option<Vec<u8>>,
    /// Its value as it stands there.
    pub payload: Option<Vec<u8>>,
    /// Its headers as they stand there.
    pub headers: HeaderBlock,
    /// What key and headers say, or why the record is no event of any aggregate.
    pub envelope: Result<Envelope, RecordError>,
}

/// What is known of an event before its value is decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The record's key.
    pub aggregate_id: String,
    /// Version of the aggregate that the event brought about, from 1.
    pub sequence: i64,
    /// Everything else from the headers.
    pub metadata: Metadata,
}

/// Why a record is no event of any aggregate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The key is the aggregate's id, so there must be one, and it must be text that Postgres can index.
    #[error(
        "the record has no key, or one that is not UTF-8, holds a NUL or is longer than {KEY_MAX_BYTES} bytes"
    )]
    Key,
    /// A header that every event carries is missing or malformed.
    #[error(transparent)]
    Headers(#[from] HeaderError),
}

impl Record {
    /// Copies what the consumer polled; `topic` is shared by all records of the topic.
    pub fn of(message: &BorrowedMessage<'_>, topic: Arc<str>) -> Self {
        let headers = HeaderBlock::of(message);
        Self::new(
            (topic, message.partition(), message.offset()),
            message.key().map(<[u8]>::to_vec),
            message.payload().map(<[u8]>::to_vec),
            headers,
        )
    }

    /// A record at (topic, partition, offset), its envelope read from key and headers.
    pub fn new(
        at: (Arc<str>, i32, i64),
        key: Option<Vec<u8>>,
        payload: Option<Vec<u8>>,
        headers: HeaderBlock,
    ) -> Self {
        let (topic, partition, offset) = at;
        let envelope = Envelope::read(key.as_deref(), &headers);
        Self {
            topic,
            partition,
            offset,
            key,
            payload,
            headers,
            envelope,
        }
    }

    /// The aggregate that the record belongs to, where it belongs to one.
    pub fn aggregate_id(&self) -> Option<&str> {
        self.envelope
            .as_ref()
            .ok()
            .map(|envelope| envelope.aggregate_id.as_str())
    }

    /// Bytes held by it, near enough to bound a batch.
    pub fn size(&self) -> usize {
        let len = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        len(&self.key) + len(&self.payload) + self.headers.0.len() + 256
    }
}

impl Envelope {
    fn read(key: Option<&[u8]>, headers: &HeaderBlock) -> Result<Self, RecordError> {
        let (sequence, metadata) = headers::parse(headers.iter())?;
        let aggregate_id = key
            .filter(|key| key.len() <= KEY_MAX_BYTES && !key.contains(&0))
            .and_then(|key| std::str::from_utf8(key).ok())
            .ok_or(RecordError::Key)?
            .to_owned();
        Ok(Self {
            aggregate_id,
            sequence,
            metadata,
        })
    }
}

/// All headers of a record in one allocation: they are read once and seldom needed again.
///
/// Each is written as length and bytes of the name, then length and bytes of the value; a null value
/// has the length `u32::MAX`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderBlock(Vec<u8>);

impl HeaderBlock {
    pub(crate) fn of(message: &BorrowedMessage<'_>) -> Self {
        let mut block = Self(Vec::with_capacity(640));
        if let Some(headers) = message.headers() {
            for header in headers.iter() {
                block.push(header.key, header.value);
            }
        }
        block
    }

    /// Adds a header.
    pub fn push(&mut self, name: &str, value: Option<&[u8]>) {
        self.push_bytes(Some(name.as_bytes()));
        self.push_bytes(value);
    }

    fn push_bytes(&mut self, bytes: Option<&[u8]>) {
        let len = bytes.map_or(u32::MAX, |bytes| bytes.len() as u32);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(bytes.unwrap_or_default());
    }

    /// Names and values, in the record's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let name = take(&mut rest).unwrap_or_default();
            let value = take(&mut rest);
            Some((std::str::from_utf8(name).unwrap_or_default(), value))
        })
    }

    /// An object of name and text; a value that is not UTF-8, or holds a NUL, which Postgres stores in no text,
    /// becomes an array of its bytes.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        for (name, value) in self.iter() {
            let value = match value.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
                None => Value::Null,
                Some((_, Ok(text))) if !text.contains('\0') => Value::from(text),
                Some((bytes, _)) => Value::from(bytes.to_vec()),
            };
            object.entry(name).or_insert(value);
        }
        Value::Object(object)
    }

    /// The opposite of [`to_json`](Self::to_json).
    pub fn from_json(json: &Value) -> Self {
        let mut block = Self::default();
        for (name, value) in json.as_object().into_iter().flatten() {
            match value {
                Value::String(text) => block.push(name, Some(text.as_bytes())),
                Value::Array(bytes) => {
                    let bytes: Vec<u8> = bytes
                        .iter()
                        .filter_map(|byte| u8::try_from(byte.as_u64()?).ok())
                        .collect();
                    block.push(name, Some(&bytes));
                }
                _ => block.push(name, None),
            }
        }
        block
    }
}

fn take<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (len, tail) = rest.split_first_chunk::<4>()?;
    let len = u32::from_ne_bytes(*len);
    if len == u32::MAX {
        *rest = tail;
        return None;
    }
    let (bytes, tail) = tail.split_at_checked(len as usize)?;
    *rest = tail;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_from_json_as_they_went_in() {
        let mut block = HeaderBlock::default();
        block.push("ce_id", Some(b"1"));
        block.push("trace", None);
        block.push("zy", Some(b"a\0b"));
        block.push("zz", Some(&[0xff, 0x00]));
        assert_eq!(block.iter().count(), 4);
        let json = block.to_json();
        assert_eq!(HeaderBlock::from_json(&json), block);
        assert!(!json.to_string().contains("\\u0000"), "{json}");
    }

    #[test]
    fn a_record_without_our_headers_belongs_to_no_aggregate() {
        let record = Record::new(
            ("counter.events".into(), 3, 7),
            Some(b"42".to_vec()),
            Some(b"{}".to_vec()),
            HeaderBlock::default(),
        );
        assert_eq!(record.aggregate_id(), None);
        assert!(matches!(record.envelope, Err(RecordError::Headers(_))));
    }
}
