//! Queries: how long the database took for each, and how long callers waited for their own writes.

use std::time::{Duration, Instant};

use metrics::{Unit, histogram};

use super::Metric;
use crate::query::{QueryError, Shape};

pub(super) const METRICS: &[Metric] = &[DURATION, WAIT];

const DURATION: Metric = Metric::histogram(
    "millrace_query_duration_seconds",
    Unit::Seconds,
    &["view", "shape", "outcome"],
    "Time of a query from its turn to its answer, without the wait for a token; shape is list or one, outcome is ok, unchanged (304), refused or failure.",
);
const WAIT: Metric = Metric::histogram(
    "millrace_query_wait_seconds",
    Unit::Seconds,
    &["view", "outcome"],
    "Time that a query waited for its token; outcome is ok, behind (504), gone (skipped or parked) or failure.",
);

/// A query ran.
pub(crate) fn answered<T>(
    (view, shape): (&'static str, Shape),
    begun: Instant,
    answer: &Result<T, QueryError>,
    unchanged: impl Fn(&T) -> bool,
) {
    let shape = match shape {
        Shape::List => "list",
        Shape::One => "one",
    };
    let outcome = match answer {
        Ok(answer) if unchanged(answer) => "unchanged",
        Ok(_) => "ok",
        Err(QueryError::Database(_) | QueryError::Answer(..)) => "failure",
        Err(_) => "refused",
    };
    histogram!(DURATION.name, "view" => view, "shape" => shape, "outcome" => outcome)
        .record(begun.elapsed());
}

/// A query waited for its token.
pub(crate) fn waited(view: &'static str, waited: Duration, came: &Result<(), QueryError>) {
    let outcome = match came {
        Ok(()) => "ok",
        Err(QueryError::Behind { .. }) => "behind",
        Err(QueryError::Skipped { .. } | QueryError::Parked { .. }) => "gone",
        Err(_) => "failure",
    };
    histogram!(WAIT.name, "view" => view, "outcome" => outcome).record(waited);
}
