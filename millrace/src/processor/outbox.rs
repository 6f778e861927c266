//! What a processor emits, commands and integration events: their ids, headers and encoding.

use std::collections::HashMap;

use uuid::Uuid;

use super::{HandleError, Outgoing};
use crate::codec::{Codec, CodecError};
use crate::command::{Command, CommandSet};
use crate::event::{IntegrationEvent, Metadata, ce_type, commands_topic, snake_case};
use crate::log::headers;
use crate::log::record::HeaderBlock;

/// Largest value; the broker's limit for a record with its headers is 1048588.
const VALUE_MAX_BYTES: usize = 1_000_000;

/// The id of an emitted command: the same intent of the same event has the same id, however often it is derived.
///
/// `ordinal` counts the commands of this type that the event led to on this aggregate, from 0. The id of an integration
/// event is derived alike, with its topic in the place of the aggregate type.
pub fn command_id(
    event_id: Uuid,
    processor: &str,
    (aggregate, aggregate_id): (&str, &str),
    command_type: &str,
    ordinal: usize,
) -> Uuid {
    let name = format!("{processor}\0{aggregate}\0{aggregate_id}\0{command_type}\0{ordinal}");
    Uuid::new_v5(&event_id, name.as_bytes())
}

/// The event that is handled, without what it says.
#[derive(Clone, Copy)]
pub(super) struct Source<'c> {
    pub(super) aggregate_id: &'c str,
    pub(super) sequence: i64,
    pub(super) metadata: &'c Metadata,
}

/// Collects what an event leads to; emitted in the transaction that moves the offset over the event.
pub struct Outbox<'c> {
    codec: &'c Codec,
    processor: &'c str,
    source: Source<'c>,
    ordinals: HashMap<(String, &'static str, String), usize>,
    outgoing: Vec<Outgoing>,
    fault: Option<HandleError>,
}

/// A record that is encoded, and what its headers say beside its source.
struct Encoded<'e> {
    topic: String,
    key: &'e str,
    /// What its id is derived from beside the source: the aggregate type that a command is for, or the topic.
    target: &'e str,
    record: &'static str,
    kind: String,
    version: u32,
    payload: Vec<u8>,
}

impl<'c> Outbox<'c> {
    pub(super) fn new(codec: &'c Codec, processor: &'c str, source: Source<'c>) -> Self {
        Self {
            codec,
            processor,
            source,
            ordinals: HashMap::new(),
            outgoing: Vec::new(),
            fault: None,
        }
    }

    /// Sends a command to an aggregate. One that cannot be encoded, or does not fit the topic, makes the event a dead letter.
    pub fn send<C: Command>(&mut self, aggregate_id: &str, command: &C) {
        let aggregate = C::Set::AGGREGATE;
        let payload = self.codec.encode_command(command);
        match self.checked(aggregate, C::TYPE, payload) {
            Ok((version, payload)) => {
                let command = Encoded {
                    topic: commands_topic(aggregate),
                    key: aggregate_id,
                    target: aggregate,
                    record: C::TYPE,
                    kind: format!("{aggregate}.{}", snake_case(C::TYPE)),
                    version,
                    payload,
                };
                self.push(command, &[]);
            }
            Err(reason) => {
                let command = C::TYPE;
                self.fail(format!(
                    "command {command} to {aggregate} {aggregate_id}: {reason}"
                ));
            }
        }
    }

    /// Publishes an integration event, under the key of the event that is handled: so what is published of one aggregate
    /// stands in the order of its own events, and carries their sequence, which rises and may leave numbers out.
    ///
    /// A replay publishes it again under the same id: readers recognise a repeat by that, or by key and sequence. One that
    /// cannot be encoded, or does not fit the topic, makes the event a dead letter.
    pub fn publish<E: IntegrationEvent>(&mut self, event: impl Into<E>) {
        let event = event.into();
        let record = event.event_type();
        let payload = self.codec.encode(&event);
        match self.checked(E::AGGREGATE, record, payload) {
            Ok((version, payload)) => {
                let (sequence, position) = (self.source.sequence, self.source.metadata.position);
                let topic = E::topic();
                let published = Encoded {
                    target: &topic,
                    key: self.source.aggregate_id,
                    record,
                    kind: ce_type(E::AGGREGATE, record),
                    version,
                    payload,
                    topic: topic.clone(),
                };
                let place = [
                    (headers::SEQUENCE, sequence.to_string()),
                    (headers::POSITION, position.to_string()),
                ];
                self.push(published, &place);
            }
            Err(reason) => self.fail(format!("event {record} to {}: {reason}", E::topic())),
        }
    }

