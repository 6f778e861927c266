//! A recipient: how a user is reached, and what they are told.
//!
//! A request becomes a notification for each channel that it goes out by: e-mail wherever there is an address, SMS
//! beside it for what is urgent and instead of it where there is no address. What cannot or need not go out is skipped,
//! with the reason as an event, so that whoever asks why nothing came finds the answer.
//!
//! Invariant: of one event and kind a recipient gets one notification a channel. The schedule that would break it: two requests
//! about one event under different command ids. The notification's id is derived from what it is about, and the state
//! knows the ids of those that are open and of the last that were sent; of what is older, the command side knows the
//! command's id.
//!
//! What the effects report may come late and in any order. `sent` is the last word; between `failed` and `uncertain`
//! the report of the later call counts.

mod checks;

use std::collections::{BTreeMap, VecDeque};

use chrono::TimeDelta;
use millrace::aggregate::{Aggregate, Context};
use schemas::notification::*;
use serde::{Deserialize, Serialize};

use crate::aggregates::ID_BYTES_MAX;
use checks::{check_contact, check_request};

/// Longest ago that an event is still news, in hours: who was away over a weekend is told, a group that is read from the
/// start for the first time tells nobody of last year.
const NEWS_HOURS_MAX: i64 = 72;

/// Most notifications of one recipient that are requested and not sent.
const OPEN_MAX: usize = 1_000;

/// How many of the last that were sent are known.
const SENT_KEPT: usize = 200;

/// Most params of a request.
const PARAMS_MAX: usize = 32;

/// Longest param and longest name, in bytes.
const TEXT_BYTES_MAX: usize = 2_000;

/// Why a recipient does not do what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Part of the contact.
    #[error("{field} {reason}")]
    Contact {
        /// Which part.
        field: &'static str,
        /// What is wrong with it; does not repeat it.
        reason: &'static str,
    },
    /// The event's id.
    #[error(
        "source_event_id is empty, longer than {ID_BYTES_MAX} bytes, or holds a control character"
    )]
    SourceEventId,
    /// A param that the templates of the kind use.
    #[error("param {param} is missing: a notification of kind {kind} needs {needed}")]
    MissingParam {
        /// Of this kind.
        kind: Kind,
        /// The first that is missing.
        param: &'static str,
        /// All that the kind needs.
        needed: String,
    },
    /// More or longer than is handled.
    #[error("a request has at most {PARAMS_MAX} params of at most {TEXT_BYTES_MAX} bytes")]
    Params,
    /// A delivery of nothing that is known.
    #[error("no notification {0} was requested, or it was sent long ago")]
    UnknownNotification(String),
    /// Less than none.
    #[error("attempts is {0}, must not be negative")]
    Attempts(i64),
}

/// How far a notification is that was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Step {
    Requested,
    Failed,
    Uncertain,
}

/// A recipient, as far as a decision reads it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Recipient {
    name: Option<String>,
    email: Option<String>,
    phone: Option<String>,
    locale: Option<String>,
    /// Requested and not sent, by id: the step, and the calls that its last report knew of.
    open: BTreeMap<String, (Step, i64)>,
    /// Ids of the last that were sent, oldest first.
    sent: VecDeque<String>,
}

impl Aggregate for Recipient {
    type Command = RecipientCommand;
    type Event = RecipientEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 1;

    fn decide(
        &self,
        command: RecipientCommand,
        context: &Context,
    ) -> Result<Vec<RecipientEvent>, Rejection> {
        match command {
            RecipientCommand::SetContact(contact) => self.set_contact(contact),
            RecipientCommand::RequestNotification(request) => self.request(request, context),
            RecipientCommand::RecordDelivery(delivery) => self.record(delivery),
        }
    }

    fn evolve(&mut self, event: &RecipientEvent) {
        match event {
            RecipientEvent::ContactSet(contact) => {
                let contact = contact.clone();
                (self.name, self.locale) = (contact.name, contact.locale);
                (self.email, self.phone) = (contact.email, contact.phone);
            }
            RecipientEvent::NotificationRequested(requested) => {
                let id = requested.notification_id.clone();
                self.open.insert(id, (Step::Requested, 0));
            }
            RecipientEvent::NotificationSkipped(_) => {}
            RecipientEvent::NotificationSent(sent) => {
                self.open.remove(&sent.notification_id);
                self.sent.push_back(sent.notification_id.clone());
                if self.sent.len() > SENT_KEPT {
                    self.sent.pop_front();
                }
            }
            RecipientEvent::NotificationFailed(failed) => {
                let id = failed.notification_id.clone();
                self.open.insert(id, (Step::Failed, failed.attempts));
            }
            RecipientEvent::NotificationUncertain(uncertain) => {
                let id = uncertain.notification_id.clone();
                self.open.insert(id, (Step::Uncertain, uncertain.attempts));
            }
        }
    }
}

