//! Why the schemas are not as they must be.

use crate::codec::CodecError;

/// Why the schemas are not as they must be.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A schema cannot read another version, or the other way round.
    #[error(
        "schema {subject} version {version} and {ours} are not compatible both ways: {reason}; a field may only be added or removed with a default, anything else is a new record"
    )]
    Incompatible {
        /// Subject in the registry.
        subject: String,
        /// The version that ours was compared with, as the registry or the file counts.
        version: String,
        /// Which of ours.
        ours: String,
        /// The field and what is wrong with it.
        reason: String,
    },
    /// Schemas are only looked up here, and this one is not there.
    #[error(
        "schema {subject} version {version} is not registered: register it with `millrace schemas register`, or set SCHEMA_REGISTRATION=register"
    )]
    NotRegistered {
        /// Subject in the registry.
        subject: String,
        /// Number of the file.
        version: u32,
    },
    /// A schema file is not a schema.
    #[error("schema file {record}.v{version}.avsc: {source}")]
    File {
        /// Record name.
        record: &'static str,
        /// Number of the file.
        version: u32,
        /// What is wrong.
        source: CodecError,
    },
    /// Two sets of one name declare one record.
    #[error(
        "record {record} is declared twice for {name}: a command is not called as an event is, nor a context as an aggregate type"
    )]
    DeclaredTwice {
        /// Aggregate type or context.
        name: &'static str,
        /// Record name.
        record: &'static str,
    },
    /// The registry's ids do not go with the journal's.
    #[error(
        "registry gave schema id {id} to {subject}, but in the journal it stands for {known}: this is another registry, or it lost its store; restore it or correct SCHEMA_REGISTRY_URL"
    )]
    OtherRegistry {
        /// Subject that was registered now.
        subject: String,
        /// The id that it was given.
        id: i32,
        /// Subject that the journal knows under this id.
        known: String,
    },
    /// The registry refused; trying again will not help.
    #[error("registry refused {subject}: {reason}")]
    Refused {
        /// Subject or schema id.
        subject: String,
        /// What it said.
        reason: String,
    },
    /// The registry does not answer, and the journal does not know the schema either.
    #[error(
        "registry at {url} does not answer: {reason}; check that it runs and SCHEMA_REGISTRY_URL"
    )]
    Unavailable {
        /// Where it was asked.
        url: String,
        /// What happened.
        reason: String,
    },
    /// There is no such schema anywhere.
    #[error("schema id {0} is neither in the journal nor in the registry")]
    UnknownId(u32),
    /// The schema is of a record that is none of ours.
    #[error("schema id {id} is of record {record}, which is none of ours")]
    ForeignSchema {
        /// Schema id.
        id: u32,
        /// Full name of its record.
        record: String,
    },
    /// The journal does not answer.
    #[error("journal: {0}")]
    Journal(#[from] sqlx::Error),
}

impl RegistryError {
    /// True where waiting helps: a server is away.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Journal(_))
    }
}
