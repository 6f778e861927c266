//! Consumers: how far each group is behind, partition by partition.
//!
//! The figures come from what the client learnt with its last fetches (librdkafka's statistics), so they cost no
//! request, and only of partitions that this process is assigned: over all processes each partition counts once.
//!
//! An end above the position does not say that a record is left: transactions leave markers, which are offsets
//! without a record. So a partition is caught up when the client has met its end and everything before is done.
//!
//! A read-committed consumer sees nothing behind the first open transaction, and its lag counts to there (the last stable
//! offset): a producer that hangs in its transaction shows as lag 0 while the records behind it are withheld. So what lies
//! between the last stable offset and the end is a figure of its own, and one that stands still for longer than any
//! transaction of ours may last is called hung.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use metrics::Unit;
use rdkafka::statistics::{Partition as Fetched, Statistics};

use super::Metric;

pub(super) const METRICS: &[Metric] = &[LAG, OPEN, CATCH_UP, FRESHNESS];

const PARTITION: &[&str] = &["group", "topic", "partition"];

const LAG: Metric = Metric::gauge(
    "millrace_consumer_lag_records",
    Unit::Count,
    PARTITION,
    "Offsets between the group's position and the last stable offset; 0 once no record is left.",
);
const OPEN: Metric = Metric::gauge(
    "millrace_consumer_open_transaction_records",
    Unit::Count,
    PARTITION,
    "Offsets between the last stable offset and the end: withheld by a transaction that is not finished; one that hangs shows here, not as lag.",
);
const CATCH_UP: Metric = Metric::gauge(
    "millrace_consumer_catch_up_seconds",
    Unit::Seconds,
    &["group"],
    "Time until the group has no lag at its present pace in this process, 0 if it has none, +Inf if it does not gain.",
);
const FRESHNESS: Metric = Metric::gauge(
    "millrace_view_freshness_seconds",
    Unit::Seconds,
    &["view"],
    "Age of the view where it is behind: time since its last applied event or since it was last caught up, whichever is less; 0 if it is not behind.",
);

/// Longer than any transaction of ours: the broker ends one after `transaction.timeout.ms`.
pub const HUNG_AFTER: Duration = Duration::from_secs(30);
/// `statistics.interval.ms` of a consumer whose context hands its statistics to [`Group::consumed`].
pub const STATISTICS_MS: &str = "1000";
/// Over which the pace is measured.
const PACE_WINDOW: Duration = Duration::from_secs(10);

static GROUPS: Mutex<Vec<Weak<Group>>> = Mutex::new(Vec::new());

/// Topic and partition.
type Key = (String, i32);

/// What one consumer of a group knows; its series end with it.
#[derive(Debug)]
pub struct Group {
    name: String,
    view: Option<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    partitions: BTreeMap<Key, Partition>,
    pace: Option<Pace>,
}

#[derive(Debug)]
struct Partition {
    lag: i64,
    stable: i64,
    end: i64,
    /// Since when the last stable offset is where it is while something lies behind it.
    open_since: Option<Instant>,
    seen_first: Instant,
    caught_up_at: Option<Instant>,
    event_time: Option<DateTime<Utc>>,
}

/// The lag at the begin of a window, and how fast it fell over the last one.
#[derive(Debug)]
struct Pace {
    since: Instant,
    lag: i64,
    falls_per_s: f64,
}

/// How far a consumer is with a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Offset of the next record; everything before is done.
    pub next: i64,
    /// True if all that the client handed out is done: then the client's own position, which goes over transaction
    /// markers too, counts.
    pub settled: bool,
}

/// A partition whose last stable offset has not moved for [`HUNG_AFTER`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hung {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// What it is and what to do, one sentence.
    pub reason: String,
}

impl Group {
    /// A consumer of a processor, an effect or whatever else reads topics.
    pub fn of(group: &str) -> Arc<Self> {
        Self::register(group, None)
    }

    /// The consumer of a view.
    pub fn of_view(view: &str, group: &str) -> Arc<Self> {
        Self::register(group, Some(view.to_owned()))
    }

