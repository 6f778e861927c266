//! `GET /metrics` of a real run says what really happened.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::json;
use sqlx::{Connection, PgConnection};

use super::world::{LONG, Orders, Process, World};

/// What was scraped.
struct Scrape(String);

impl Scrape {
    async fn of(world: &World) -> Result<Self> {
        Self::at(&world.producer_at).await
    }

    async fn at(address: &str) -> Result<Self> {
        let answer = reqwest::get(format!("http://{address}/metrics")).await?;
        ensure!(answer.status().is_success(), "{}", answer.status());
        Ok(Self(answer.text().await?))
    }

    /// Lines of a metric whose labels contain all of `labels`, in any order.
    fn series(&self, name: &str, labels: &[&str]) -> Vec<(&str, f64)> {
        let of_name = |line: &&str| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        };
        self.0
            .lines()
            .filter(of_name)
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .map(|line| {
                let (series, figure) = line.rsplit_once(' ').unwrap();
                (series, figure.parse().unwrap())
            })
            .collect()
    }

    /// The sum over the series; none if there is no series.
    fn sum(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let series = self.series(name, labels);
        (!series.is_empty()).then(|| series.iter().map(|(_, figure)| figure).sum())
    }
}

/// Scrapes until the sum over these series is as wanted.
async fn until(
    world: &World,
    (name, labels): (&str, &[&str]),
    wanted: impl Fn(Option<f64>) -> bool,
) -> Result<Scrape> {
    let begun = Instant::now();
    loop {
        let scrape = Scrape::of(world).await?;
        let found = scrape.sum(name, labels);
        if wanted(found) {
            return Ok(scrape);
        }
        ensure!(
            begun.elapsed() < LONG,
            "{name} {labels:?} is {found:?}\n{:?}\n{}",
            scrape.series(name, labels),
            world.logs()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

const ORDERS: &str = "group=\"millrace.view.orders\"";

/// An order that no processor acts on, so that what is counted is what was sent.
async fn place(world: &World, id: &str, headers: &[(&str, &str)]) -> Result<u16> {
    place_as(world, (id, "orchestration"), headers).await
}

async fn place_as(
    world: &World,
    (id, coordination): (&str, &str),
    headers: &[(&str, &str)],
) -> Result<u16> {
    let mut request = reqwest::Client::new()
        .post(format!("{}/commands/order/{id}", world.url))
        .json(
            &json!({"type": "PlaceOrder", "data": {"customer_id": "c1", "currency": "EUR",
            "coordination": coordination, "lines": [{"product_id": "p1", "quantity": 1, "total_cents": 100}]}}),
        );
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.send().await?.status().as_u16())
}

async fn started() -> Result<(World, Process)> {
    let world = World::start()?;
    // Nothing is confirmed, so nobody is called there.
    let mut process = world.up_with(&[("ORDER_WEBHOOK_URL", "http://127.0.0.1:9/")])?;
    process.ready().await?;
    Ok((world, process))
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_are_what_was_sent_and_a_paused_view_says_so() -> Result<()> {
    let (world, process) = started().await?;
    let orders = Orders::new(0, 250);
    let sent = world.send("orders.ndjson", &orders)?;
    let accepted = orders.accepted();
    let key = [("idempotency-key", "k1")];
    assert_eq!(place(&world, "once", &key).await?, 201);
    assert_eq!(place(&world, "once", &key).await?, 201);
    assert_eq!(place(&world, "once", &[]).await?, 422);
    assert_eq!(place(&world, "new", &[("if-match", "\"7\"")]).await?, 409);
    let published = (accepted + 1) as f64;

    for view in ["orders", "customer-totals", "event-log"] {
        let label = format!("view=\"{view}\"");
        let labels = [label.as_str(), "outcome=\"applied\""];
        let applied = ("millrace_sink_events_total", labels.as_slice());
        until(&world, applied, |found| found == Some(published)).await?;
    }
    let lag = ("millrace_consumer_lag_records", [ORDERS].as_slice());
    until(&world, lag, |found| found == Some(0.0)).await?;
    let freshness = ("millrace_view_freshness_seconds", [].as_slice());
    until(&world, freshness, |found| found == Some(0.0)).await?;
    let paused = ("millrace_view_paused", [].as_slice());
    until(&world, paused, |found| found == Some(0.0)).await?;
    // Each client says once a second how far it is; at the last look a transaction may have been open.
    for of_every_group in [
        "millrace_consumer_open_transaction_records",
        "millrace_consumer_catch_up_seconds",
    ] {
        until(&world, (of_every_group, &[]), |found| found == Some(0.0)).await?;
    }
    for group in [
        "millrace.processor.order-stock",
        "millrace.processor.stock-order",
        "millrace.effect.order-webhook",
        "millrace.commands.order",
    ] {
        let label = format!("group=\"{group}\"");
        let labels = [label.as_str()];
        let lag = ("millrace_consumer_lag_records", labels.as_slice());
        until(&world, lag, |found| found == Some(0.0)).await?;
    }
    let pending = ("millrace_timers_pending", [].as_slice());
    until(&world, pending, |found| found == Some(published)).await?;
    let relay = ("millrace_relay_lag_events", [].as_slice());
    let scrape = until(&world, relay, |found| found == Some(0.0)).await?;

    let commands = |outcome: &str| {
        let outcome = format!("outcome=\"{outcome}\"");
        let labels = ["aggregate=\"order\"", outcome.as_str()];
        scrape.sum("millrace_command_duration_seconds_count", &labels)
    };
    assert_eq!(commands("accepted"), Some(published), "{sent:?}");
    assert_eq!(commands("repeated"), Some(1.0));
    assert_eq!(commands("conflict"), Some(1.0));
    assert_eq!(commands("failure"), Some(0.0));
    let refused = commands("rejected").unwrap() + commands("malformed").unwrap();
    assert_eq!(refused, (250 - accepted + 1) as f64);
    let figure = |name: &str| scrape.sum(name, &[]);
    assert_eq!(figure("millrace_relay_events_total"), Some(published));
    assert_eq!(figure("millrace_relay_batch_events_sum"), Some(published));
    assert_eq!(
        figure("millrace_journal_append_batch_events_sum"),
        Some(published)
    );
    assert_eq!(figure("millrace_relay_leader"), Some(1.0));
    assert_eq!(figure("millrace_relay_stopped"), Some(0.0));
    assert_eq!(figure("millrace_timers_late_seconds"), Some(0.0));
    assert_eq!(figure("millrace_timers_total"), Some(0.0));
    assert_eq!(figure("millrace_inbox_commands_total"), Some(0.0));
    assert!(figure("process_resident_memory_bytes").unwrap() > 1e6);
    let store = scrape.sum("millrace_journal_store_bytes", &["table=\"events_order\""]);
    assert!(store.unwrap() > 0.0);

    // By handler and type of event: every event of these orders is OrderPlaced, and none failed.
    let by_type = |metric: &str, kind: &str, handler: &str, event: &str| {
        let labels = [("kind", kind), ("handler", handler), ("event", event)];
        let labels = labels.map(|(name, value)| format!("{name}=\"{value}\""));
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        scrape.sum(&format!("millrace_handler_{metric}"), &labels)
    };
    for (kind, handler) in [
        ("view", "orders"),
        ("view", "event-log"),
        ("processor", "order-stock"),
    ] {
        let figure = |metric: &str, event: &str| by_type(metric, kind, handler, event);
        assert_eq!(figure("events_total", "order.placed"), Some(published));
        assert_eq!(figure("errors_total", "order.placed"), Some(0.0));
        assert_eq!(
            figure("latency_seconds_count", "order.placed"),
            Some(published)
        );
        assert!(figure("latency_seconds_sum", "order.placed").unwrap() > 0.0);
        // Known from the schemas, so that the first one is an increase.
        assert_eq!(figure("events_total", "order.cancelled"), Some(0.0));
        assert_eq!(figure("events_total", "unknown"), Some(0.0));
    }
    assert_eq!(
        by_type("errors_total", "effect", "order-webhook", "order.confirmed"),
        Some(0.0)
    );
    assert_eq!(scrape.sum("millrace_handler_errors_total", &[]), Some(0.0));
    let conflicts = ["aggregate=\"order\""];
    assert_eq!(
        scrape.sum("millrace_journal_conflicts_total", &conflicts),
        Some(0.0)
    );

    for path in [
        "orders/once",
        "orders?limit=5",
        "orders/nobody",
        "orders?nothing=1",
    ] {
        reqwest::get(format!("{}/views/{path}", world.url)).await?;
    }
    let asked = (
        "millrace_query_duration_seconds_count",
        ["view=\"orders\""].as_slice(),
    );
    let scrape = until(&world, asked, |found| found == Some(4.0)).await?;
    let queries = |labels: &[&str]| scrape.sum(asked.0, labels);
    assert_eq!(queries(&["shape=\"one\"", "outcome=\"ok\""]), Some(1.0));
    assert_eq!(queries(&["shape=\"list\"", "outcome=\"ok\""]), Some(1.0));
    assert_eq!(queries(&["outcome=\"refused\""]), Some(2.0));
    assert_eq!(queries(&["outcome=\"failure\""]), None);

    world.done(&["pause", "orders"])?;
    let paused = ("millrace_view_paused", ["view=\"orders\""].as_slice());
    let scrape = until(&world, paused, |found| found == Some(1.0)).await?;
    assert_eq!(scrape.sum("millrace_view_paused", &[]), Some(1.0));
    // Who has left the group, which is soon after, says nothing about its lag; the others still do.
    let lag = ("millrace_consumer_lag_records", [ORDERS].as_slice());
    let scrape = until(&world, lag, |found| found.is_none()).await?;
    assert_eq!(scrape.sum("millrace_consumer_lag_records", &[]), Some(0.0));

    // One order that the processors act on: two commands by Kafka, and a timer that ends without having fired.
    assert_eq!(place_as(&world, ("flow", "choreography"), &[]).await?, 201);
    let labels = ["aggregate=\"order\"", "outcome=\"accepted\""];
    let by_kafka = ("millrace_inbox_commands_total", labels.as_slice());
    until(&world, by_kafka, |found| found >= Some(1.0)).await?;
    let processor = ["processor=\"order-stock\""];
    let emitted = ("millrace_processor_commands_total", processor.as_slice());
    until(&world, emitted, |found| found >= Some(1.0)).await?;
    process.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_runs_alone_counts_by_type_too() -> Result<()> {
    let world = World::start()?;
    let mut producer = world.producer()?;
    producer.ready().await?;
    // Now the journal has the schemas, and who only reads takes them from there.
    let mut projections = world.projections("")?;
    projections.ready().await?;
    assert_eq!(place(&world, "one", &[]).await?, 201);
    let shown = "SELECT count(*) FROM views.orders";
    world.until_number(shown, 1).await?;
    // It is counted behind the commit that shows the row.
    let begun = Instant::now();
    let labels = |event| ["handler=\"orders\"", event];
    let scrape = loop {
        let scrape = Scrape::at(&world.projections_at).await?;
        let placed = labels("event=\"order.placed\"");
        let counted = scrape.sum("millrace_handler_events_total", &placed);
        if counted == Some(1.0) {
            break scrape;
        }
        ensure!(begun.elapsed() < LONG, "{counted:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let of_orders = |event| scrape.sum("millrace_handler_events_total", &labels(event));
    assert_eq!(of_orders("event=\"order.cancelled\""), Some(0.0));
    assert_eq!(of_orders("event=\"unknown\""), Some(0.0));
    projections.stop().await?;
    producer.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_holds_the_gate_is_named_while_it_does_so() -> Result<()> {
    let (world, process) = started().await?;
    assert_eq!(place(&world, "first", &[]).await?, 201);
    let published = ("millrace_relay_events_total", [].as_slice());
    until(&world, published, |found| found == Some(1.0)).await?;

    let mut holder = PgConnection::connect(world.servers.database_url()).await?;
    sqlx::raw_sql("SET application_name = 'a \"long\" one'")
        .execute(&mut holder)
        .await?;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut holder)
        .await?;
    let mut tx = holder.begin().await?;
    sqlx::raw_sql("LOCK TABLE millrace.streams IN ROW EXCLUSIVE MODE; SELECT pg_current_xact_id()")
        .execute(&mut *tx)
        .await?;
    assert_eq!(place(&world, "second", &[]).await?, 201);
    let pid = format!("pid=\"{pid}\"");
    let labels = [pid.as_str(), r#"application="a \"long\" one""#];
    let named = ("millrace_relay_gate_holder_seconds", labels.as_slice());
    until(&world, named, |found| {
        found.is_some_and(|seconds| seconds > 1.0)
    })
    .await?;
    let behind = ("millrace_relay_lag_events", [].as_slice());
    let scrape = until(&world, behind, |found| found == Some(1.0)).await?;
    assert!(scrape.sum("millrace_relay_lag_seconds", &[]).unwrap() > 0.0);
    assert_eq!(scrape.sum("millrace_relay_events_total", &[]), Some(1.0));

    tx.rollback().await?;
    until(&world, published, |found| found == Some(2.0)).await?;
    until(&world, named, |found| found.is_none()).await?;
    let held = ("millrace_relay_gate_held_seconds", [].as_slice());
    until(&world, held, |found| found == Some(0.0)).await?;
    until(&world, behind, |found| found == Some(0.0)).await?;
    process.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_hangs_shows_although_the_lag_is_zero() -> Result<()> {
    let (world, process) = started().await?;
    assert_eq!(place(&world, "first", &[]).await?, 201);
    let lag = ("millrace_consumer_lag_records", [ORDERS].as_slice());
    until(&world, lag, |found| found == Some(0.0)).await?;

    let foreign: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", world.servers.kafka())
        .set("transactional.id", "foreign")
        .set("transaction.timeout.ms", "600000")
        .create()?;
    foreign.init_transactions(LONG)?;
    foreign.begin_transaction()?;
    let record = BaseRecord::to("order.events")
        .partition(4)
        .key("k")
        .payload("v");
    foreign.send(record).map_err(|(error, _)| error)?;
    foreign.flush(LONG)?;
    let labels = [ORDERS, "partition=\"4\""];
    let open = (
        "millrace_consumer_open_transaction_records",
        labels.as_slice(),
    );
    let scrape = until(&world, open, |found| found == Some(1.0)).await?;
    assert_eq!(
        scrape.sum("millrace_consumer_lag_records", &[ORDERS]),
        Some(0.0)
    );

    let begun = Instant::now();
    while !process.health().await.contains("find-hanging") {
        ensure!(
            begun.elapsed() < LONG,
            "{}\n{}",
            process.health().await,
            process.printed()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let stopped = (
        "millrace_view_stopped_partitions",
        ["view=\"orders\""].as_slice(),
    );
    until(&world, stopped, |found| found == Some(1.0)).await?;
    let status = world.status()?;
    assert_eq!(status["healthy"], false);
    let problems = status["problems"].as_array().context("no problems")?;
    let told = |problem: &serde_json::Value| {
        problem.as_str().is_some_and(|text| {
            text.contains("order.events/4") && text.contains("kafka-transactions.sh find-hanging")
        })
    };
    assert!(problems.iter().any(told), "{problems:?}");

    foreign.abort_transaction(LONG)?;
    until(&world, stopped, |found| found == Some(0.0)).await?;
    until(&world, open, |found| found == Some(0.0)).await?;
    let mut process = process;
    process.ready().await?;
    process.stop().await
}
