//! What every log under a topology must do.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use millrace::codec::Codec;
use millrace::projection::Record;
use tests::hall::HallCommand;
use uuid::Uuid;

/// A command as it stands on its topic.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Emitted {
    pub(super) id: Uuid,
    pub(super) aggregate_id: String,
    pub(super) command: HallCommand,
    pub(super) headers: BTreeMap<String, String>,
}

impl Emitted {
    pub(super) fn of(codec: &Codec, record: &Record) -> Result<Self> {
        let headers: BTreeMap<String, String> = record
            .headers
            .iter()
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
                (name.to_owned(), value)
            })
            .collect();
        Ok(Self {
            id: headers.get("ce_id").context("no id")?.parse()?,
            aggregate_id: String::from_utf8(record.key.clone().context("no key")?)?,
            command: codec.decode_command(record.payload.as_deref().context("no value")?)?,
            headers,
        })
    }

    pub(super) fn guest(&self) -> &str {
        match &self.command {
            HallCommand::ReserveSeat(command) => &command.guest,
            HallCommand::ReleaseSeat(command) => &command.guest,
            HallCommand::AdmitMember(command) => &command.guest,
        }
    }
}
