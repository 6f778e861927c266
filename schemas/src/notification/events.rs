//! Events of a recipient; those of a notification: requested -> sent, or failed or uncertain, and sent even then.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Channel, Kind};

millrace::events! {
    /// What can happen to a recipient.
    pub enum RecipientEvent for "recipient" in "notification" {
        ContactSet [1],
        NotificationRequested [1],
        NotificationSkipped [1],
        NotificationSent [1],
        NotificationFailed [1],
        NotificationUncertain [1],
    }
}

/// How a recipient is reached from now on: all of it, none of it is empty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContactSet {
    /// What the recipient is called.
    #[serde(default)]
    pub name: Option<String>,
    /// E-mail address.
    #[serde(default)]
    pub email: Option<String>,
    /// Phone number as E.164 has it.
    #[serde(default)]
    pub phone: Option<String>,
    /// Language as BCP 47 has it.
    #[serde(default)]
    pub locale: Option<String>,
}

/// A message is to go out by one channel; it holds all that the message is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotificationRequested {
    /// See [`notification_id`](super::notification_id).
    pub notification_id: String,
    /// What it is about.
    pub kind: Kind,
    /// The event that it is about.
    pub source_event_id: String,
    /// By what it goes out.
    pub channel: Channel,
    /// E-mail address or phone number.
    pub to: String,
    /// What the recipient is called.
    #[serde(default)]
    pub name: Option<String>,
    /// Language as BCP 47 has it.
    #[serde(default)]
    pub locale: Option<String>,
    /// What the kind's templates fill in.
    pub params: BTreeMap<String, String>,
}

/// Nothing goes out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotificationSkipped {
    /// What it was about.
    pub kind: Kind,
    /// The event that it was about.
    pub source_event_id: String,
    /// Why, for a person to read.
    pub reason: String,
}

/// Whoever delivers it took it over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotificationSent {
    /// Which one.
    pub notification_id: String,
    /// Calls that were begun.
    pub attempts: i64,
    /// What whoever took it over calls it.
    #[serde(default)]
    pub provider_id: Option<String>,
}

/// It was given up; its dead letter waits for an operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotificationFailed {
    /// Which one.
    pub notification_id: String,
    /// Calls that were begun.
    pub attempts: i64,
    /// Why; holds no address.
    pub reason: String,
}

/// Nobody knows whether it went out; it is not sent again unless an operator says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotificationUncertain {
    /// Which one.
    pub notification_id: String,
    /// Calls that were begun.
    pub attempts: i64,
    /// Why nobody knows; holds no address.
    pub reason: String,
}
