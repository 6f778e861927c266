//! What a running process tells about itself: metrics at `GET /metrics`, and traces (see [`trace`]).
//!
//! Every metric is declared in the file of its area, with its unit, its labels and what it says; [`declared`] lists them
//! all, and the dashboard, the alerts and `docs/operations.md` are checked against that list. Labels are bounded by the
//! code and the configuration (aggregate types, views, groups, topics, partitions, outcomes): never an id.
//!
//! Whatever runs per command or per batch goes through handles that were made once; a record costs nothing here.
//! Series that come and go, such as those of assigned partitions, are written from the present state at each scrape, so
//! that none stays behind with its last value.

pub mod commands;
pub mod consumers;
pub mod journal;
pub mod letters;
mod metric;
pub mod relay;
pub mod sinks;
pub mod trace;
pub mod views;

use std::sync::OnceLock;
use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

pub use metric::{Kind, Metric};

/// Of everything that takes time, in seconds: from a tenth of a millisecond to ten seconds.
const SECONDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];
/// Of batches: how many were in one.
const COUNTS: [f64; 14] = [
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0,
    100_000.0,
];
/// Between two foldings of what the histograms took in, where nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

static INSTALLED: OnceLock<PrometheusHandle> = OnceLock::new();

/// Every metric that this library exports; the process metrics (`process_…`) come beside them.
pub fn declared() -> impl Iterator<Item = &'static Metric> {
    [
        commands::METRICS,
        journal::METRICS,
        relay::METRICS,
        consumers::METRICS,
        sinks::METRICS,
        views::METRICS,
        letters::METRICS,
    ]
    .into_iter()
    .flatten()
}

/// Collects metrics from here on; handles that were made before count nothing. Call it first, inside the runtime; a
/// second call changes nothing.
pub fn install() -> Result<(), BuildError> {
    if INSTALLED.get().is_some() {
        return Ok(());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_batch_events".to_owned()), &COUNTS)?
        .set_buckets_for_metric(Matcher::Suffix("_batch_records".to_owned()), &COUNTS)?
        .install_recorder()?;
    for metric in declared() {
        metric.describe();
    }
    Collector::default().describe();
    if INSTALLED.set(handle.clone()).is_ok() {
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(UPKEEP).await;
                handle.run_upkeep();
            }
        });
    }
    Ok(())
}

/// `GET /metrics` in Prometheus' text format, version 0.0.4.
pub fn router() -> Router {
    let answer = || async {
        let kind = [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )];
        (kind, render())
    };
    Router::new().route("/metrics", get(answer))
}

/// Everything that is known now; empty where [`install`] was not called.
pub fn render() -> String {
    let Some(handle) = INSTALLED.get() else {
        return String::new();
    };
    Collector::default().collect();
    let mut text = handle.render();
    relay::write(&mut text);
    consumers::write(&mut text);
    text
}
