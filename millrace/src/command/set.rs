//! The set of commands that an aggregate takes.

use serde::de::DeserializeOwned;

/// The commands of one aggregate type; implemented by [`commands!`](crate::commands), never by hand.
pub trait CommandSet: Clone + Send + Sync + 'static {
    /// Every command type, such as `RaiseCounter`.
    const TYPES: &'static [&'static str];

    /// Fields of a command that stand in no id, hash, log or rejects file.
    fn secret_fields(command_type: &str) -> &'static [&'static str];

    /// Reads a command's data.
    fn from_json(command_type: &str, data: &str) -> Result<Self, CommandDataError>;
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

/// Declares the commands of one aggregate type: an enum over structs that are read from JSON.
///
/// The structs should carry `#[serde(deny_unknown_fields)]`, so that a misspelt field is refused.
///
/// ```ignore
/// millrace::commands! {
///     /// What can be asked of a user.
///     pub enum UserCommand {
///         RegisterUser secret ["password"],
///         DeactivateUser,
///     }
/// }
/// ```
#[macro_export]
macro_rules! commands {
    (
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $command:ident $(secret [$($secret:literal),+])? ),+ $(,)?
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
        )+

        impl $crate::command::CommandSet for $name {
            const TYPES: &'static [&'static str] = &[$(stringify!($command)),+];

            fn secret_fields(command_type: &str) -> &'static [&'static str] {
                match command_type {
                    $( stringify!($command) => &[$($($secret),+)?], )+
                    _ => &[],
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
        }
    };
}
