//! The relay: what it publishes, how far it is behind the journal, and what holds it back.

use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};
use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Metric;
use crate::position::JournalPosition;
use crate::relay::{RelayRole, RelayStatus};

pub(super) const METRICS: &[Metric] = &[
    EVENTS,
    BATCH,
    BATCH_EVENTS,
    LEADER,
    STOPPED,
    LAG_EVENTS,
    LAG,
    GATE,
    HOLDER,
];

const EVENTS: Metric = Metric::counter(
    "millrace_relay_events_total",
    &[],
    "Events that this relay published to Kafka.",
);
const BATCH: Metric = Metric::histogram(
    "millrace_relay_batch_duration_seconds",
    Unit::Seconds,
    &[],
    "Time of one Kafka transaction of the relay, from its first record to the end of its commit.",
);
const BATCH_EVENTS: Metric = Metric::histogram(
    "millrace_relay_batch_events",
    Unit::Count,
    &[],
    "Events of one Kafka transaction of the relay.",
);
const LEADER: Metric = Metric::gauge(
    "millrace_relay_leader",
    Unit::Count,
    &[],
    "1 if this relay publishes, 0 if it starts, stands by or has stopped.",
);
const STOPPED: Metric = Metric::gauge(
    "millrace_relay_stopped",
    Unit::Count,
    &[],
    "1 if this relay publishes nothing until a person has acted: see docs/runbooks/journal-restored.md.",
);
const LAG_EVENTS: Metric = Metric::gauge(
    "millrace_relay_lag_events",
    Unit::Count,
    &[],
    "Events in the journal that are not in Kafka yet, counted up to 100000; only of the relay that leads.",
);
const LAG: Metric = Metric::gauge(
    "millrace_relay_lag_seconds",
    Unit::Seconds,
    &[],
    "Age of the oldest event that is not in Kafka yet, 0 if there is none; only of the relay that leads.",
);
const GATE: Metric = Metric::gauge(
    "millrace_relay_gate_held_seconds",
    Unit::Seconds,
    &[],
    "How long one transaction has been holding the relay back, 0 if none does.",
);
const HOLDER: Metric = Metric::gauge(
    "millrace_relay_gate_holder_seconds",
    Unit::Seconds,
    &["pid", "application"],
    "The session that holds the relay back and for how long; there only while it does so for more than a second.",
);

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// A gate that is held for less is nothing to look at.
const HELD_MS: u64 = 1_000;

struct Published {
    events: Counter,
    batches: Histogram,
    durations: Histogram,
}

static PUBLISHED: LazyLock<Published> = LazyLock::new(|| Published {
    events: counter!(EVENTS.name),
    batches: histogram!(BATCH_EVENTS.name),
    durations: histogram!(BATCH.name),
});

/// Who holds the gate, for longer than a second.
static HELD_BY: Mutex<Option<Holder>> = Mutex::new(None);

struct Holder {
    pid: String,
    application: String,
    seconds: f64,
}

/// A batch was committed to Kafka.
pub(crate) fn published(events: usize, started: Instant) {
    PUBLISHED.events.increment(events as u64);
    PUBLISHED.batches.record(events as f64);
    PUBLISHED.durations.record(started.elapsed());
}

/// Follows a relay's status and asks the journal how far it is behind, until shutdown.
pub async fn watch(
    status: watch::Receiver<RelayStatus>,
    journal: PgPool,
    shutdown: CancellationToken,
) {
    LazyLock::force(&PUBLISHED);
    let gauges = Gauges {
        leader: gauge!(LEADER.name),
        stopped: gauge!(STOPPED.name),
        lag_events: gauge!(LAG_EVENTS.name),
        lag: gauge!(LAG.name),
        gate: gauge!(GATE.name),
    };
    loop {
        let now = status.borrow().clone();
        gauges.set(&now);
        // Who stands by does not know the position; that of the leader's last term here would show as a lag.
        let lag = match now.role {
            RelayRole::Active => lag(&journal, now.position.unwrap_or_default()).await,
            _ => Ok((0, 0.0)),
        };
        match lag {
            Ok((events, seconds)) => {
                gauges.lag_events.set(events as f64);
                gauges.lag.set(seconds);
            }
            Err(error) => tracing::debug!(%error, "the relay's lag was not read"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

struct Gauges {
    leader: Gauge,
    stopped: Gauge,
    lag_events: Gauge,
    lag: Gauge,
    gate: Gauge,
}

impl Gauges {
    fn set(&self, now: &RelayStatus) {
        let flag = |set: bool| f64::from(u8::from(set));
        self.leader.set(flag(now.role == RelayRole::Active));
        self.stopped.set(flag(now.role == RelayRole::Stopped));
        // What a former leader saw last is no news of the gate.
        let held_ms = match now.role {
            RelayRole::Active => now.gate_held_ms,
            _ => 0,
        };
        let seconds = held_ms as f64 / 1000.0;
        self.gate.set(seconds);
        let unknown = || "unknown".to_owned();
        *HELD_BY.lock().expect("no holder of the lock panics") =
            (held_ms > HELD_MS).then(|| Holder {
                pid: now.gate_pid.map_or_else(unknown, |pid| pid.to_string()),
                application: now.gate_application.clone().unwrap_or_else(unknown),
                seconds,
            });
    }
}

/// Events behind the position, and the age of the first of them in seconds.
async fn lag(journal: &PgPool, position: JournalPosition) -> Result<(i64, f64), sqlx::Error> {
    let mut tx = journal.begin().await?;
    // As for the relay's own reading: the index leads to what follows the position, no estimate may change that.
    sqlx::raw_sql(
        "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off;
         SET LOCAL enable_incremental_sort = off; SET LOCAL jit = off",
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query_as(
        "SELECT count(*),
                coalesce(extract(epoch FROM clock_timestamp() - min(b.occurred_at)), 0)::float8
         FROM (SELECT e.occurred_at FROM millrace.events AS e
               WHERE (e.generation, e.xid, e.position) > ($1, ($2::bigint)::text::xid8, $3)
               ORDER BY e.generation, e.xid, e.position LIMIT 100000) AS b",
    )
    .bind(position.generation)
    .bind(position.xid)
    .bind(position.position)
    .fetch_one(&mut *tx)
    .await
}

pub(super) fn write(out: &mut String) {
    if let Some(holder) = &*HELD_BY.lock().expect("no holder of the lock panics") {
        let labels = vec![holder.pid.as_str(), holder.application.as_str()];
        HOLDER.write(out, &[(labels, holder.seconds)]);
    }
}
