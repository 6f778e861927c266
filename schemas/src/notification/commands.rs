//! What can be asked of a recipient. The same structs are read from JSON over HTTP and from Avro on `recipient.commands`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Kind;

millrace::commands! {
    /// What can be asked of a recipient.
    pub enum RecipientCommand for "recipient" in "notification" {
        SetContact [1],
        RequestNotification [1],
        RecordDelivery [1],
    }
}

/// Says how a recipient is reached; what is left out stays as it is, an empty text removes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetContact {
    /// What the recipient is called.
    #[serde(default)]
    pub name: Option<String>,
    /// E-mail address.
    #[serde(default)]
    pub email: Option<String>,
    /// Phone number as E.164 has it: `+` and digits.
    #[serde(default)]
    pub phone: Option<String>,
    /// Language as BCP 47 has it.
    #[serde(default)]
    pub locale: Option<String>,
}

/// Tells a recipient what happened, by every channel that the kind asks for and the contact has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestNotification {
    /// What it is about.
    pub kind: Kind,
    /// The event that it is about: the same request again is the same notification.
    pub source_event_id: String,
    /// When that happened: what is long past is no news. Now, where it is missing.
    #[serde(default, with = "millrace::time::option")]
    pub happened_at: Option<DateTime<Utc>>,
    /// What the kind's templates fill in; see [`Kind::params`].
    pub params: BTreeMap<String, String>,
}

/// What became of a notification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordDelivery {
    /// Which one.
    pub notification_id: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Calls that were begun.
    pub attempts: i64,
    /// What whoever took it over calls it.
    #[serde(default)]
    pub provider_id: Option<String>,
    /// Why it failed or is in doubt; holds no address.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What became of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Whoever delivers it took it over.
    Sent,
    /// It was given up.
    Failed,
    /// Nobody knows whether it went out.
    Uncertain,
}
