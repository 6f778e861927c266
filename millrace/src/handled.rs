//! What a handler has handled in a partition: kept with its position, in the same transaction.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::log::record::Record;

/// Characters of an error that are kept.
const ERROR_CHARS_MAX: usize = 300;

/// As much of an error as is kept; it may quote an event, and Postgres stores no NUL.
pub(crate) fn short(error: &str) -> String {
    let kept = error.chars().take(ERROR_CHARS_MAX);
    kept.map(|char| if char == '\0' { '\u{fffd}' } else { char })
        .collect()
}

/// What a handler has handled in a partition since it first ran; a replay counts again.
#[derive(
    Debug,
    Clone,
    Default,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    sqlx::FromRow,
    schemars::JsonSchema,
)]
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
    /// How often it stood still, put an aggregate aside, or had a call fail.
    pub errors: i64,
    /// Why that was last, whether or not it is over.
    pub last_error: Option<String>,
    /// When.
    pub last_error_at: Option<DateTime<Utc>>,
    /// What waits for an operator now: parked aggregates of a view, keys with dead letters of a processor, calls that
    /// an effect has given up.
    #[serde(default)]
    pub failed: i64,
    /// The last replay that a processor began here; kept with its offset, so that a replay is begun once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[sqlx(default)]
    pub replay: Option<Uuid>,
}

/// The columns of [`Handled`] of a row `c` of checkpoints, but for what has failed.
macro_rules! columns {
    () => {
        "nullif(format('%s:%s:%s', c.generation, c.xid, c.position), '::') AS position,
         c.event_id, c.events, c.first_seen, c.last_seen, c.errors, c.last_error, c.last_error_at"
    };
}

/// What has failed of a row `c` of an effect's checkpoints: its dead letters.
macro_rules! dead {
    () => {
        "(SELECT count(*) FROM millrace_effects.calls d
          WHERE d.effect = c.effect AND d.topic = c.topic AND d.partition = c.partition
            AND d.state = 'dead') AS failed"
    };
}

/// What has failed of a row `c` of a view's checkpoints: the parked aggregates of its live build.
macro_rules! parked {
    () => {
        "(SELECT count(*) FROM millrace_views.parked p
          JOIN millrace_views.views v ON v.name = p.view AND v.live_build = p.build
          WHERE p.view = c.view AND p.topic = c.topic AND p.partition = c.partition) AS failed"
    };
}

pub(crate) use {columns, dead, parked};

impl Handled {
    /// One more record was handled.
    pub(crate) fn extend(&mut self, record: &Record) {
        let now = Utc::now();
        self.events += 1;
        self.first_seen.get_or_insert(now);
        self.last_seen = Some(now);
        if let Ok(envelope) = &record.envelope {
            self.event_id = Some(envelope.metadata.event_id);
            self.position = Some(envelope.metadata.position.to_string());
        }
    }

    /// A record could not be handled, for now or for good.
    pub(crate) fn failed(&mut self, error: &str) {
        self.errors += 1;
        self.last_error = Some(short(error));
        self.last_error_at = Some(Utc::now());
    }
}
