//! The queries over the view `notifications`.

use chrono::{DateTime, Utc};
use millrace::projection::sql::PgConnection;
use millrace::query::{Listed, Page, Query, QueryError, Shape};
use serde::{Deserialize, Serialize};

/// A notification as it stands.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema,
)]
pub struct Notification {
    /// Its id; of one that was skipped, that of the event that says so.
    pub notification_id: String,
    /// Who it is for: a user's id.
    pub recipient_id: String,
    /// What it is about, such as `order_shipped`.
    pub kind: String,
    /// `email` or `sms`; null where it was skipped.
    pub channel: Option<String>,
    /// Where it goes, as far as may be seen; null where it was skipped.
    pub masked_to: Option<String>,
    /// The event that it is about.
    pub source_event_id: String,
    /// `requested`, `sent`, `failed`, `uncertain` or `skipped`.
    pub state: String,
    /// Calls that were begun, as of the last that was reported.
    pub attempts: i64,
    /// What whoever took it over calls it.
    pub provider_id: Option<String>,
    /// Of the last failure, also where it was sent afterwards; why it was skipped.
    pub last_error: Option<String>,
    /// When it was asked for.
    pub requested_at: DateTime<Utc>,
    /// Time of its newest event.
    pub updated_at: DateTime<Utc>,
}

/// Notifications by time, oldest first.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListNotifications {
    /// Only for this recipient.
    pub recipient_id: Option<String>,
    /// Only about this, such as `order_shipped`.
    pub kind: Option<String>,
    /// Only by this channel.
    pub channel: Option<String>,
    /// Only those that stand there.
    pub state: Option<String>,
    /// Only about this event.
    pub source_event_id: Option<String>,
}

impl Query for ListNotifications {
    const VIEW: &'static str = "notifications";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<Notification>;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let key = page.key::<(DateTime<Utc>, String)>("notifications")?;
        let (at, id) = key.unzip();
        let rows: Vec<Notification> = sqlx::query_as(
            "SELECT notification_id, recipient_id, kind, channel, masked_to, source_event_id, state,
                    attempts, provider_id, last_error, requested_at, updated_at
             FROM views.notifications
             WHERE ($1 IS NULL OR recipient_id = $1) AND ($2 IS NULL OR kind = $2)
               AND ($3 IS NULL OR channel = $3) AND ($4 IS NULL OR state = $4)
               AND ($5 IS NULL OR source_event_id = $5)
               AND ($6 IS NULL OR (requested_at, notification_id) > ($6, $7))
             ORDER BY requested_at, notification_id LIMIT $8",
        )
        .bind(&self.recipient_id)
        .bind(&self.kind)
        .bind(&self.channel)
        .bind(&self.state)
        .bind(&self.source_event_id)
        .bind(at)
        .bind(id)
        .bind(page.fetch_limit())
        .fetch_all(db)
        .await?;
        Ok(page.listed("notifications", rows, |row| {
            (row.requested_at, row.notification_id.clone())
        }))
    }
}

/// One notification.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetNotification {
    /// Its id.
    pub id: String,
}

impl Query for GetNotification {
    const VIEW: &'static str = "notifications";
    const SHAPE: Shape = Shape::One;
    type Answer = Notification;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<Notification, QueryError> {
        sqlx::query_as(
            "SELECT notification_id, recipient_id, kind, channel, masked_to, source_event_id, state,
                    attempts, provider_id, last_error, requested_at, updated_at
             FROM views.notifications WHERE notification_id = $1",
        )
        .bind(&self.id)
        .fetch_optional(db)
        .await?
        .ok_or_else(|| QueryError::NotFound {
            what: "notification",
            id: self.id.clone(),
        })
    }
}