    fn register(group: &str, view: Option<String>) -> Arc<Self> {
        let group = Arc::new(Self {
            name: group.to_owned(),
            view,
            state: Mutex::default(),
        });
        let mut groups = GROUPS.lock().expect("no holder of the lock panics");
        groups.retain(|one| one.strong_count() > 0);
        groups.push(Arc::downgrade(&group));
        group
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    /// To be called from the consumer context's `stats`, with every partition that the consumer has. Answers with those
    /// where a transaction hangs.
    pub fn consumed(
        &self,
        statistics: &Statistics,
        positions: &BTreeMap<(String, i32), Position>,
    ) -> Vec<Hung> {
        let mut state = self.state();
        state
            .partitions
            .retain(|key, _| positions.contains_key(key));
        for (key, position) in positions {
            let fetched = statistics
                .topics
                .get(&key.0)
                .and_then(|topic| topic.partitions.get(&key.1));
            if let Some(fetched) = fetched.filter(|fetched| fetched.hi_offset >= 0) {
                state
                    .partitions
                    .entry(key.clone())
                    .or_insert_with(Partition::new)
                    .saw(fetched, *position);
            }
        }
        state.keep_pace();
        state
            .partitions
            .iter()
            .filter_map(|(key, partition)| partition.hung(key))
            .collect()
    }

    /// Times of the last events that were applied.
    pub(crate) fn applied(&self, times: &BTreeMap<(&str, i32), DateTime<Utc>>) {
        let mut state = self.state();
        for ((topic, partition), time) in times {
            if let Some(found) = state.partitions.get_mut(&((*topic).to_owned(), *partition)) {
                found.event_time = Some(*time);
            }
        }
    }

    /// The consumer has left the group.
    pub fn left(&self) {
        *self.state() = State::default();
    }
}

impl Partition {
    fn new() -> Self {
        Self {
            lag: 0,
            stable: -1,
            end: -1,
            open_since: None,
            seen_first: Instant::now(),
            caught_up_at: None,
            event_time: None,
        }
    }

    fn saw(&mut self, fetched: &Fetched, position: Position) {
        let (stable, end) = (fetched.ls_offset, fetched.hi_offset);
        // The client has handed out everything up to the end, or has met the end without anything to hand out.
        let met = fetched.app_offset >= stable || fetched.eof_offset >= stable;
        self.lag = match met && position.settled {
            true => 0,
            false => (stable - position.next).max(0),
        };
        if self.lag == 0 {
            self.caught_up_at = Some(Instant::now());
        }
        if end <= stable {
            self.open_since = None;
        } else if self.stable != stable || self.open_since.is_none() {
            self.open_since = Some(Instant::now());
        }
        (self.stable, self.end) = (stable, end);
    }

    fn hung(&self, (topic, partition): &Key) -> Option<Hung> {
        let since = self.open_since.map(|since| since.elapsed())?;
        (since >= HUNG_AFTER && self.lag == 0).then(|| Hung {
            topic: topic.clone(),
            partition: *partition,
            reason: hung(topic, *partition, (self.stable, self.end)),
        })
    }

    fn freshness(&self) -> Duration {
        if self.lag == 0 {
            return Duration::ZERO;
        }
        let since = self.caught_up_at.map(|at| at.elapsed());
        let age = self
            .event_time
            .map(|time| (Utc::now() - time).to_std().unwrap_or_default());
        match (since, age) {
            (Some(since), Some(age)) => since.min(age),
            (one, other) => one.or(other).unwrap_or_else(|| self.seen_first.elapsed()),
        }
    }
}

/// What a hung transaction is called wherever it shows.
pub fn hung(topic: &str, partition: i32, (stable, end): (i64, i64)) -> String {
    format!(
        "{topic}/{partition}: a transaction that does not end holds the last stable offset at {stable}, {} offsets behind it \
         are withheld from every reader: find its producer with `kafka-transactions.sh find-hanging --broker-id ID`, \
         end it with `kafka-transactions.sh abort --topic {topic} --partition {partition} --start-offset {stable}`",
        end - stable
    )
}

impl State {
    fn lag(&self) -> i64 {
        self.partitions.values().map(|one| one.lag).sum()
    }

    fn keep_pace(&mut self) {
        let lag = self.lag();
        let pace = self.pace.get_or_insert_with(|| Pace {
            since: Instant::now(),
            lag,
            falls_per_s: 0.0,
        });
        let elapsed = pace.since.elapsed();
        if elapsed >= PACE_WINDOW {
            *pace = Pace {
                since: Instant::now(),
                lag,
                falls_per_s: (pace.lag - lag) as f64 / elapsed.as_secs_f64(),
            };
        }
    }

