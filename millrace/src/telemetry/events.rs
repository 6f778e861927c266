//! Events by handler and type: how many were handled, how many tries failed, and how old each was when it was done with.
//!
//! Views, processors and effects count alike, and only what is committed: what is rolled back is done again and would
//! count twice. Labels are bounded: the handlers' names by the code, the types by the schemas that the process started with; a
//! record whose type is none of these counts as `unknown`. The figures are kept here and not in the recorder, which would keep
//! every single observation until the next scrape: a view that is filled applies 200,000 events a second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use chrono::{DateTime, Utc};
use metrics::Unit;

use super::Metric;
use super::metric::Buckets;
use crate::codec::{Codec, unframe};
use crate::event::ce_type;
use crate::log::record::Record;

pub(super) const METRICS: &[Metric] = &[EVENTS, ERRORS, LATENCY];

const LABELS: &[&str] = &["kind", "handler", "event"];

const EVENTS: Metric = Metric::counter(
    "millrace_handler_events_total",
    LABELS,
    "Events that a handler is done with, by type; kind is view, processor or effect. A replay counts again.",
);
const ERRORS: Metric = Metric::counter(
    "millrace_handler_errors_total",
    LABELS,
    "Tries to handle an event that failed because of the event or of what the handler calls; a server of ours that is away is none.",
);
const LATENCY: Metric = Metric::histogram(
    "millrace_handler_latency_seconds",
    Unit::Seconds,
    LABELS,
    "Time from an event's moment until the handler's transaction, or its call, was done; in a replay the age of what is replayed.",
);

/// Upper bounds of the latency in seconds, from what a caller waits for to what an operator is called for.
const BOUNDS: [f64; 12] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0,
];
/// Of records that no schema of ours describes.
const UNKNOWN: &str = "unknown";

/// The types of each topic, by record name.
static KNOWN: Mutex<BTreeMap<String, BTreeMap<&'static str, String>>> = Mutex::new(BTreeMap::new());
static HANDLERS: Mutex<Vec<Weak<Handler>>> = Mutex::new(Vec::new());

/// What a handler is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    View,
    Processor,
    Effect,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Processor => "processor",
            Self::Effect => "effect",
        }
    }
}

/// Says which events stand in a topic: the only values that the label `event` has beside `unknown`.
pub(crate) fn know(topic: &str, aggregate: &str, record: &'static str) {
    let mut known = KNOWN.lock().expect("no holder of the lock panics");
    let of_topic = known.entry(topic.to_owned()).or_default();
    of_topic
        .entry(record)
        .or_insert_with(|| ce_type(aggregate, record));
}

/// What one handler of this process has done since it started.
#[derive(Debug)]
pub(crate) struct Handler {
    kind: Kind,
    name: String,
    topics: Vec<String>,
    figures: Mutex<BTreeMap<String, Figures>>,
}

#[derive(Debug, Clone, Default)]
struct Figures {
    handled: u64,
    errors: u64,
    latency: Buckets<{ BOUNDS.len() }>,
}

/// What came of events, until that is committed: then [`Handler::commit`] counts it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Topic and schema id: a handful in thousands of records.
    types: Vec<(Arc<str>, Option<u32>)>,
    /// Index into the types, the event's moment, and whether it was handled.
    seen: Vec<(usize, Option<DateTime<Utc>>, bool)>,
}

impl Tally {
    /// The handler is done with it.
    pub(crate) fn handled(&mut self, record: &Record) {
        self.push(record, true);
    }

    /// A try to handle it failed.
    pub(crate) fn failed(&mut self, record: &Record) {
        self.push(record, false);
    }

    fn push(&mut self, record: &Record, handled: bool) {
        let framed = record.payload.as_deref().map(unframe);
        let schema = framed.and_then(|framed| framed.ok()).map(|(id, _)| id);
        let same = |(topic, of): &(Arc<str>, Option<u32>)| {
            *of == schema && (Arc::ptr_eq(topic, &record.topic) || *topic == record.topic)
        };
        let index = self.types.iter().position(same).unwrap_or_else(|| {
            self.types.push((record.topic.clone(), schema));
            self.types.len() - 1
        });
        let envelope = record.envelope.as_ref().ok();
        let moment = envelope.map(|envelope| envelope.metadata.occurred_at);
        self.seen.push((index, moment, handled));
    }
}

impl Handler {
    /// Counts for a handler from here on.
    pub(crate) fn of(kind: Kind, name: &str, topics: Vec<String>) -> Arc<Self> {
        let handler = Arc::new(Self {
            kind,
            name: name.to_owned(),
            topics,
            figures: Mutex::default(),
        });
        let mut handlers = HANDLERS.lock().expect("no holder of the lock panics");
        handlers.retain(|one| one.strong_count() > 0);
        handlers.push(Arc::downgrade(&handler));
        handler
    }

