//! Domain events: the trait that [`events!`](crate::events) implements, and what travels beside an event.
//!
//! An event is an Avro record whose schema file is the contract. The enum over an aggregate's events
//! is written by [`events!`](crate::events), never by hand, so that every schema version is listed in
//! one place and no reader can meet a shape it was not told of.

use apache_avro::Schema;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::codec::CodecError;
use crate::position::JournalPosition;

/// One released version of the schema of an event, a command or a reply, as compiled in from its `.avsc` file.
#[derive(Debug, Clone, Copy)]
pub struct RecordSchema {
    /// The Avro record name, which is also the type of the event or command, such as `CounterRaised`.
    pub record: &'static str,
    /// The number in the file name, from 1; also the `ce_schemaversion` header.
    pub version: u32,
    /// The text of the `.avsc` file.
    pub json: &'static str,
    /// True for a type that is no longer written: on reading it becomes a newer one through `From`.
    pub retired: bool,
}

/// The events of one aggregate type, or the integration events of one context.
pub trait Event: Sized + Clone + Send + Sync + 'static {
    /// The aggregate type in snake case, such as `counter`, or the context's name.
    const AGGREGATE: &'static str;
    /// Every released schema, oldest version first within a record.
    const SCHEMAS: &'static [RecordSchema];

    /// The topic that they stand in: `counter.events`, or `<context>.published`.
    fn topic() -> String;

    /// The Avro record name of this event, such as `CounterRaised`.
    fn event_type(&self) -> &'static str;

    /// The Avro body in `schema`, without the registry's framing.
    fn write(&self, schema: &Schema) -> Result<Vec<u8>, CodecError>;

    /// Reads a body of record `record`; an old shape arrives as the newest one.
    fn read(
        record: &str,
        reader: &crate::codec::DatumReader,
        body: &[u8],
    ) -> Result<Self, CodecError>;
}

/// What a context tells others: events with schemas of their own in a topic of their own, so that nobody outside reads,
/// and thereby holds fast, the inner ones. Implemented by [`integration_events!`](crate::integration_events).
///
/// A processor publishes them with [`Outbox::publish`](crate::processor::Outbox::publish). They read like any other
/// event: by processors, effects, tallies and SQL projections. Not by a fold, which needs every event of an
/// aggregate: not every inner event is published, so their sequences have gaps.
pub trait IntegrationEvent: Event {}

/// Where an event stands, who it concerns and what caused it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// UUIDv7 of a journal event; UUIDv5 of what a processor emitted.
    pub event_id: Uuid,
    /// When the command was accepted.
    pub occurred_at: DateTime<Utc>,
    /// Key in the journal's order.
    pub position: JournalPosition,
    /// Number of the schema file that the event was written with.
    pub schema_version: u32,
    /// What set off the whole chain that this event belongs to.
    pub correlation_id: Option<String>,
    /// Id of the command that led to this event.
    pub causation_id: Option<String>,
    /// Tenant that the aggregate belongs to, where there is one.
    pub tenant_id: Option<String>,
    /// W3C trace context of the command.
    pub traceparent: Option<String>,
}

/// An event as it stands on its topic: decoded, with its key, sequence and place.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded<E> {
    /// Topic, such as `counter.events`.
    pub topic: String,
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// The record's key.
    pub aggregate_id: String,
    /// Version of the aggregate that this event brought about, from 1 without gaps.
    pub sequence: i64,
    /// The event in its newest shape.
    pub event: E,
    /// Everything else from the headers.
    pub metadata: Metadata,
}

/// The topic of an aggregate type's events: `counter` -> `counter.events`.
pub fn events_topic(aggregate: &str) -> String {
    format!("{aggregate}.events")
}

/// The topic of the commands to an aggregate type: `counter` -> `counter.commands`.
pub fn commands_topic(aggregate: &str) -> String {
    format!("{aggregate}.commands")
}

/// The topic of the answers to an aggregate type's commands: `counter` -> `counter.replies`.
pub fn replies_topic(aggregate: &str) -> String {
    format!("{aggregate}.replies")
}

/// The topic of a context's integration events: `bookings` -> `bookings.published`.
pub fn published_topic(context: &str) -> String {
    format!("{context}.published")
}

/// The CloudEvents type of an event: `counter` and `CounterRaised` -> `counter.raised`.
///
/// The record's leading aggregate name is dropped, the rest becomes snake case; a record that does not
/// begin with the aggregate's name keeps all its words.
pub fn ce_type(aggregate: &str, record: &str) -> String {
    let words = snake_case(record);
    let rest = words
        .strip_prefix(aggregate)
        .and_then(|rest| rest.strip_prefix('_'))
        .unwrap_or(&words);
    format!("{aggregate}.{rest}")
}

pub(crate) fn snake_case(pascal: &str) -> String {
    let mut out = String::with_capacity(pascal.len() + 4);
    for (index, letter) in pascal.chars().enumerate() {
        if letter.is_ascii_uppercase() {
            if index > 0 {
                out.push('_');
            }
            out.push(letter.to_ascii_lowercase());
        } else {
            out.push(letter);
        }
    }
    out
}

