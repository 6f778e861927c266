//! The envelope that a command arrives in, and the answers that it can have.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::command::CommandDataError;
use crate::position::Token;

/// Longest aggregate id and command id, in bytes.
const ID_BYTES_MAX: usize = 200;

/// Who made a command's id; decides what is kept under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandId {
    /// Given by the caller or a processor: every outcome is kept, for ever.
    Given(String),
    /// Derived by `millrace send` from the line: only an acceptance is kept, so that a refused line can be sent
    /// again once the reason is gone.
    Derived(String),
    /// Made here because there was none: nothing is kept.
    Made(String),
}

impl CommandId {
    /// The id itself.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Given(id) | Self::Derived(id) | Self::Made(id) => id,
        }
    }

    /// An id for a command that came without one.
    pub fn made() -> Self {
        Self::Made(Uuid::now_v7().to_string())
    }
}

/// A command's data in the form that it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandData {
    /// JSON text, as over HTTP.
    Json(String),
    /// The registry's framing and an Avro body, as in Kafka and in timers.
    Avro(Vec<u8>),
}

impl CommandData {
    /// How much memory it holds while it waits.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Json(text) => text.len(),
            Self::Avro(payload) => payload.len(),
        }
    }
}

impl From<String> for CommandData {
    fn from(json: String) -> Self {
        Self::Json(json)
    }
}

/// A command on its way to the aggregate.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Id of the aggregate; not empty, at most 200 bytes, no control characters.
    pub aggregate_id: String,
    /// Command type, such as `RaiseCounter`.
    pub command_type: String,
    /// The command's data.
    pub data: CommandData,
    /// Its id.
    pub id: CommandId,
    /// Version that the aggregate must have, 0 for one that must be new.
    pub expected_version: Option<i64>,
    /// What set off the chain that this command belongs to; the command's own id where there is none.
    pub correlation_id: Option<String>,
    /// Tenant that it is for.
    pub tenant_id: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// When it was received.
    pub now: DateTime<Utc>,
}

impl Envelope {
    /// Says what is wrong with the ids, if anything.
    pub(crate) fn check(&self) -> Result<(), CommandError> {
        check_id("aggregate id", &self.aggregate_id)?;
        check_id("command id", self.id.as_str())?;
        for (what, value) in [
            ("correlation id", &self.correlation_id),
            ("tenant id", &self.tenant_id),
            ("traceparent", &self.traceparent),
        ] {
            if let Some(value) = value {
                check_id(what, value)?;
            }
        }
        Ok(())
    }
}

fn check_id(what: &str, id: &str) -> Result<(), CommandError> {
    let reason = if id.is_empty() {
        "is empty"
    } else if id.len() > ID_BYTES_MAX {
        "is longer than 200 bytes"
    } else if id.chars().any(char::is_control) {
        "holds a control character"
    } else {
        return Ok(());
    };
    Err(CommandError::Malformed(format!("the {what} {reason}")))
}

/// An event that a command brought about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct EventRef {
    /// `ce_id` of the event.
    pub id: Uuid,
    /// Record name, such as `CounterRaised`.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Version of the aggregate after it.
    pub sequence: i64,
}

/// The answer to an accepted command: its events are durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct Accepted {
    /// Aggregate type.
    pub aggregate: &'static str,
    /// Aggregate id.
    pub id: String,
    /// Version after the command.
    pub version: i64,
    /// What happened; empty for a no-op.
    pub events: Vec<EventRef>,
    /// For `after=` in queries; none for a no-op on an aggregate without events.
    pub token: Option<Token>,
    /// True where the command had been accepted before, under the same id; nothing was written now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub repeated: bool,
}

/// Why a command was not accepted. Rejection, conflict and failure are never mixed.
#[derive(Debug, Clone, thiserror::Error, PartialEq)]
pub enum CommandError {
    /// It cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// Its data cannot be read.
    #[error(transparent)]
    Data(#[from] CommandDataError),
    /// There is no such aggregate type.
    #[error("aggregate {aggregate} is unknown; known are: {known}")]
    UnknownAggregate {
        /// What was asked for.
        aggregate: String,
        /// What there is.
        known: String,
    },
    /// The domain says no.
    #[error("{reason}")]
    Rejected {
        /// In words.
        reason: String,
        /// Version that it was decided on.
        version: i64,
        /// True where it had been rejected before, under the same id.
        repeated: bool,
    },
    /// The aggregate is not at the version that the caller expects.
    #[error("{aggregate} {id} is at version {actual}, the command expects {expected}")]
    Conflict {
        /// Aggregate type.
        aggregate: &'static str,
        /// Aggregate id.
        id: String,
        /// What the caller said.
        expected: i64,
        /// What it is.
        actual: i64,
    },
    /// The id stands for another command.
    #[error(
        "command id {command_id} was used for other data on {aggregate} {id}: data hash {kept}, now {given}; use a new id"
    )]
    ReusedId {
        /// Aggregate type.
        aggregate: &'static str,
        /// Aggregate id.
        id: String,
        /// The id.
        command_id: String,
        /// Hash of the data that it stands for.
        kept: String,
        /// Hash of the data that came now.
        given: String,
    },
    /// An event that it brought about would not fit the topic.
    #[error("event {event_type} has {bytes} bytes, the limit is {max}")]
    TooLarge {
        /// Record name.
        event_type: &'static str,
        /// Encoded size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Too many commands wait, or others kept writing first; nothing was written.
    #[error("{0}; try again")]
    Overloaded(String),
    /// Infrastructure; nothing was written.
    #[error("{0}")]
    Unavailable(String),
    /// Infrastructure, after the append was sent: it may or may not have been written.
    #[error(
        "{0}; whether the command was accepted is not known: send it again with the same Idempotency-Key to find out"
    )]
    InDoubt(String),
    /// A fault of ours; nothing was written.
    #[error("{0}")]
    Fault(String),
}