    fn figures(&self) -> MutexGuard<'_, BTreeMap<String, Figures>> {
        self.figures.lock().expect("no holder of the lock panics")
    }

    /// Counts what is committed now.
    pub(crate) fn commit(&self, codec: &Codec, tally: &Tally) {
        if tally.seen.is_empty() {
            return;
        }
        let now = Utc::now();
        let names: Vec<String> = tally
            .types
            .iter()
            .map(|(topic, schema)| event_type(codec, topic, *schema))
            .collect();
        let mut figures = self.figures();
        // Taken out once for each type of the batch, not once for each event.
        let mut of_types: Vec<Figures> = vec![Figures::default(); names.len()];
        for (index, moment, handled) in &tally.seen {
            let one = &mut of_types[*index];
            if !*handled {
                one.errors += 1;
                continue;
            }
            one.handled += 1;
            if let Some(moment) = moment {
                let age = now.signed_duration_since(*moment).to_std();
                one.latency.record(&BOUNDS, age.unwrap_or_default());
            }
        }
        for (name, one) in names.into_iter().zip(of_types) {
            figures.entry(name).or_default().add(&one);
        }
    }

    /// The same for a single event.
    pub(crate) fn commit_one(&self, codec: &Codec, record: &Record, handled: bool) {
        let mut tally = Tally::default();
        tally.push(record, handled);
        self.commit(codec, &tally);
    }
}

impl Figures {
    fn add(&mut self, other: &Self) {
        self.handled += other.handled;
        self.errors += other.errors;
        self.latency.add(&other.latency);
    }
}

fn event_type(codec: &Codec, topic: &str, schema: Option<u32>) -> String {
    let record = schema.and_then(|schema| codec.record_of(schema).ok());
    let known = KNOWN.lock().expect("no holder of the lock panics");
    record
        .and_then(|record| known.get(topic)?.get(record.as_str()))
        .cloned()
        .unwrap_or_else(|| UNKNOWN.to_owned())
}

/// Writes the series of all handlers. The counts of every type that a handler may meet are there from its start on, as 0: a
/// counter that first shows as 1 has no increase.
pub(super) fn write(out: &mut String) {
    let handlers: Vec<Arc<Handler>> = HANDLERS
        .lock()
        .expect("no holder of the lock panics")
        .iter()
        .filter_map(Weak::upgrade)
        .collect();
    let mut all: BTreeMap<(Kind, &str, String), Figures> = BTreeMap::new();
    for handler in &handlers {
        let known = KNOWN.lock().expect("no holder of the lock panics");
        let types = handler.topics.iter().filter_map(|topic| known.get(topic));
        let zeros = types.flat_map(BTreeMap::values).map(String::as_str);
        for event in zeros.chain([UNKNOWN]) {
            let key = (handler.kind, handler.name.as_str(), event.to_owned());
            all.entry(key).or_default();
        }
        for (event, figures) in &*handler.figures() {
            let key = (handler.kind, handler.name.as_str(), event.clone());
            all.entry(key).or_default().add(figures);
        }
    }
    let labels = |(kind, handler, event): &'_ (Kind, &str, String)| -> Vec<String> {
        vec![kind.name().to_owned(), (*handler).to_owned(), event.clone()]
    };
    let counts = |figure: fn(&Figures) -> u64| -> Vec<(Vec<String>, f64)> {
        let count = |(key, figures)| (labels(key), figure(figures) as f64);
        all.iter().map(count).collect()
    };
    EVENTS.write_all(out, &counts(|one| one.handled));
    ERRORS.write_all(out, &counts(|one| one.errors));
    let latencies: Vec<_> = all
        .iter()
        .filter(|(_, figures)| figures.latency.count() > 0)
        .map(|(key, figures)| (labels(key), &figures.latency))
        .collect();
    LATENCY.write_buckets(out, &BOUNDS, &latencies);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::record::HeaderBlock;

    fn record(schema: u32) -> Record {
        let at = ("gauge.events".into(), 0, 7);
        let value = crate::codec::frame(schema, b"");
        Record::new(at, Some(b"k".to_vec()), Some(value), HeaderBlock::default())
    }

    #[test]
    fn types_that_no_schema_names_count_as_unknown_and_those_known_begin_at_zero() {
        let codec = Codec::default();
        let schema = |name: &str| format!(r#"{{"type":"record","name":"{name}","fields":[]}}"#);
        codec.add_reader(1, &schema("GaugeRead")).unwrap();
        codec.add_reader(2, &schema("OfSomebodyElse")).unwrap();
        know("gauge.events", "gauge", "GaugeRead");
        let handler = Handler::of(
            Kind::Processor,
            "read-gauge",
            vec!["gauge.events".to_owned()],
        );
        let written = || {
            let mut out = String::new();
            write(&mut out);
            out
        };
        let line = |metric: &str, event: &str, figure: u32| {
            format!(
                "{metric}{{kind=\"processor\",handler=\"read-gauge\",event=\"{event}\"}} {figure}\n"
            )
        };
        let events = "millrace_handler_events_total";
        assert!(written().contains(&line(events, "gauge.read", 0)));
        let mut tally = Tally::default();
        for schema in [1, 2, 1, 3] {
            tally.handled(&record(schema));
        }
        tally.failed(&record(1));
        handler.commit(&codec, &tally);
        let text = written();
        assert!(text.contains(&line(events, "gauge.read", 2)), "{text}");
        assert!(text.contains(&line(events, UNKNOWN, 2)), "{text}");
        let errors = "millrace_handler_errors_total";
        assert!(text.contains(&line(errors, "gauge.read", 1)), "{text}");
        assert!(text.contains("# TYPE millrace_handler_errors_total counter\n"));
        drop(handler);
        assert!(!written().contains("read-gauge"));
    }
}