/// Declares the events of one aggregate type: the enum, its schemas and its encoding.
///
/// Each record names its released versions, oldest first; the file of version `n` is
/// `avro/<domain>/<Record>.v<n>.avsc` beside the calling crate's manifest. A `retired` record is only
/// read: its struct must still exist, and `From` turns it into the record that took its place.
///
/// ```ignore
/// millrace::events! {
///     /// What can happen to an order.
///     pub enum CounterEvent for "counter" in "commerce" {
///         CounterRaised [1, 2],
///         CounterSealed [1],
///     }
///     retired { CounterBumped [1] => CounterRaised }
/// }
/// ```
#[macro_export]
macro_rules! events {
    (
        $(#[$meta:meta])*
        pub enum $name:ident for $aggregate:literal in $domain:literal { $($records:tt)+ }
        $( retired { $($retired:tt)+ } )?
    ) => {
        $crate::event_enum! {
            $crate::event::events_topic, "/";
            $(#[$meta])*
            pub enum $name for $aggregate in $domain { $($records)+ }
            $( retired { $($retired)+ } )?
        }
    };
}

/// Declares the integration events of one context, as [`events!`](crate::events) declares those of an aggregate type.
///
/// The file of version `n` is `avro/<domain>/published/<Record>.v<n>.avsc`, the topic `<context>.published`. A context is
/// not called as an aggregate type is.
///
/// ```ignore
/// millrace::integration_events! {
///     /// What others may know of bookings.
///     pub enum BookingsPublished for "bookings" in "venue" {
///         SeatTaken [1],
///     }
/// }
/// ```
#[macro_export]
macro_rules! integration_events {
    (
        $(#[$meta:meta])*
        pub enum $name:ident for $context:literal in $domain:literal { $($records:tt)+ }
        $( retired { $($retired:tt)+ } )?
    ) => {
        $crate::event_enum! {
            $crate::event::published_topic, "/published/";
            $(#[$meta])*
            pub enum $name for $context in $domain { $($records)+ }
            $( retired { $($retired)+ } )?
        }

        impl $crate::event::IntegrationEvent for $name {}
    };
}

/// The enum over events and its encoding; used by [`events!`](crate::events) and
/// [`integration_events!`](crate::integration_events).
#[doc(hidden)]
#[macro_export]
macro_rules! event_enum {
    (
        $topic:path, $folder:literal;
        $(#[$meta:meta])*
        pub enum $name:ident for $aggregate:literal in $domain:literal {
            $( $record:ident [$($version:literal),+] ),+ $(,)?
        }
        $( retired { $( $old:ident [$($old_version:literal),+] => $new:ident ),+ $(,)? } )?
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub enum $name {
            $(
                #[doc = concat!("See [`", stringify!($record), "`].")]
                $record($record),
            )+
        }

        $(
            impl From<$record> for $name {
                fn from(event: $record) -> Self {
                    Self::$record(event)
                }
            }
        )+

        impl $crate::event::Event for $name {
            const AGGREGATE: &'static str = $aggregate;
            const SCHEMAS: &'static [$crate::event::RecordSchema] = &[
                $( $( $crate::record_schema!($domain, $folder, $record, $version, false), )+ )+
                $( $( $( $crate::record_schema!($domain, $folder, $old, $old_version, true), )+ )+ )?
            ];

            fn topic() -> ::std::string::String {
                $topic(Self::AGGREGATE)
            }

            fn event_type(&self) -> &'static str {
                match self {
                    $( Self::$record(_) => stringify!($record), )+
                }
            }

            fn write(
                &self,
                schema: &$crate::codec::Schema,
            ) -> ::std::result::Result<::std::vec::Vec<u8>, $crate::codec::CodecError> {
                match self {
                    $( Self::$record(event) => $crate::codec::write_datum(schema, event), )+
                }
            }

            fn read(
                record: &str,
                reader: &$crate::codec::DatumReader,
                body: &[u8],
            ) -> ::std::result::Result<Self, $crate::codec::CodecError> {
                match record {
                    $(
                        stringify!($record) => {
                            reader.read::<$record>(body).map(Self::$record)
                        }
                    )+
                    $($(
                        stringify!($old) => {
                            reader.read::<$old>(body).map(|old| Self::$new($new::from(old)))
                        }
                    )+)?
                    other => Err($crate::codec::CodecError::UnknownRecord {
                        aggregate: $aggregate,
                        record: other.to_owned(),
                    }),
                }
            }
        }
    };
}

/// The schema of one file beside the calling crate's manifest; used by the macros that declare events and commands.
#[doc(hidden)]
#[macro_export]
macro_rules! record_schema {
    ($domain:literal, $folder:literal, $record:ident, $version:literal, $retired:literal) => {
        $crate::event::RecordSchema {
            record: stringify!($record),
            version: $version,
            json: include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/avro/",
                $domain,
                $folder,
                stringify!($record),
                ".v",
                stringify!($version),
                ".avsc"
            )),
            retired: $retired,
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cloudevents_type_is_the_aggregate_and_the_past_tense() {
        assert_eq!(ce_type("counter", "CounterRaised"), "counter.raised");
        assert_eq!(ce_type("user", "UserRoleChanged"), "user.role_changed");
        assert_eq!(
            ce_type("card", "CardAddedToLibrary"),
            "card.added_to_library"
        );
        assert_eq!(ce_type("counter", "MarkAdded"), "counter.mark_added");
    }
}
