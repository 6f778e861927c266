//! CloudEvents 1.0 headers, Kafka protocol binding in binary mode (cloudevents.io, kafka-protocol-binding).

use std::borrow::Cow;

use chrono::{DateTime, SecondsFormat, Utc};
use rdkafka::message::{Headers, Message};
use uuid::Uuid;

use crate::event::Metadata;

/// `ce_specversion`, always 1.0.
pub const SPECVERSION: &str = "ce_specversion";
/// `ce_id`, the event's UUID.
pub const ID: &str = "ce_id";
/// `ce_source`, `/millrace/<journal uuid>`.
pub const SOURCE: &str = "ce_source";
/// `ce_type`, such as `counter.raised`.
pub const TYPE: &str = "ce_type";
/// `ce_subject`, the aggregate id.
pub const SUBJECT: &str = "ce_subject";
/// `ce_time`, RFC 3339 in UTC.
pub const TIME: &str = "ce_time";
/// `content-type`, always `application/avro`.
pub const CONTENT_TYPE: &str = "content-type";
/// `ce_sequence`, version within the aggregate, from 1.
pub const SEQUENCE: &str = "ce_sequence";
/// `ce_schemaversion`, number of the schema file.
pub const SCHEMA_VERSION: &str = "ce_schemaversion";
/// `ce_correlationid`.
pub const CORRELATION_ID: &str = "ce_correlationid";
/// `ce_causationid`.
pub const CAUSATION_ID: &str = "ce_causationid";
/// `ce_tenantid`, where there is a tenant.
pub const TENANT_ID: &str = "ce_tenantid";
/// `traceparent`, W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// `millrace_position`, `generation:xid:position` in the journal.
pub const POSITION: &str = "millrace_position";

/// Why a record is not an event of a journal.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum HeaderError {
    /// A header that every event carries is not there.
    #[error("header {0} is missing")]
    Missing(&'static str),
    /// A header has another form than it must have.
    #[error("header {name} is not valid: {value:?}")]
    Invalid {
        /// Which header.
        name: &'static str,
        /// Its text, as far as it is text.
        value: String,
    },
}

/// Time as it stands in `ce_time`.
pub fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// What the headers of a record say: sequence and metadata of the event.
pub fn read<M: Message>(message: &M) -> Result<(i64, Metadata), HeaderError> {
    match message.headers() {
        Some(headers) => parse(headers.iter().map(|header| (header.key, header.value))),
        None => parse(std::iter::empty()),
    }
}

/// The same for headers that were kept apart from their record; of equal names the first counts.
pub fn parse<'h>(
    headers: impl Iterator<Item = (&'h str, Option<&'h [u8]>)>,
) -> Result<(i64, Metadata), HeaderError> {
    const NAMES: [&str; 9] = [
        SEQUENCE,
        ID,
        TIME,
        POSITION,
        SCHEMA_VERSION,
        CORRELATION_ID,
        CAUSATION_ID,
        TENANT_ID,
        TRACEPARENT,
    ];
    let mut found: [Option<Cow<'h, str>>; 9] = Default::default();
    for (name, value) in headers {
        if let Some(index) = NAMES.iter().position(|known| *known == name)
            && found[index].is_none()
        {
            found[index] = value.map(String::from_utf8_lossy);
        }
    }
    let [sequence, id, time, position, schema_version, rest @ ..] = found;
    let [correlation_id, causation_id, tenant_id, traceparent] =
        rest.map(|text| text.map(Cow::into_owned));
    let metadata = Metadata {
        event_id: required::<Uuid>(ID, id)?,
        occurred_at: required(TIME, time)?,
        position: required(POSITION, position)?,
        schema_version: required(SCHEMA_VERSION, schema_version)?,
        correlation_id,
        causation_id,
        tenant_id,
        traceparent,
    };
    Ok((required(SEQUENCE, sequence)?, metadata))
}

fn required<T: std::str::FromStr>(
    name: &'static str,
    text: Option<Cow<'_, str>>,
) -> Result<T, HeaderError> {
    let text = text.ok_or(HeaderError::Missing(name))?;
    text.parse().map_err(|_| HeaderError::Invalid {
        name,
        value: text.chars().take(64).collect(),
    })
}
