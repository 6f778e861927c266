//! The set of commands that an aggregate takes.

use apache_avro::Schema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{CodecError, DatumReader};
use crate::event::RecordSchema;
use crate::json;

/// The commands of one aggregate type; implemented by [`commands!`](crate::commands), never by hand.
pub trait CommandSet: Clone + Send + Sync + 'static {
    /// The aggregate type in snake case, such as `counter`; its commands' topic is `counter.commands`.
    const AGGREGATE: &'static str;
    /// Every command type, such as `RaiseCounter`.
    const TYPES: &'static [&'static str];
    /// Every released schema, oldest version first within a record.
    const SCHEMAS: &'static [RecordSchema];

    /// Fields of a command that stand in no id, hash, log or rejects file.
    fn secret_fields(command_type: &str) -> &'static [&'static str];

    /// The processors and timers that alone send a command of this type; none where anybody may. Such a command is not taken
    /// over HTTP, where it would pass by the rule that its senders keep.
    fn sent_by(command_type: &str) -> &'static [&'static str];

    /// The type of this command, which is also its Avro record name.
    fn command_type(&self) -> &'static str;

    /// Reads a command's data.
    fn from_json(command_type: &str, data: &str) -> Result<Self, CommandDataError>;

    /// A command's data, as [`CommandSet::from_json`] reads it.
    fn to_json(&self) -> Result<json::Value, json::Error>;

    /// The Avro body in `schema`, without the registry's framing.
    fn write(&self, schema: &Schema) -> Result<Vec<u8>, CodecError>;

    /// Reads a body of record `record`; what older bytes lack comes from serde's defaults.
    fn read(record: &str, reader: &DatumReader, body: &[u8]) -> Result<Self, CodecError>;
}

/// One type of command; implemented by [`commands!`](crate::commands) for each struct that it names.
pub trait Command: Serialize + Into<Self::Set> {
    /// All commands of the aggregate that takes it; `Set::AGGREGATE` is the aggregate's type.
    type Set: CommandSet;
    /// Its name, such as `RaiseCounter`: the Avro record's, and the `type` over HTTP.
    const TYPE: &'static str;
}

/// Why a command's data could not be read.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum CommandDataError {
    /// There is no such command.
    #[error("command type {command_type} is unknown; known are: {known}")]
    UnknownType {
        /// What was asked for.
        command_type: String,
        /// What there is, separated by commas.
        known: String,
    },
    /// A field is unknown, missing or of another type.
    #[error("{command_type}: at {path}: {reason}")]
    Invalid {
        /// Type of the command.
        command_type: String,
        /// Path to the field, such as `lines[0].quantity`.
        path: String,
        /// What is wrong there.
        reason: String,
    },
}

/// Reads one command's data, with the path to what is wrong; used by [`commands!`](crate::commands).
pub fn read_data<T: DeserializeOwned>(
    command_type: &str,
    data: &str,
) -> Result<T, CommandDataError> {
    let mut json = serde_json::Deserializer::from_str(data);
    let invalid = |path: String, reason: String| CommandDataError::Invalid {
        command_type: command_type.to_owned(),
        path,
        reason,
    };
    let value = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| invalid(error.path().to_string(), error.inner().to_string()))?;
    json.end()
        .map_err(|error| invalid(".".to_owned(), error.to_string()))?;
    Ok(value)
}

/// A command's data as JSON; used by [`commands!`](crate::commands).
pub fn write_data<T: Serialize>(command: &T) -> Result<json::Value, json::Error> {
    serde_json::to_value(command)
}

/// Declares the commands of one aggregate type: an enum over structs that are read from JSON and from Avro.
///
/// Each command names its released schema versions, oldest first; the file of version `n` is
/// `avro/<domain>/commands/<Command>.v<n>.avsc` beside the calling crate's manifest. `secret` names fields, `sent_by`
/// processors and timers: see [`CommandSet`]. The structs should carry
/// `#[serde(deny_unknown_fields)]`, so that a misspelt field is refused, and `#[serde(default)]` on every field that its
/// schema has a default for. Times use [`crate::time`], which is RFC 3339 in JSON and milliseconds in Avro.
///
/// ```ignore
/// millrace::commands! {
///     /// What can be asked of a user.
///     pub enum UserCommand for "user" in "accounts" {
///         RegisterUser [1, 2] secret ["password"],
///         DeactivateUser [1],
///         RecordDelivery [1] sent_by ["delivery"],
///     }
/// }
/// ```
#[macro_export]
macro_rules! commands {
    (
        $(#[$meta:meta])*
        pub enum $name:ident for $aggregate:literal in $domain:literal {
            $(
                $command:ident [$($version:literal),+]
                $(secret [$($secret:literal),+])?
                $(sent_by [$($sender:literal),+])?
            ),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name {
            $(
                #[doc = concat!("See [`", stringify!($command), "`].")]
                $command($command),
            )+
        }

        $(
            impl From<$command> for $name {
                fn from(command: $command) -> Self {
                    Self::$command(command)
                }
            }

            impl $crate::command::Command for $command {
                type Set = $name;
                const TYPE: &'static str = stringify!($command);
            }
        )+

        impl $crate::command::CommandSet for $name {
            const AGGREGATE: &'static str = $aggregate;
            const TYPES: &'static [&'static str] = &[$(stringify!($command)),+];
            const SCHEMAS: &'static [$crate::event::RecordSchema] = &[
                $( $( $crate::record_schema!($domain, "/commands/", $command, $version, false), )+ )+
            ];

            fn secret_fields(command_type: &str) -> &'static [&'static str] {
                match command_type {
                    $( stringify!($command) => &[$($($secret),+)?], )+
                    _ => &[],
                }
            }

            fn sent_by(command_type: &str) -> &'static [&'static str] {
                match command_type {
                    $( stringify!($command) => &[$($($sender),+)?], )+
                    _ => &[],
                }
            }

            fn command_type(&self) -> &'static str {
                match self {
                    $( Self::$command(_) => stringify!($command), )+
                }
            }

            fn from_json(
                command_type: &str,
                data: &str,
            ) -> ::std::result::Result<Self, $crate::command::CommandDataError> {
                match command_type {
                    $(
                        stringify!($command) => {
                            $crate::command::read_data::<$command>(command_type, data)
                                .map(Self::$command)
                        }
                    )+
                    other => Err($crate::command::CommandDataError::UnknownType {
                        command_type: other.to_owned(),
                        known: Self::TYPES.join(", "),
                    }),
                }
            }

            fn to_json(
                &self,
            ) -> ::std::result::Result<$crate::json::Value, $crate::json::Error> {
                match self {
                    $( Self::$command(command) => $crate::command::write_data(command), )+
                }
            }

            fn write(
                &self,
                schema: &$crate::codec::Schema,
            ) -> ::std::result::Result<::std::vec::Vec<u8>, $crate::codec::CodecError> {
                match self {
                    $( Self::$command(command) => $crate::codec::write_datum(schema, command), )+
                }
            }

            fn read(
                record: &str,
                reader: &$crate::codec::DatumReader,
                body: &[u8],
            ) -> ::std::result::Result<Self, $crate::codec::CodecError> {
                match record {
                    $(
                        stringify!($command) => {
                            reader.read::<$command>(body).map(Self::$command)
                        }
                    )+
                    other => Err($crate::codec::CodecError::UnknownRecord {
                        aggregate: $aggregate,
                        record: other.to_owned(),
                    }),
                }
            }
        }
    };
}
