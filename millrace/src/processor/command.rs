//! The commands that a processor emits: their ids, headers and encoding.

use std::collections::HashMap;

use uuid::Uuid;

use super::{HandleError, Outgoing};
use crate::codec::{Codec, CodecError, Schema, frame};
use crate::event::{Metadata, snake_case};
use crate::log::headers;
use crate::log::record::HeaderBlock;

/// A command struct that can be sent to its aggregate over Kafka.
pub trait CommandRecord {
    /// The aggregate type that takes it, in snake case.
    const AGGREGATE: &'static str;
    /// Its Avro record name, which is also the command type, such as `RaiseCounter`.
    const RECORD: &'static str;

    /// The Avro body in `schema`, without the registry's framing.
    fn write(&self, schema: &Schema) -> Result<Vec<u8>, CodecError>;
}

/// The topic of an aggregate type's commands: `counter` -> `counter.commands`.
pub fn commands_topic(aggregate: &str) -> String {
    format!("{aggregate}.commands")
}

/// The id of an emitted command: the same intent of the same event has the same id, however often it is derived.
///
/// `ordinal` counts the commands of this type that the event led to on this aggregate, from 0.
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

/// Collects what an event leads to; emitted in the transaction that moves the offset over the event.
pub struct Outbox<'c> {
    codec: &'c Codec,
    processor: &'c str,
    source: &'c Metadata,
    ordinals: HashMap<(&'static str, &'static str, String), usize>,
    outgoing: Vec<Outgoing>,
    fault: Option<HandleError>,
}

impl<'c> Outbox<'c> {
    pub(super) fn new(codec: &'c Codec, processor: &'c str, source: &'c Metadata) -> Self {
        Self {
            codec,
            processor,
            source,
            ordinals: HashMap::new(),
            outgoing: Vec::new(),
            fault: None,
        }
    }

    /// Sends a command to an aggregate. One that cannot be encoded makes the event a dead letter.
    pub fn send<C: CommandRecord>(&mut self, aggregate_id: &str, command: &C) {
        match self.encode(command) {
            Ok((version, payload)) => self.push::<C>(aggregate_id, version, payload),
            Err(error) => {
                let fault = format!(
                    "command {} to {} {aggregate_id}: {error}",
                    C::RECORD,
                    C::AGGREGATE
                );
                self.fault.get_or_insert(HandleError::Poison(fault));
            }
        }
    }

    fn encode<C: CommandRecord>(&self, command: &C) -> Result<(u32, Vec<u8>), CodecError> {
        let writer = self.codec.writer(C::AGGREGATE, C::RECORD)?;
        let body = command.write(&writer.schema)?;
        Ok((writer.version, frame(writer.schema_id, &body)))
    }

    fn push<C: CommandRecord>(&mut self, aggregate_id: &str, version: u32, payload: Vec<u8>) {
        let ordinal = self
            .ordinals
            .entry((C::AGGREGATE, C::RECORD, aggregate_id.to_owned()))
            .or_default();
        let target = (C::AGGREGATE, aggregate_id);
        let id = command_id(
            self.source.event_id,
            self.processor,
            target,
            C::RECORD,
            *ordinal,
        );
        *ordinal += 1;
        let event_id = self.source.event_id.to_string();
        let correlation = self.source.correlation_id.as_ref().unwrap_or(&event_id);
        let mut block = HeaderBlock::default();
        for (name, value) in [
            (headers::SPECVERSION, "1.0"),
            (headers::ID, &id.to_string()),
            (
                headers::SOURCE,
                &format!("/millrace/processor/{}", self.processor),
            ),
            (
                headers::TYPE,
                &format!("{}.{}", C::AGGREGATE, snake_case(C::RECORD)),
            ),
            (headers::SUBJECT, aggregate_id),
            // The event's time, not the clock's: a replay emits the same record.
            (headers::TIME, &headers::time(self.source.occurred_at)),
            (headers::CONTENT_TYPE, "application/avro"),
            (headers::SCHEMA_VERSION, &version.to_string()),
            (headers::CORRELATION_ID, correlation),
            (headers::CAUSATION_ID, &event_id),
        ] {
            block.push(name, Some(value.as_bytes()));
        }
        for (name, value) in [
            (headers::TENANT_ID, &self.source.tenant_id),
            (headers::TRACEPARENT, &self.source.traceparent),
        ] {
            if let Some(value) = value {
                block.push(name, Some(value.as_bytes()));
            }
        }
        self.outgoing.push(Outgoing {
            topic: commands_topic(C::AGGREGATE),
            partition: None,
            key: Some(aggregate_id.as_bytes().to_vec()),
            payload: Some(payload),
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
        assert_eq!(id("raise", "1", 0).to_string(), "PINNED");
    }
}
