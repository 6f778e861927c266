//! The view `notifications`: what every recipient was told, or why not.

use chrono::{DateTime, Utc};
use millrace::event::Recorded;
use millrace::projection::{Fold, Poison, Rows, Start};
use schemas::notification::{RecipientEvent, masked};

millrace::view_row! {
    /// A notification.
    pub struct NotificationRow in "notifications" {
        key {
            /// Its id; of one that was skipped, that of the event that says so.
            notification_id: String,
        }
        /// What it is about, such as `order_shipped`.
        kind: String,
        /// `email` or `sms`; null where it was skipped.
        channel: Option<String>,
        /// Where it goes, as far as may be seen; null where it was skipped.
        masked_to: Option<String>,
        /// The event that it is about.
        source_event_id: String,
        /// `requested`, `sent`, `failed`, `uncertain` or `skipped`.
        state: String,
        /// Calls that were begun, as of the last that was reported.
        attempts: i64,
        /// What whoever took it over calls it.
        provider_id: Option<String>,
        /// Of the last failure, also where it was sent afterwards; why it was skipped.
        last_error: Option<String>,
        /// When it was asked for.
        requested_at: DateTime<Utc>,
        /// Time of its newest event.
        updated_at: DateTime<Utc>,
    }
}

/// Folds a recipient's events into a row for each notification.
pub struct Notifications;

impl Fold for Notifications {
    const NAME: &'static str = "notifications";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../migrations/notifications.sql");
    type Event = RecipientEvent;
    type Rows = Rows<NotificationRow>;

    fn evolve(
        &self,
        rows: &mut Rows<NotificationRow>,
        event: &Recorded<RecipientEvent>,
    ) -> Result<(), Poison> {
        let at = event.metadata.occurred_at;
        match &event.event {
            RecipientEvent::ContactSet(_) => {}
            RecipientEvent::NotificationRequested(requested) => rows.put(NotificationRow {
                notification_id: requested.notification_id.clone(),
                kind: requested.kind.to_string(),
                channel: Some(requested.channel.to_string()),
                masked_to: Some(masked(requested.channel, &requested.to)),
                source_event_id: requested.source_event_id.clone(),
                state: "requested".to_owned(),
                attempts: 0,
                provider_id: None,
                last_error: None,
                requested_at: at,
                updated_at: at,
            }),
            RecipientEvent::NotificationSkipped(skipped) => rows.put(NotificationRow {
                notification_id: event.metadata.event_id.to_string(),
                kind: skipped.kind.to_string(),
                channel: None,
                masked_to: None,
                source_event_id: skipped.source_event_id.clone(),
                state: "skipped".to_owned(),
                attempts: 0,
                provider_id: None,
                last_error: Some(skipped.reason.clone()),
                requested_at: at,
                updated_at: at,
            }),
            RecipientEvent::NotificationSent(sent) => {
                let reported = ("sent", sent.attempts, None);
                report(rows, &sent.notification_id, at, reported);
                if let Some(row) = rows.get_mut(&(sent.notification_id.clone(),)) {
                    row.provider_id.clone_from(&sent.provider_id);
                }
            }
            RecipientEvent::NotificationFailed(failed) => {
                let reported = ("failed", failed.attempts, Some(&failed.reason));
                report(rows, &failed.notification_id, at, reported);
            }
            RecipientEvent::NotificationUncertain(uncertain) => {
                let reported = ("uncertain", uncertain.attempts, Some(&uncertain.reason));
                report(rows, &uncertain.notification_id, at, reported);
            }
        }
        Ok(())
    }
}

/// There is no row only where an operator skipped the request; then there is nothing to show.
fn report(
    rows: &mut Rows<NotificationRow>,
    id: &str,
    at: DateTime<Utc>,
    (state, attempts, error): (&str, i64, Option<&String>),
) {
    let Some(row) = rows.get_mut(&(id.to_owned(),)) else {
        return;
    };
    state.clone_into(&mut row.state);
    row.attempts = attempts;
    row.updated_at = at;
    if let Some(error) = error {
        row.last_error = Some(error.clone());
    }
}
