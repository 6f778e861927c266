//! Replies: what a command from Kafka is answered with.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::command::{Accepted, CommandError};
use crate::event::RecordSchema;

/// Namespace of what is derived from a command id that is no UUID itself.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d69_6c6c_7261_6365_8000_696e_626f_7800);

/// Record name of [`CommandReply`].
pub(super) const RECORD: &str = "CommandReply";

/// Every released schema of a reply.
pub(crate) const SCHEMAS: &[RecordSchema] = &[RecordSchema {
    record: RECORD,
    version: 1,
    json: include_str!("../../../avro/CommandReply.v1.avsc"),
    retired: false,
}];

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandOutcome {
    /// Its events are durable.
    Accepted,
    /// The domain says no.
    Rejected,
    /// The aggregate is at another version than was expected, or the id stands for another command.
    Conflict,
}

/// The answer to a command that came over Kafka, as it stands in `<aggregate>.replies`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandReply {
    /// The command's `ce_id`.
    pub command_id: String,
    /// Its type.
    pub command_type: String,
    /// How it ended.
    pub outcome: CommandOutcome,
    /// Version of the aggregate after it, or the one that it was refused on.
    #[serde(default)]
    pub version: Option<i64>,
    /// `ce_id` of each event that it brought about.
    #[serde(default)]
    pub event_ids: Vec<String>,
    /// Why it was not accepted.
    #[serde(default)]
    pub reason: Option<String>,
    /// True where this outcome had been decided before, under the same id.
    #[serde(default)]
    pub repeated: bool,
}

/// `ce_id` of the reply to a command: UUIDv5 of "reply" in the command's id, so that a repeated reply repeats it.
///
/// An id that is no UUID is first made one.
pub fn reply_id(command_id: &str) -> Uuid {
    let namespace = Uuid::parse_str(command_id)
        .unwrap_or_else(|_| Uuid::new_v5(&NAMESPACE, command_id.as_bytes()));
    Uuid::new_v5(&namespace, b"reply")
}

/// What becomes of a command that was handed to the handler.
#[derive(Debug)]
pub(super) enum End {
    /// It is answered.
    Reply(CommandReply),
    /// It can never be carried out as it is.
    DeadLetter(String),
    /// The writer ended without a word: it is read again.
    Unknown(String),
}

impl End {
    pub(super) fn of(
        command_id: &str,
        command_type: &str,
        result: Result<Accepted, CommandError>,
    ) -> Self {
        let reply = |outcome| CommandReply {
            command_id: command_id.to_owned(),
            command_type: command_type.to_owned(),
            outcome,
            version: None,
            event_ids: Vec::new(),
            reason: None,
            repeated: false,
        };
        match result {
            Ok(accepted) => Self::Reply(CommandReply {
                version: Some(accepted.version),
                event_ids: accepted
                    .events
                    .iter()
                    .map(|event| event.id.to_string())
                    .collect(),
                repeated: accepted.repeated,
                ..reply(CommandOutcome::Accepted)
            }),
            Err(CommandError::Rejected {
                reason,
                version,
                repeated,
            }) => Self::Reply(CommandReply {
                version: Some(version),
                reason: Some(reason),
                repeated,
                ..reply(CommandOutcome::Rejected)
            }),
            Err(error @ CommandError::Conflict { actual, .. }) => Self::Reply(CommandReply {
                version: Some(actual),
                reason: Some(error.to_string()),
                ..reply(CommandOutcome::Conflict)
            }),
            Err(error @ CommandError::ReusedId { .. }) => Self::Reply(CommandReply {
                reason: Some(error.to_string()),
                ..reply(CommandOutcome::Conflict)
            }),
            Err(
                error @ (CommandError::Malformed(_)
                | CommandError::Data(_)
                | CommandError::UnknownAggregate { .. }
                | CommandError::TooLarge { .. }
                | CommandError::Fault(_)),
            ) => Self::DeadLetter(error.to_string()),
            Err(
                error @ (CommandError::Overloaded(_)
                | CommandError::Unavailable(_)
                | CommandError::InDoubt(_)),
            ) => Self::Unknown(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::codec::{DatumReader, Schema, write_datum};

    #[test]
    fn a_reply_is_what_its_schema_file_says() {
        let reply = CommandReply {
            command_id: "c".to_owned(),
            command_type: "RaiseCounter".to_owned(),
            outcome: CommandOutcome::Conflict,
            version: Some(7),
            event_ids: vec!["e".to_owned()],
            reason: Some("r".to_owned()),
            repeated: true,
        };
        let schema = Schema::parse_str(SCHEMAS[0].json).unwrap();
        let body = write_datum(&schema, &reply).unwrap();
        let reader = DatumReader::parse(SCHEMAS[0].json).unwrap();
        assert_eq!(reader.record(), RECORD);
        assert_eq!(reader.read::<CommandReply>(&body).unwrap(), reply);
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/CommandReply.v1.avro");
        if !golden.exists() {
            std::fs::write(&golden, &body).unwrap();
            panic!("the golden file was missing and is written now, commit it");
        }
        assert_eq!(std::fs::read(golden).unwrap(), body);
    }

    #[test]
    fn a_reply_repeats_its_id_and_another_command_has_another() {
        // Pinned: a changed derivation would make a repeated reply a new one.
        let command = "01890a5d-ac96-774b-bcce-b302099a8057";
        assert_eq!(
            reply_id(command),
            Uuid::new_v5(&Uuid::parse_str(command).unwrap(), b"reply")
        );
        assert_ne!(reply_id("c-1"), reply_id("c-2"));
        assert_eq!(reply_id("c-1"), reply_id("c-1"));
    }
}
