//! Sinks: the batches that keep a view up to date.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use metrics::{Counter, Histogram, Unit, counter, histogram};
use tracing::Span;

use super::consumers::Group;
use super::events::{Handler, Kind, Tally};
use super::{Metric, trace};
use crate::codec::Codec;
use crate::projection::checkpoint::Move;
use crate::projection::{Applied, Aside, Record};

pub(super) const METRICS: &[Metric] = &[BATCH, BATCH_RECORDS, EVENTS];

const BATCH: Metric = Metric::histogram(
    "millrace_sink_batch_duration_seconds",
    Unit::Seconds,
    &["view"],
    "Time of one transaction of a view's sink: checkpoints and rows.",
);
const BATCH_RECORDS: Metric = Metric::histogram(
    "millrace_sink_batch_records",
    Unit::Count,
    &["view"],
    "Records of one transaction of a view's sink.",
);
const EVENTS: Metric = Metric::counter(
    "millrace_sink_events_total",
    &["view", "outcome"],
    "Events of committed transactions; outcome is applied, repeated (the rows had it already) or parked.",
);

/// Watches the sink of one view.
pub(crate) struct Observed {
    view: String,
    /// How far its consumer is.
    pub(crate) group: Arc<Group>,
    durations: Histogram,
    batches: Histogram,
    applied: Counter,
    repeated: Counter,
    parked: Counter,
    by_type: Arc<Handler>,
}

impl Observed {
    pub(crate) fn of(view: &str, group: &str, topics: Vec<String>) -> Self {
        let label = || view.to_owned();
        let events =
            |outcome: &'static str| counter!(EVENTS.name, "view" => label(), "outcome" => outcome);
        Self {
            view: label(),
            group: Group::of_view(view, group),
            durations: histogram!(BATCH.name, "view" => label()),
            batches: histogram!(BATCH_RECORDS.name, "view" => label()),
            applied: events("applied"),
            repeated: events("repeated"),
            parked: events("parked"),
            by_type: Handler::of(Kind::View, view, topics),
        }
    }

    /// A transaction begins.
    pub(crate) fn begin(&self, records: &[Record]) -> Writing {
        Writing {
            started: Instant::now(),
            records: records.len(),
            _spans: trace::applying(&self.view, records),
        }
    }

    /// It was committed.
    pub(crate) fn end(
        &self,
        writing: Writing,
        (codec, records): (&Codec, &[Record]),
        (applied, moves): (&Applied, &[Move]),
    ) {
        self.durations.record(writing.started.elapsed());
        self.batches.record(writing.records as f64);
        self.applied.increment(applied.applied as u64);
        self.repeated.increment(applied.repeated as u64);
        self.parked.increment(applied.parked as u64);
        let times: BTreeMap<_, _> = moves
            .iter()
            .filter_map(|step| Some(((step.topic.as_str(), step.partition), step.event_time?)))
            .collect();
        self.group.applied(&times);
        let mut tally = Tally::default();
        for (index, record) in records.iter().enumerate() {
            match applied.aside.get(&index) {
                None => tally.handled(record),
                Some(Aside::Bad) => tally.failed(record),
                // It is not tried before the one that it follows.
                Some(Aside::Behind) => {}
            }
        }
        self.by_type.commit(codec, &tally);
    }
}

/// A transaction under way.
pub(crate) struct Writing {
    started: Instant,
    records: usize,
    _spans: Vec<Span>,
}
