//! Traces: the W3C trace context of a command goes with its events to every view, and each step on the way is a span.
//!
//! ```text
//!  caller ── traceparent ──▶ command ──┬──▶ append            spans of the process that took the command
//!                                      ├──▶ relay             of the one that published the event
//!                                      ├──▶ apply             of each one that applied it to a view
//!                                      └──▶ process ──▶ …     of a processor, whose commands go on from there
//! ```
//!
//! An event carries the context of its command's span. Nothing is recorded unless export is on ([`export`]) and the
//! context's sampled flag is set; a command that comes without one begins a trace, and the sampler decides. With export off
//! a `traceparent` is passed on as it came.

use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use serde::Deserialize;
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::projection::Record;
use crate::relay::read::JournalEvent;

/// Target of all these spans: a subscriber exports what has it, whatever the log's filter says.
pub const TARGET: &str = "millrace::trace";

static EXPORTING: AtomicBool = AtomicBool::new(false);

/// Says that a subscriber is there that exports spans of [`TARGET`].
pub fn export() {
    EXPORTING.store(true, Ordering::Relaxed);
}

fn exporting() -> bool {
    EXPORTING.load(Ordering::Relaxed)
}

/// `version-traceid-parentid-flags` of W3C Trace Context; none where it is not valid.
fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, len: usize| {
        text.len() == len
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    // Later versions may have more parts; this one has none.
    let known = hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
    if !(known && hex(trace, 32) && hex(span, 16) && hex(flags, 2)) {
        return None;
    }
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::default(),
    );
    context.is_valid().then_some(context)
}

fn write(context: &SpanContext) -> String {
    format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags().to_u8() & 1
    )
}

/// The context to continue: none without one, or with one that is not sampled.
fn sampled(traceparent: Option<&str>) -> Option<Context> {
    let context = parse(traceparent?)?;
    context
        .is_sampled()
        .then(|| Context::new().with_remote_span_context(context))
}

/// The span of a command; `traceparent` becomes that of the span, for its events to carry.
pub(crate) fn command(aggregate: &str, kind: &str, traceparent: &mut Option<String>) -> Span {
    if !exporting() {
        return Span::none();
    }
    let parent = traceparent.as_deref().and_then(parse);
    if parent.as_ref().is_some_and(|parent| !parent.is_sampled()) {
        return Span::none();
    }
    let span = info_span!(
        target: TARGET, parent: None, "command", "otel.name" = format!("command {kind}"), "otel.kind" = "server",
        aggregate, outcome = tracing::field::Empty
    );
    if let Some(parent) = parent {
        // Fails only for a span that has begun elsewhere.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
    let context = span.context().span().span_context().clone();
    if context.is_valid() {
        *traceparent = Some(write(&context));
    }
    span
}

/// Spans over the append of these commands.
pub(crate) fn appending<'t>(traceparents: impl Iterator<Item = Option<&'t str>>) -> Vec<Span> {
    if !exporting() {
        return Vec::new();
    }
    let span = |parent: Context| {
        let span = info_span!(target: TARGET, parent: None, "append", "otel.kind" = "internal");
        let _ = span.set_parent(parent);
        span
    };
    traceparents.filter_map(sampled).map(span).collect()
}

#[derive(Deserialize)]
struct Traced<'t> {
    #[serde(borrow)]
    traceparent: Option<&'t str>,
}

/// Spans over the publishing of these events.
pub(crate) fn publishing(events: &[JournalEvent]) -> Vec<Span> {
    if !exporting() {
        return Vec::new();
    }
    let span = |event: &JournalEvent| {
        let traced: Traced<'_> = serde_json::from_str(event.headers.as_deref()?).ok()?;
        let parent = sampled(traced.traceparent)?;
        let span = info_span!(
            target: TARGET, parent: None, "relay", "otel.name" = format!("publish {}", event.kind.ce_type),
            "otel.kind" = "producer", topic = event.kind.topic, aggregate_id = event.aggregate_id,
            sequence = event.sequence
        );
        let _ = span.set_parent(parent);
        Some(span)
    };
    events.iter().filter_map(span).collect()
}

/// Spans over the applying of these records to a view.
pub(crate) fn applying(view: &str, records: &[Record]) -> Vec<Span> {
    if !exporting() {
        return Vec::new();
    }
    let span = |record: &Record| {
        let envelope = record.envelope.as_ref().ok()?;
        let parent = sampled(envelope.metadata.traceparent.as_deref())?;
        let span = info_span!(
            target: TARGET, parent: None, "apply", "otel.name" = format!("apply {view}"), "otel.kind" = "consumer",
            view, topic = &*record.topic, partition = record.partition, offset = record.offset,
            sequence = envelope.sequence
        );
        let _ = span.set_parent(parent);
        Some(span)
    };
    records.iter().filter_map(span).collect()
}

/// The span of a processor at work on a record; `traceparent` becomes that of the span, for the commands that it emits.
pub(crate) fn processing(name: &str, topic: &str, traceparent: &mut Option<String>) -> Span {
    let Some(parent) = exporting()
        .then(|| sampled(traceparent.as_deref()))
        .flatten()
    else {
        return Span::none();
    };
    let span = info_span!(
        target: TARGET, parent: None, "process", "otel.name" = format!("process {name}"), "otel.kind" = "consumer", topic
    );
    let _ = span.set_parent(parent);
    let context = span.context().span().span_context().clone();
    if context.is_valid() {
        *traceparent = Some(write(&context));
    }
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_and_written_as_the_recommendation_says() {
        let context = parse(PARENT).unwrap();
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(write(&context), PARENT);
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-what-comes";
        assert!(!parse(later).unwrap().is_sampled());
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn without_export_a_traceparent_stays_as_it_came() {
        let mut traceparent = Some(PARENT.to_owned());
        assert!(command("counter", "RaiseCounter", &mut traceparent).is_none());
        assert_eq!(traceparent.as_deref(), Some(PARENT));
        let mut none = None;
        assert!(command("counter", "RaiseCounter", &mut none).is_none());
        assert_eq!(none, None);
    }
}
