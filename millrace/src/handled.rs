//! What a handler has handled in a partition: kept with its position, in the same transaction.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

/// What a handler has handled in a partition since it first ran; a replay counts again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Handled {
    /// Id of the last event.
    pub event_id: Option<Uuid>,
    /// Its place in the journal, as in `millrace_position`.
    pub position: Option<String>,
    /// Records handled.
    pub events: i64,
    /// When the first of them was handled.
    pub first_seen: Option<DateTime<Utc>>,
    /// When the last of them was.
    pub last_seen: Option<DateTime<Utc>>,
    /// How often it stood still.
    pub errors: i64,
    /// Why it did last, whether or not that is over.
    pub last_error: Option<String>,
    /// When.
    pub last_error_at: Option<DateTime<Utc>>,
}
