//! A processor with its event type erased: what the engine runs and the test kit runs again.

use super::outbox::Source;
use super::{HandleError, Order, Outbox, Processor, group};
use crate::codec::{Codec, CodecError};
use crate::event::{Event, Recorded};
use crate::log::record::{HeaderBlock, Record};
use crate::projection::Start;
use crate::telemetry::trace;

/// A record to be produced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Topic.
    pub topic: String,
    /// Partition; the key decides where there is none.
    pub partition: Option<i32>,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value; none is a tombstone in a compacted topic.
    pub payload: Option<Vec<u8>>,
    /// Headers.
    pub headers: HeaderBlock,
}

/// Why a record led to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunError {
    /// This schema id is to be learnt first.
    UnknownSchema(u32),
    /// The handler's answer, or why there is no event to hand to it.
    Handle(HandleError),
}

impl RunError {
    fn poison(error: impl std::fmt::Display) -> Self {
        Self::Handle(HandleError::Poison(error.to_string()))
    }
}

/// What the engine needs of a processor; implemented for every [`Processor`].
pub trait Handler: Send + Sync + 'static {
    /// The processor's name.
    fn name(&self) -> &str;

    /// The topic that it reads.
    fn topic(&self) -> String;

    /// Where it starts on a partition that it never read.
    fn start(&self) -> Start;

    /// Whether a dead letter blocks its key.
    fn order(&self) -> Order;

    /// What a record leads to: commands and integration events.
    fn run(&self, codec: &Codec, record: &Record) -> Result<Vec<Outgoing>, RunError>;

    /// Its consumer group.
    fn group(&self) -> String {
        group(self.name())
    }
}

/// Makes a [`Handler`] of a [`Processor`].
pub(super) struct Erased<P>(pub(super) P);

impl<P: Processor> Handler for Erased<P> {
    fn name(&self) -> &str {
        P::NAME
    }

    fn topic(&self) -> String {
        P::Event::topic()
    }

    fn start(&self) -> Start {
        P::START
    }

    fn order(&self) -> Order {
        P::ORDER
    }

    fn run(&self, codec: &Codec, record: &Record) -> Result<Vec<Outgoing>, RunError> {
        let envelope = record.envelope.as_ref().map_err(RunError::poison)?;
        let payload = record
            .payload
            .as_deref()
            .ok_or_else(|| RunError::poison("the record has no value"))?;
        let event = codec.decode(payload).map_err(|error| match error {
            CodecError::UnknownSchema(id) => RunError::UnknownSchema(id),
            error => RunError::poison(error),
        })?;
        let mut metadata = envelope.metadata.clone();
        let topic = &record.topic;
        let _processing = trace::processing(P::NAME, topic, &mut metadata.traceparent).entered();
        let recorded: Recorded<P::Event> = Recorded {
            topic: record.topic.to_string(),
            partition: record.partition,
            offset: record.offset,
            aggregate_id: envelope.aggregate_id.clone(),
            sequence: envelope.sequence,
            event,
            metadata,
        };
        let source = Source {
            aggregate_id: &recorded.aggregate_id,
            sequence: recorded.sequence,
            metadata: &recorded.metadata,
        };
        let mut out = Outbox::new(codec, P::NAME, source);
        self.0
            .handle(&recorded, &mut out)
            .and_then(|()| out.finish())
            .map_err(RunError::Handle)
    }
}