    fn fail(&mut self, reason: String) {
        self.fault.get_or_insert(HandleError::Poison(reason));
    }

    /// The version of the schema that it is written with, and its value, if the topic takes that.
    fn checked(
        &self,
        aggregate: &'static str,
        record: &'static str,
        encoded: Result<(u32, Vec<u8>), CodecError>,
    ) -> Result<(u32, Vec<u8>), String> {
        let (_, payload) = encoded.map_err(|error| error.to_string())?;
        let writer = self.codec.writer(aggregate, record);
        let version = writer.map_err(|error| error.to_string())?.version;
        match payload.len() {
            bytes if bytes > VALUE_MAX_BYTES => Err(format!(
                "it has {bytes} bytes, the limit is {VALUE_MAX_BYTES}"
            )),
            _ => Ok((version, payload)),
        }
    }

    fn push(&mut self, one: Encoded<'_>, place: &[(&str, String)]) {
        let ordinal = self
            .ordinals
            .entry((one.topic.clone(), one.record, one.key.to_owned()))
            .or_default();
        let source = self.source.metadata;
        let target = (one.target, one.key);
        let id = command_id(
            source.event_id,
            self.processor,
            target,
            one.record,
            *ordinal,
        );
        *ordinal += 1;
        let event_id = source.event_id.to_string();
        let correlation = source.correlation_id.as_ref().unwrap_or(&event_id);
        let mut block = HeaderBlock::default();
        for (name, value) in [
            (headers::SPECVERSION, "1.0"),
            (headers::ID, &id.to_string()),
            (
                headers::SOURCE,
                &format!("/millrace/processor/{}", self.processor),
            ),
            (headers::TYPE, &one.kind),
            (headers::SUBJECT, one.key),
            // The event's time, not the clock's: a replay emits the same record.
            (headers::TIME, &headers::time(source.occurred_at)),
            (headers::CONTENT_TYPE, "application/avro"),
            (headers::SCHEMA_VERSION, &one.version.to_string()),
            (headers::CORRELATION_ID, correlation),
            (headers::CAUSATION_ID, &event_id),
        ] {
            block.push(name, Some(value.as_bytes()));
        }
        for (name, value) in place {
            block.push(name, Some(value.as_bytes()));
        }
        for (name, value) in [
            (headers::TENANT_ID, &source.tenant_id),
            (headers::TRACEPARENT, &source.traceparent),
        ] {
            if let Some(value) = value {
                block.push(name, Some(value.as_bytes()));
            }
        }
        self.outgoing.push(Outgoing {
            key: Some(one.key.as_bytes().to_vec()),
            topic: one.topic,
            partition: None,
            payload: Some(one.payload),
            headers: block,
        });
    }

    pub(super) fn finish(self) -> Result<Vec<Outgoing>, HandleError> {
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(self.outgoing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_intent_has_the_same_id_and_any_other_has_another() {
        let event = Uuid::from_u128(7);
        let id = |processor, aggregate_id, ordinal| {
            command_id(
                event,
                processor,
                ("counter", aggregate_id),
                "RaiseCounter",
                ordinal,
            )
        };
        assert_eq!(id("raise", "1", 0), id("raise", "1", 0));
        let others = [
            id("lower", "1", 0),
            id("raise", "2", 0),
            id("raise", "1", 1),
        ];
        assert!(others.iter().all(|other| *other != id("raise", "1", 0)));
        // Pinned: a changed derivation would let every command of a replay take effect a second time.
        assert_eq!(
            id("raise", "1", 0).to_string(),
            "37b50744-c2ec-569c-b72e-799080e057f8"
        );
    }
}
