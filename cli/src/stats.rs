//! `GET /events/stats`: how many events there are, how many every handler has handled, and which are left.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use millrace::config::{KafkaConfig, ViewsConfig};
use millrace::http::api::{Api, Operation, Shape};
use millrace::http::problem::Problem;
use millrace::stats::{HandlerStats, collect};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

/// What is served, for a process that passes it on.
pub(crate) fn operation() -> Operation {
    let summary =
        "How many events there are, how many every handler has handled, and which are left";
    Operation::get("/events/stats", "events", summary).answers(
        StatusCode::OK,
        "All events and all handlers.",
        Shape::of::<Stats>(),
    )
}

#[derive(Clone)]
struct Asked {
    kafka: KafkaConfig,
    pool: PgPool,
}

/// All events and all handlers.
#[derive(Debug, Serialize, JsonSchema)]
struct Stats {
    /// Events in the view `event_log`.
    total: i64,
    /// Of these, handled by every handler.
    processed: i64,
    /// Left to at least one handler; at most, for transaction markers between them count.
    unprocessed: i64,
    /// What waits for an operator, over all handlers.
    failed: i64,
    handlers: Vec<HandlerStats>,
}

/// The route; its session with the views' database is opened with the first request.
pub(crate) fn api(kafka: KafkaConfig, views: &ViewsConfig) -> anyhow::Result<Api> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(5))
        .connect_lazy(views.views_database_url.expose())?;
    let asked = Asked { kafka, pool };
    Ok(Api::new().route(operation(), answer).with_state(asked))
}

async fn answer(State(asked): State<Asked>) -> Result<Json<Stats>, Problem> {
    let away = |error: &dyn std::fmt::Display| Problem::unavailable(error, Duration::from_secs(1));
    let processors = processors::topology().handlers().to_vec();
    let handlers = collect(&asked.kafka, &asked.pool, processors)
        .await
        .map_err(|error| away(&error))?;
    let total: i64 = sqlx::query_scalar("SELECT count(*) FROM views.event_log")
        .fetch_one(&asked.pool)
        .await
        .map_err(|error| away(&error))?;
    let mut most: BTreeMap<(&str, i32), i64> = BTreeMap::new();
    for partition in handlers.iter().flat_map(|handler| &handler.partitions) {
        let left = most
            .entry((&partition.topic, partition.partition))
            .or_default();
        *left = (*left).max(partition.unprocessed);
    }
    let unprocessed: i64 = most.into_values().sum();
    Ok(Json(Stats {
        total,
        processed: (total - unprocessed).max(0),
        unprocessed,
        failed: handlers.iter().map(|handler| handler.failed).sum(),
        handlers,
    }))
}
