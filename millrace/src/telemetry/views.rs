//! Views: what their tables say of them, read every five seconds by each process that runs them.

use std::time::Duration;

use metrics::{Unit, gauge};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgPool};
use tokio_util::sync::CancellationToken;

use super::Metric;
use crate::config::ViewsConfig;

pub(super) const METRICS: &[Metric] = &[PAUSED, BUILDING, PROGRESS, PARKED, STOPPED];

const PAUSED: Metric = Metric::gauge(
    "millrace_view_paused",
    Unit::Count,
    &["view"],
    "1 if an operator paused the view.",
);
const BUILDING: Metric = Metric::gauge(
    "millrace_view_building",
    Unit::Count,
    &["view"],
    "1 if the view is being rebuilt.",
);
const PROGRESS: Metric = Metric::gauge(
    "millrace_view_build_progress_ratio",
    Unit::Count,
    &["view"],
    "Part of the offsets that the rebuild has applied, from 0 to 1; 0 without a rebuild.",
);
const PARKED: Metric = Metric::gauge(
    "millrace_view_parked_aggregates",
    Unit::Count,
    &["view"],
    "Aggregates whose events wait because one of them could not be applied.",
);
const STOPPED: Metric = Metric::gauge(
    "millrace_view_stopped_partitions",
    Unit::Count,
    &["view"],
    "Partitions that stand still with an error, as `millrace status` shows it.",
);

const EVERY: Duration = Duration::from_secs(5);

#[derive(sqlx::FromRow)]
struct Row {
    view: String,
    paused: bool,
    building: bool,
    progress: f64,
    parked: i64,
    stopped: i64,
}

/// Reads the views' state until shutdown.
pub async fn watch(config: ViewsConfig, shutdown: CancellationToken) {
    let Ok(options) = config
        .views_database_url
        .expose()
        .parse::<PgConnectOptions>()
    else {
        return; // Whoever starts the views says so.
    };
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(2))
        .connect_lazy_with(
            options
                .application_name("millrace metrics")
                .disable_statement_logging(),
        );
    while !shutdown.is_cancelled() {
        match read(&pool).await {
            Ok(rows) => rows.iter().for_each(Row::set),
            Err(error) => tracing::debug!(%error, "the views' state was not read"),
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

impl Row {
    fn set(&self) {
        let label = || self.view.clone();
        let flag = |set: bool| f64::from(u8::from(set));
        gauge!(PAUSED.name, "view" => label()).set(flag(self.paused));
        gauge!(BUILDING.name, "view" => label()).set(flag(self.building));
        gauge!(PROGRESS.name, "view" => label()).set(self.progress);
        gauge!(PARKED.name, "view" => label()).set(self.parked as f64);
        gauge!(STOPPED.name, "view" => label()).set(self.stopped as f64);
    }
}

async fn read(pool: &PgPool) -> Result<Vec<Row>, sqlx::Error> {
    sqlx::query_as(
        "SELECT v.name AS view, v.paused,
                EXISTS (SELECT FROM millrace_views.builds b
                        WHERE b.view = v.name AND b.state = 'building') AS building,
                coalesce((SELECT sum(p.next)::float8 / nullif(sum(c.next), 0)
                          FROM millrace_views.builds b
                          JOIN millrace_views.build_checkpoints p ON p.view = b.view AND p.build = b.build
                          JOIN millrace_views.checkpoints c
                              ON c.view = p.view AND c.topic = p.topic AND c.partition = p.partition
                          WHERE b.view = v.name AND b.state = 'building'), 0) AS progress,
                (SELECT count(*) FROM millrace_views.parked k
                 WHERE k.view = v.name AND k.build = v.live_build) AS parked,
                (SELECT count(*) FROM millrace_views.checkpoints c
                 WHERE c.view = v.name AND c.error IS NOT NULL) AS stopped
         FROM millrace_views.views v",
    )
    .fetch_all(pool)
    .await
}