    fn catch_up_s(&self) -> f64 {
        let lag = self.lag();
        match &self.pace {
            _ if lag == 0 => 0.0,
            Some(pace) if pace.falls_per_s > 0.0 => lag as f64 / pace.falls_per_s,
            _ => f64::INFINITY,
        }
    }
}

/// Writes the series of all consumers that there are.
pub(super) fn write(out: &mut String) {
    let groups: Vec<Arc<Group>> = GROUPS
        .lock()
        .expect("no holder of the lock panics")
        .iter()
        .filter_map(Weak::upgrade)
        .collect();
    let states: Vec<_> = groups
        .iter()
        .map(|group| (group, group.state()))
        .filter(|(_, state)| !state.partitions.is_empty())
        .collect();
    let numbers: BTreeMap<i32, String> = states
        .iter()
        .flat_map(|(_, state)| state.partitions.keys())
        .map(|(_, partition)| (*partition, partition.to_string()))
        .collect();
    let of_partitions = |figure: fn(&Partition) -> i64| -> Vec<(Vec<&str>, f64)> {
        states
            .iter()
            .flat_map(|(group, state)| state.partitions.iter().map(move |one| (group, one)))
            .map(|(group, ((topic, partition), one))| {
                let labels = vec![
                    group.name.as_str(),
                    topic.as_str(),
                    numbers[partition].as_str(),
                ];
                (labels, figure(one) as f64)
            })
            .collect()
    };
    LAG.write(out, &of_partitions(|one| one.lag));
    OPEN.write(out, &of_partitions(|one| (one.end - one.stable).max(0)));
    let catch_up: Vec<_> = states
        .iter()
        .map(|(group, state)| (vec![group.name.as_str()], state.catch_up_s()))
        .collect();
    CATCH_UP.write(out, &catch_up);
    let freshness: Vec<_> = states
        .iter()
        .filter_map(|(group, state)| {
            let oldest = state.partitions.values().map(Partition::freshness).max()?;
            Some((vec![group.view.as_deref()?], oldest.as_secs_f64()))
        })
        .collect();
    FRESHNESS.write(out, &freshness);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetched(stable: i64, end: i64, met: i64, handed_out: i64) -> Statistics {
        let partition = Fetched {
            ls_offset: stable,
            hi_offset: end,
            eof_offset: met,
            app_offset: handed_out,
            ..Fetched::default()
        };
        let mut statistics = Statistics::default();
        let topic = statistics
            .topics
            .entry("counter.events".to_owned())
            .or_default();
        topic.partitions.insert(3, partition);
        statistics
    }

    fn at(next: i64, settled: bool) -> BTreeMap<Key, Position> {
        let position = Position { next, settled };
        BTreeMap::from([(("counter.events".to_owned(), 3), position)])
    }

    fn lag(group: &Group) -> i64 {
        group.state().lag()
    }

    #[test]
    fn a_marker_behind_the_last_record_is_no_lag_but_a_record_in_work_is() {
        let group = Group::of("g");
        // Records 0 to 9 and a marker at 10; the client met the end, but the batch with record 9 is not written yet.
        group.consumed(&fetched(11, 11, 11, 11), &at(9, false));
        assert_eq!(lag(&group), 2);
        group.consumed(&fetched(11, 11, 11, 11), &at(10, true));
        assert_eq!(lag(&group), 0);
        // More came and was not fetched yet.
        group.consumed(&fetched(20, 20, 11, 10), &at(10, true));
        assert_eq!(lag(&group), 10);
    }

    #[test]
    fn a_stable_offset_that_stands_still_below_the_end_is_hung_and_one_that_moves_is_not() {
        let group = Group::of("g");
        let long_ago = |group: &Group| {
            for partition in group.state().partitions.values_mut() {
                partition.open_since = Instant::now().checked_sub(HUNG_AFTER);
            }
        };
        assert_eq!(group.consumed(&fetched(10, 15, 10, 10), &at(10, true)), []);
        long_ago(&group);
        let hung = group.consumed(&fetched(10, 17, 10, 10), &at(10, true));
        assert!(hung[0].reason.contains("find-hanging"), "{hung:?}");
        assert_eq!(hung[0].partition, 3);
        assert_eq!(group.consumed(&fetched(12, 17, 12, 12), &at(12, true)), []);
        long_ago(&group);
        assert_eq!(group.consumed(&fetched(17, 17, 17, 17), &at(17, true)), []);
    }

    #[test]
    fn a_partition_that_is_gone_has_no_series() {
        let group = Group::of_view("gone", "millrace.view.gone");
        group.consumed(&fetched(20, 20, 5, 5), &at(5, true));
        let written = || {
            let mut out = String::new();
            write(&mut out);
            out
        };
        assert!(written().contains(
            "millrace_consumer_lag_records{group=\"millrace.view.gone\",topic=\"counter.events\",partition=\"3\"} 15"
        ));
        assert!(
            written()
                .contains("millrace_consumer_catch_up_seconds{group=\"millrace.view.gone\"} +Inf")
        );
        assert!(written().contains("millrace_view_freshness_seconds{view=\"gone\"}"));
        group.consumed(&fetched(20, 20, 5, 5), &BTreeMap::new());
        assert!(!written().contains("gone"));
    }
}
