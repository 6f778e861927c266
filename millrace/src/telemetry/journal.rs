//! The journal: appends, and the room that it takes.

use std::time::{Duration, Instant};

use metrics::{Counter, Histogram, Unit, counter, gauge, histogram};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::Metric;

pub(super) const METRICS: &[Metric] = &[APPEND, BATCH, CONFLICTS, STORE];

const APPEND: Metric = Metric::histogram(
    "millrace_journal_append_duration_seconds",
    Unit::Seconds,
    &["aggregate"],
    "Time of one append: one transaction with the events of all commands that shared it.",
);
const BATCH: Metric = Metric::histogram(
    "millrace_journal_append_batch_events",
    Unit::Count,
    &["aggregate"],
    "Events of one append.",
);
const CONFLICTS: Metric = Metric::counter(
    "millrace_journal_conflicts_total",
    &["aggregate"],
    "Commands that were decided again because their aggregate had moved on: another process wrote it first.",
);
const STORE: Metric = Metric::gauge(
    "millrace_journal_store_bytes",
    Unit::Bytes,
    &["table"],
    "Size of a table of the journal with its indexes, read once a minute.",
);

/// Between two looks at the store's size.
const SIZE_EVERY: Duration = Duration::from_secs(60);

/// Watches the appends of one writer.
pub(crate) struct Observed {
    durations: Histogram,
    batches: Histogram,
    conflicts: Counter,
}

impl Observed {
    pub(crate) fn of(aggregate: &'static str) -> Self {
        Self {
            durations: histogram!(APPEND.name, "aggregate" => aggregate),
            batches: histogram!(BATCH.name, "aggregate" => aggregate),
            conflicts: counter!(CONFLICTS.name, "aggregate" => aggregate),
        }
    }

    /// Begins now; the spans end with it.
    pub(crate) fn begin(&self, events: usize, spans: Vec<Span>) -> Appending {
        Appending {
            started: Instant::now(),
            events,
            _spans: spans,
        }
    }

    /// So many commands met a newer version than they were decided on.
    pub(crate) fn conflicts(&self, commands: usize) {
        self.conflicts.increment(commands as u64);
    }

    /// The append is durable.
    pub(crate) fn end(&self, appending: Appending) {
        self.durations.record(appending.started.elapsed());
        self.batches.record(appending.events as f64);
    }
}

/// An append under way.
pub(crate) struct Appending {
    started: Instant,
    events: usize,
    _spans: Vec<Span>,
}

/// Reads the store's size until shutdown.
pub async fn watch(pool: PgPool, shutdown: CancellationToken) {
    loop {
        let sizes: Result<Vec<(String, i64)>, _> = sqlx::query_as(
            "SELECT c.relname::text, pg_total_relation_size(c.oid) FROM pg_class c
             JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = 'millrace' AND c.relkind = 'r'",
        )
        .fetch_all(&pool)
        .await;
        match sizes {
            Ok(sizes) => {
                for (table, bytes) in sizes {
                    gauge!(STORE.name, "table" => table).set(bytes as f64);
                }
            }
            Err(error) => tracing::debug!(%error, "the store's size was not read"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(SIZE_EVERY) => {}
        }
    }
}
