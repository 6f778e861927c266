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
pub(crate) mod events;
pub mod handlers;
pub mod inbox;
pub mod journal;
mod metric;
pub(crate) mod queries;
pub mod relay;
pub mod sinks;
pub mod timers;
pub mod trace;
pub mod views;

use std::sync::OnceLock;
use std::time::Duration;

use axum::http::{StatusCode, header};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

use crate::http::api::{Api, Operation};

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
        handlers::METRICS,
        events::METRICS,
        queries::METRICS,
        inbox::METRICS,
        timers::METRICS,
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
pub fn api() -> Api {
    let answer = || async {
        let kind = [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )];
        (kind, render())
    };
    let operation = Operation::get("/metrics", "operations", "Metrics of the process").answers_as(
        StatusCode::OK,
        "In Prometheus' text format.",
        "text/plain",
    );
    Api::new().route(operation, answer)
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
    events::write(&mut text);
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use serde_json::Value;

    use super::*;

    fn read(path: &str) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Everything in a query that is named as a metric is; `up` is Prometheus' own.
    fn metrics_of(query: &str) -> BTreeSet<&str> {
        query
            .split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'))
            .filter(|word| word.starts_with("millrace_") || word.starts_with("process_"))
            .collect()
    }

    fn known() -> BTreeSet<String> {
        let process = [
            "process_resident_memory_bytes",
            "process_cpu_seconds_total",
            "process_threads",
        ];
        declared()
            .flat_map(Metric::series)
            .chain(process.map(str::to_owned))
            .collect()
    }

    fn check(place: &str, query: &str, used: &mut BTreeSet<String>) {
        for name in metrics_of(query) {
            assert!(known().contains(name), "{place}: {name} is not declared");
            used.insert(name.to_owned());
        }
    }

    #[test]
    fn every_query_of_the_dashboard_and_the_alerts_refers_to_declared_metrics() {
        let dashboard: Value =
            serde_json::from_str(&read("ops/grafana/dashboards/millrace.json")).unwrap();
        let mut used = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            for target in panel["targets"].as_array().into_iter().flatten() {
                let query = target["expr"].as_str().unwrap();
                assert!(!metrics_of(query).is_empty(), "{title}: {query}");
                check(title, query, &mut used);
            }
        }
        for metric in declared() {
            let shown = metric.series().iter().any(|series| used.contains(series));
            assert!(shown, "the dashboard does not show {}", metric.name);
        }
        let alerts = read("ops/alerts.yml");
        let of = |name: &str| {
            let lines = alerts
                .lines()
                .map(|line| line.trim().trim_start_matches("- "));
            lines
                .filter_map(|line| line.strip_prefix(name))
                .collect::<Vec<_>>()
        };
        let (names, queries, actions) = (of("alert: "), of("expr: "), of("action: "));
        assert!(names.len() >= 10);
        assert_eq!((names.len(), names.len()), (queries.len(), actions.len()));
        for (name, query) in names.into_iter().zip(queries) {
            assert!(
                !metrics_of(query).is_empty() || query.starts_with("up"),
                "{name}"
            );
            check(name, query, &mut used);
        }
    }

    /// What they expect of promtool is run by `tests/alerts.sh`; here it is seen that none is left out.
    #[test]
    fn every_alert_has_a_test_in_which_it_fires() {
        let (alerts, tests) = (read("ops/alerts.yml"), read("ops/alerts.test.yml"));
        let names = alerts
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- alert: "));
        let untested: Vec<&str> = names
            .filter(|name| !tests.contains(&format!("{{alertname=\"{name}\"}}")))
            .collect();
        assert!(untested.is_empty(), "without a test: {untested:?}");
    }

    #[test]
    fn the_guide_lists_every_metric_with_its_labels_and_its_meaning() {
        let guide = read("docs/operations.md");
        let rows: BTreeSet<&str> = guide
            .lines()
            .filter(|line| line.starts_with("| `millrace_"))
            .collect();
        let wanted: BTreeSet<String> = declared()
            .map(|metric| {
                let labels: Vec<String> = metric
                    .labels
                    .iter()
                    .map(|label| format!("`{label}`"))
                    .collect();
                let kind = format!("{:?}", metric.kind).to_lowercase();
                format!(
                    "| `{}` | {kind} | {} | {} |",
                    metric.name,
                    labels.join(" "),
                    metric.help
                )
            })
            .collect();
        let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
        let missing: Vec<_> = wanted.difference(&rows).collect();
        let wrong: Vec<_> = rows.difference(&wanted).collect();
        assert!(
            missing.is_empty() && wrong.is_empty(),
            "missing {missing:#?}\nnot so {wrong:#?}"
        );
    }
}