impl Recipient {
    fn set_contact(&self, command: SetContact) -> Result<Vec<RecipientEvent>, Rejection> {
        check_contact(&command)?;
        let settled = |given: Option<String>, known: &Option<String>| match given {
            Some(given) => Some(given).filter(|given| !given.is_empty()),
            None => known.clone(),
        };
        let contact = ContactSet {
            name: settled(command.name, &self.name),
            email: settled(command.email, &self.email),
            phone: settled(command.phone, &self.phone),
            locale: settled(command.locale, &self.locale),
        };
        let changed = contact.name != self.name
            || contact.email != self.email
            || contact.phone != self.phone
            || contact.locale != self.locale;
        Ok(match changed {
            true => vec![contact.into()],
            false => Vec::new(),
        })
    }

    fn request(
        &self,
        command: RequestNotification,
        context: &Context,
    ) -> Result<Vec<RecipientEvent>, Rejection> {
        check_request(&command)?;
        let skipped = |reason: String| {
            let skipped = NotificationSkipped {
                kind: command.kind,
                source_event_id: command.source_event_id.clone(),
                reason,
            };
            Ok(vec![skipped.into()])
        };
        let age = command.happened_at.map(|at| context.now - at);
        if age.is_some_and(|age| age > TimeDelta::hours(NEWS_HOURS_MAX)) {
            return skipped(format!("it happened more than {NEWS_HOURS_MAX} hours ago"));
        }
        let channels = self.channels(command.kind);
        if channels.is_empty() {
            return skipped("neither an e-mail address nor a phone number is known".to_owned());
        }
        if self.open.len() >= OPEN_MAX {
            return skipped(format!("{OPEN_MAX} notifications wait already"));
        }
        let requested = channels.into_iter().filter_map(|(channel, to)| {
            let source = &command.source_event_id;
            let id = notification_id(&context.aggregate_id, command.kind, source, channel);
            let known = self.open.contains_key(&id) || self.sent.contains(&id);
            (!known).then(|| {
                NotificationRequested {
                    notification_id: id,
                    kind: command.kind,
                    source_event_id: source.clone(),
                    channel,
                    to: to.to_owned(),
                    name: self.name.clone(),
                    locale: self.locale.clone(),
                    params: command.params.clone(),
                }
                .into()
            })
        });
        Ok(requested.collect())
    }

    /// By what this kind goes out, and where to.
    fn channels(&self, kind: Kind) -> Vec<(Channel, &str)> {
        let email = self.email.as_deref().map(|to| (Channel::Email, to));
        let by_sms = kind.is_urgent() || email.is_none();
        let sms = self.phone.as_deref().filter(|_| by_sms);
        let sms = sms.map(|to| (Channel::Sms, to));
        email.into_iter().chain(sms).collect()
    }

    fn record(&self, command: RecordDelivery) -> Result<Vec<RecipientEvent>, Rejection> {
        let RecordDelivery {
            notification_id,
            outcome,
            attempts,
            provider_id,
            reason,
        } = command;
        if attempts < 0 {
            return Err(Rejection::Attempts(attempts));
        }
        let Some(&(step, known)) = self.open.get(&notification_id) else {
            return match self.sent.contains(&notification_id) {
                true => Ok(Vec::new()),
                false => Err(Rejection::UnknownNotification(notification_id)),
            };
        };
        let reason = reason.unwrap_or_else(|| "no reason was given".to_owned());
        let late = attempts < known;
        let event: RecipientEvent = match outcome {
            Outcome::Sent => NotificationSent {
                notification_id,
                attempts,
                provider_id,
            }
            .into(),
            Outcome::Failed if late || (step, known) == (Step::Failed, attempts) => {
                return Ok(Vec::new());
            }
            Outcome::Failed => NotificationFailed {
                notification_id,
                attempts,
                reason,
            }
            .into(),
            Outcome::Uncertain if late || (step, known) == (Step::Uncertain, attempts) => {
                return Ok(Vec::new());
            }
            Outcome::Uncertain => NotificationUncertain {
                notification_id,
                attempts,
                reason,
            }
            .into(),
        };
        Ok(vec![event])
    }
}

#[cfg(test)]
mod tests;
