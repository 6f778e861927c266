//! Processors and effects: what each has done, taken over from its health whenever somebody asks for that.

use std::time::Duration;

use metrics::{Unit, counter, gauge, histogram};

use super::Metric;
use crate::effect::HealthReport;
use crate::processor::ProcessorReport;

pub(super) const METRICS: &[Metric] = &[
    HANDLED, COMMANDS, BLOCKED, WAITING, LETTERS, CLAIMED, CALLS, CALL,
];

const HANDLED: Metric = Metric::counter(
    "millrace_processor_events_total",
    &["processor"],
    "Events that the processor handled, in committed transactions.",
);
const COMMANDS: Metric = Metric::counter(
    "millrace_processor_commands_total",
    &["processor"],
    "Commands and integration events that the processor emitted, in committed transactions.",
);
const BLOCKED: Metric = Metric::gauge(
    "millrace_processor_blocked_keys",
    Unit::Count,
    &["processor"],
    "Keys whose events wait for a dead letter to be redriven, on the partitions that this process holds.",
);
const WAITING: Metric = Metric::gauge(
    "millrace_processor_waiting_events",
    Unit::Count,
    &["processor"],
    "Events that this process has read and not handled yet.",
);
const LETTERS: Metric = Metric::counter(
    "millrace_dead_letters_total",
    &["kind", "name"],
    "Records that a processor or an effect (kind) put into its dead letter topic.",
);
const CLAIMED: Metric = Metric::counter(
    "millrace_effect_events_total",
    &["effect"],
    "Events that the effect claimed.",
);
const CALLS: Metric = Metric::counter(
    "millrace_effect_calls_total",
    &["effect", "outcome"],
    "Calls of the effect to the outside; outcome is done, uncertain or the class of the failure.",
);

const CALL: Metric = Metric::histogram(
    "millrace_effect_call_duration_seconds",
    Unit::Seconds,
    &["effect", "outcome"],
    "Time of one call of the effect to the outside; outcome is done or failed.",
);

/// An effect called the outside.
pub(crate) fn called(name: &str, time: Duration, done: bool) {
    let outcome = if done { "done" } else { "failed" };
    histogram!(CALL.name, "effect" => name.to_owned(), "outcome" => outcome).record(time);
}

/// Takes over the health of a processor.
pub(crate) fn processor(report: &ProcessorReport) {
    let name = || report.name.clone();
    counter!(HANDLED.name, "processor" => name()).absolute(report.handled);
    counter!(COMMANDS.name, "processor" => name()).absolute(report.emitted);
    counter!(LETTERS.name, "kind" => "processor", "name" => name()).absolute(report.dead_letters);
    gauge!(BLOCKED.name, "processor" => name()).set(report.blocked_keys as f64);
    gauge!(WAITING.name, "processor" => name()).set(report.waiting as f64);
}

/// Takes over the health of an effect.
pub(crate) fn effect(name: &str, report: &HealthReport) {
    let name = || name.to_owned();
    let calls = |outcome: &'static str, calls| {
        counter!(CALLS.name, "effect" => name(), "outcome" => outcome).absolute(calls);
    };
    counter!(CLAIMED.name, "effect" => name()).absolute(report.claimed);
    counter!(LETTERS.name, "kind" => "effect", "name" => name()).absolute(report.dead_letters);
    calls("done", report.done);
    calls("uncertain", report.uncertain);
    for (class, failed) in &report.failed {
        calls(class, *failed);
    }
}
