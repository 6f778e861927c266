//! One trace from the caller over the journal and Kafka to the views, as an OTLP collector receives it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::json;

use super::world::{LONG, World};

/// What every order's trace holds; further processors may read it too.
const STEPS: [&str; 7] = [
    "append",
    "apply customer-totals",
    "apply event-log",
    "apply orders",
    "command PlaceOrder",
    "process order-stock",
    "publish order.placed",
];

/// No processor sends a command for it.
const ALONE: &str = "orchestration";

type Spans = Arc<Mutex<Vec<Span>>>;

/// A collector: takes what the exporter posts.
async fn collector() -> Result<(String, Spans)> {
    let spans = Spans::default();
    let take = |State(spans): State<Spans>, body: Bytes| async move {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        let resources = request.resource_spans.into_iter();
        let all = resources
            .flat_map(|resource| resource.scope_spans)
            .flat_map(|scope| scope.spans);
        spans.lock().unwrap().extend(all);
    };
    let router = Router::new()
        .route("/v1/traces", post(take))
        .with_state(spans.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((url, spans))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Spans by trace id, each trace by the spans' names.
fn traces(spans: &Spans) -> BTreeMap<String, BTreeMap<String, Span>> {
    let mut traces: BTreeMap<String, BTreeMap<String, Span>> = BTreeMap::new();
    for span in spans.lock().unwrap().iter() {
        let trace = traces.entry(hex(&span.trace_id)).or_default();
        assert!(
            trace.insert(span.name.clone(), span.clone()).is_none(),
            "{} twice",
            span.name
        );
    }
    traces
}

async fn place(
    world: &World,
    (id, coordination): (&str, &str),
    traceparent: Option<&str>,
) -> Result<()> {
    let mut request = reqwest::Client::new()
        .post(format!("{}/commands/order/{id}", world.url))
        .json(
            &json!({"type": "PlaceOrder", "data": {"customer_id": "c1", "currency": "EUR",
            "coordination": coordination, "lines": [{"product_id": "p1", "quantity": 1, "total_cents": 100}]}}),
        );
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    let status = request.send().await?.status();
    ensure!(status == 201, "{status}");
    Ok(())
}

async fn until(world: &World, spans: &Spans, complete: usize) -> Result<()> {
    let begun = Instant::now();
    let whole = || {
        let traces = traces(spans);
        traces
            .values()
            .filter(|trace| STEPS.iter().all(|step| trace.contains_key(*step)))
            .count()
    };
    while whole() < complete {
        ensure!(
            begun.elapsed() < LONG,
            "{:?}\n{}",
            traces(spans),
            world.logs()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_from_the_caller_to_every_view_and_only_where_it_is_sampled() -> Result<()> {
    let (url, spans) = collector().await?;
    let world = World::start()?;
    let mut process = world.up_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        // What is traced does not hang on what is logged.
        ("RUST_LOG", "warn"),
    ])?;
    process.ready().await?;
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let unsampled = "00000000000000000000000000000bad";
    place(
        &world,
        ("unsampled", ALONE),
        Some(&format!("00-{unsampled}-{parent}-00")),
    )
    .await?;
    let sampled = format!("00-{trace}-{parent}-01");
    place(&world, ("sampled", ALONE), Some(&sampled)).await?;
    until(&world, &spans, 1).await?;
    place(&world, ("begun-here", ALONE), None).await?;
    until(&world, &spans, 2).await?;
    process.stop().await?;

    let mut traces = traces(&spans);
    let given = traces
        .remove(trace)
        .context("the caller's trace is not there")?;
    assert!(!traces.contains_key(unsampled));
    let (_, begun) = traces.pop_first().context("no trace was begun")?;
    assert!(traces.is_empty(), "{traces:?}");
    assert_eq!(hex(&given["command PlaceOrder"].parent_span_id), parent);
    assert_eq!(hex(&begun["command PlaceOrder"].parent_span_id), "");
    for spans in [given, begun] {
        let command = &spans["command PlaceOrder"];
        for (name, span) in &spans {
            assert!(
                span.end_time_unix_nano >= span.start_time_unix_nano,
                "{name}"
            );
            if name != "command PlaceOrder" {
                assert_eq!(span.parent_span_id, command.span_id, "{name}");
            }
        }
        // Each step begins after the one that it rests on has begun.
        let start = |name: &str| spans[name].start_time_unix_nano;
        assert!(start("command PlaceOrder") <= start("append"));
        assert!(start("append") <= start("publish order.placed"));
        assert!(start("publish order.placed") <= start("apply orders"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_on_through_processors_to_the_commands_that_follow() -> Result<()> {
    let (url, spans) = collector().await?;
    let world = World::start()?;
    let mut process = world.up_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ])?;
    process.ready().await?;
    let sampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    place(&world, ("flows", "choreography"), Some(sampled)).await?;
    let find = |name: &str| {
        let spans = spans.lock().unwrap();
        spans.iter().find(|span| span.name == name).cloned()
    };
    let begun = Instant::now();
    while find("publish order.confirmed").is_none() {
        ensure!(begun.elapsed() < LONG, "{spans:?}\n{}", world.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    process.stop().await?;
    // Each rests on the one before: the order's event, the processor, its command, and so on back to the order.
    let chain = [
        "command PlaceOrder",
        "process order-stock",
        "command ReserveStock",
        "process stock-order",
    ];
    for pair in chain.windows(2) {
        let [from, to] = [pair[0], pair[1]].map(|name| find(name).context(name.to_owned()));
        let (from, to) = (from?, to?);
        assert_eq!(to.parent_span_id, from.span_id, "{pair:?}");
        assert_eq!(to.trace_id, from.trace_id, "{pair:?}");
    }
    Ok(())
}
