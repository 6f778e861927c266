//! The commands that a processor emits: their ids, headers and encoding.

use std::collections::HashMap;

use uuid::Uuid;

use super::{HandleError, Outgoing};
use crate::codec::Codec;
use crate::command::{Command, CommandSet};
use crate::event::{Metadata, commands_topic, snake_case};
use crate::log::headers;
use crate::log::record::HeaderBlock;

/// Largest value of a command; the broker's limit for a record with its headers is 1048588.
const COMMAND_MAX_BYTES: usize = 1_000_000;

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

    /// Sends a command to an aggregate. One that cannot be encoded, or does not fit the topic, makes the event a dead letter.
    pub fn send<C: Command>(&mut self, aggregate_id: &str, command: &C) {
        match self.encode(command) {
            Ok((version, payload)) => self.push::<C>(aggregate_id, version, payload),
            Err(reason) => {
                let (aggregate, command) = (C::Set::AGGREGATE, C::TYPE);
                let fault = format!("command {command} to {aggregate} {aggregate_id}: {reason}");
                self.fault.get_or_insert(HandleError::Poison(fault));
            }
        }
    }

    fn encode<C: Command>(&self, command: &C) -> Result<(u32, Vec<u8>), String> {
        let writer = self.codec.writer(C::Set::AGGREGATE, C::TYPE);
        let version = writer.map_err(|error| error.to_string())?.version;
        let (_, payload) = self
            .codec
            .encode_command(command)
            .map_err(|error| error.to_string())?;
        match payload.len() {
            bytes if bytes > COMMAND_MAX_BYTES => Err(format!(
                "it has {bytes} bytes, the limit is {COMMAND_MAX_BYTES}"
            )),
            _ => Ok((version, payload)),
        }
    }

    fn push<C: Command>(&mut self, aggregate_id: &str, version: u32, payload: Vec<u8>) {
        let ordinal = self
            .ordinals
            .entry((C::Set::AGGREGATE, C::TYPE, aggregate_id.to_owned()))
            .or_default();
        let target = (C::Set::AGGREGATE, aggregate_id);
        let id = command_id(
            self.source.event_id,
            self.processor,
            target,
            C::TYPE,
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
                &format!("{}.{}", C::Set::AGGREGATE, snake_case(C::TYPE)),
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
            topic: commands_topic(C::Set::AGGREGATE),
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
        assert_eq!(
            id("raise", "1", 0).to_string(),
            "37b50744-c2ec-569c-b72e-799080e057f8"
        );
    }
}
