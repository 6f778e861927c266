//! A record of `<aggregate>.commands`, read into a command, or the reason why it is none.

use chrono::Utc;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};

use super::progress::Ticket;
use crate::codec::unframe;
use crate::command::{CommandData, CommandId, Envelope};
use crate::log::headers;

/// Version that the aggregate must have, 0 for one that must be new; optional.
const EXPECTED_VERSION: &str = "ce_expectedversion";

/// Longest reason that is written into a dead letter.
const REASON_CHARS_MAX: usize = 2_000;

/// A consumed record, kept whole, so that it can be dead-lettered as it stands on the topic.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) topic: String,
    pub(super) ticket: Ticket,
    pub(super) key: Option<Vec<u8>>,
    pub(super) payload: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

/// What key and headers say.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) aggregate_id: String,
    pub(super) command_id: String,
    pub(super) correlation_id: Option<String>,
    pub(super) tenant_id: Option<String>,
    pub(super) traceparent: Option<String>,
    expected_version: Option<i64>,
}

impl Incoming {
    pub(super) fn of(message: &BorrowedMessage<'_>, claim: u64) -> Self {
        let headers: Vec<(String, Option<Vec<u8>>)> = message
            .headers()
            .map(|headers| {
                let owned = |header: Header<'_, &[u8]>| {
                    (header.key.to_owned(), header.value.map(<[u8]>::to_vec))
                };
                headers.iter().map(owned).collect()
            })
            .unwrap_or_default();
        let bytes = message.payload_len() + message.key_len() + 1024;
        Self {
            topic: message.topic().to_owned(),
            ticket: Ticket {
                partition: message.partition(),
                offset: message.offset(),
                claim,
                bytes,
            },
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            headers,
        }
    }

    /// The value and its schema id.
    pub(super) fn value(&self) -> Result<(u32, &[u8]), String> {
        let payload = self
            .payload
            .as_deref()
            .ok_or("the record has no value, so it is no command")?;
        let (schema_id, _) = unframe(payload).map_err(|error| error.to_string())?;
        Ok((schema_id, payload))
    }

    /// The first header of a name, as text; `None` where it is missing.
    fn header(&self, name: &str) -> Result<Option<&str>, String> {
        let value = self.headers.iter().find(|(key, _)| key == name);
        value
            .and_then(|(_, value)| value.as_deref())
            .map(|value| {
                std::str::from_utf8(value).map_err(|_| format!("header {name} is not UTF-8"))
            })
            .transpose()
    }

    /// Reads key and headers.
    pub(super) fn head(&self) -> Result<Head, String> {
        let key = self
            .key
            .as_deref()
            .ok_or("the record has no key; it must be the aggregate's id")?;
        let aggregate_id =
            std::str::from_utf8(key).map_err(|_| "the key is not UTF-8".to_owned())?;
        if let Some(subject) = self.header(headers::SUBJECT)?
            && subject != aggregate_id
        {
            return Err(format!(
                "the key is {aggregate_id:?}, {} is {subject:?}: a command is keyed by its aggregate's id",
                headers::SUBJECT
            ));
        }
        let command_id = self.header(headers::ID)?.ok_or_else(|| {
            format!(
                "header {} is missing: without the command's id a repeat cannot be told",
                headers::ID
            )
        })?;
        let expected_version = self
            .header(EXPECTED_VERSION)?
            .map(|text| {
                text.parse()
                    .ok()
                    .filter(|version| *version >= 0)
                    .ok_or_else(|| format!("header {EXPECTED_VERSION} is {text:?}, not a version"))
            })
            .transpose()?;
        let owned = |name| Ok::<_, String>(self.header(name)?.map(str::to_owned));
        Ok(Head {
            aggregate_id: aggregate_id.to_owned(),
            command_id: command_id.to_owned(),
            correlation_id: owned(headers::CORRELATION_ID)?,
            tenant_id: owned(headers::TENANT_ID)?,
            traceparent: owned(headers::TRACEPARENT)?,
            expected_version,
        })
    }

    /// Its headers, with those of a dead letter behind them.
    pub(super) fn letter_headers(&self, reason: &str) -> OwnedHeaders {
        let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
        let mut all = OwnedHeaders::new_with_capacity(self.headers.len() + 7);
        for (key, value) in &self.headers {
            all = all.insert(Header {
                key,
                value: value.as_deref(),
            });
        }
        for (key, value) in [
            ("millrace_dlq_topic", self.topic.as_str()),
            ("millrace_dlq_partition", &self.ticket.partition.to_string()),
            ("millrace_dlq_offset", &self.ticket.offset.to_string()),
            ("millrace_dlq_cause", "poison"),
            ("millrace_dlq_reason", &reason),
            ("millrace_dlq_attempts", "1"),
            ("millrace_dlq_time", &headers::time(Utc::now())),
        ] {
            all = all.insert(Header {
                key,
                value: Some(value),
            });
        }
        all
    }
}

impl Head {
    /// The command as the handler takes it, received now.
    pub(super) fn envelope(&self, command_type: &str, payload: &[u8]) -> Envelope {
        Envelope {
            aggregate_id: self.aggregate_id.clone(),
            command_type: command_type.to_owned(),
            data: CommandData::Avro(payload.to_vec()),
            id: CommandId::Given(self.command_id.clone()),
            expected_version: self.expected_version,
            correlation_id: self.correlation_id.clone(),
            tenant_id: self.tenant_id.clone(),
            traceparent: self.traceparent.clone(),
            now: Utc::now(),
        }
    }
}
