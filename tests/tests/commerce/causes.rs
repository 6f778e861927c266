//! One story through every hop: a caller's command, events, processors and their commands, an effect's outcome, a timer, the view. Each
//! event is in the story, and names the command that it came from; each command names the event that it came from.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millrace::timer::command_id;
use processors::gateway::faults::{Fault, Faults};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::shop::Shop;
use crate::operate::world::LONG;

/// A command as it stands in its topic.
#[derive(Debug)]
struct Sent {
    by: String,
    cause: String,
    story: String,
}

/// An event as the view `event_log` shows it.
#[derive(Debug, sqlx::FromRow)]
struct Seen {
    event_id: Uuid,
    event_type: String,
    correlation_id: Option<String>,
    causation_id: Option<String>,
}

fn header(message: &BorrowedMessage<'_>, name: &str) -> Option<String> {
    let all = message.headers()?;
    let found = all.iter().find(|header| header.key == name)?;
    Some(std::str::from_utf8(found.value?).ok()?.to_owned())
}

/// Every command of these aggregate types, by its id.
fn sent(shop: &Shop, aggregates: &[&str]) -> Result<BTreeMap<String, Sent>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", shop.world.servers.kafka())
        .set("group.id", "reads-all-commands")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .create()?;
    let mut partitions = TopicPartitionList::new();
    for aggregate in aggregates {
        let topic = format!("{aggregate}.commands");
        let metadata = consumer.fetch_metadata(Some(&topic), LONG)?;
        for partition in metadata
            .topics()
            .iter()
            .flat_map(|topic| topic.partitions())
        {
            partitions.add_partition_offset(&topic, partition.id(), Offset::Beginning)?;
        }
    }
    consumer.assign(&partitions)?;
    let mut sent = BTreeMap::new();
    let begun = Instant::now();
    let mut left = partitions.count();
    while left > 0 {
        ensure!(begun.elapsed() < LONG, "{left} partitions have no end");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let of = |name| header(&message, name).with_context(|| format!("no {name}"));
                let command = Sent {
                    by: of("ce_source")?,
                    cause: of("ce_causationid")?,
                    story: of("ce_correlationid")?,
                };
                sent.insert(of("ce_id")?, command);
            }
            Some(Err(KafkaError::PartitionEOF(_))) => left -= 1,
            Some(Err(error)) => return Err(error.into()),
            None => {}
        }
    }
    Ok(sent)
}

/// Places an order as the first command of a story.
async fn begin(shop: &Shop, order: &str, choices: Value) -> Result<()> {
    let mut data = json!({"customer_id": "ada", "currency": "EUR",
        "lines": [{"product_id": "tea", "quantity": 1, "total_cents": 250}]});
    let chosen = choices.as_object().context("choices are an object")?;
    let fields = data.as_object_mut().context("data is an object")?;
    fields.extend(chosen.clone());
    let answer = shop
        .http
        .post(format!("{}/commands/order/{order}", shop.world.url))
        .header("idempotency-key", format!("key-{order}"))
        .header("x-correlation-id", format!("story-{order}"))
        .json(&json!({"type": "PlaceOrder", "data": data}))
        .send()
        .await?;
    ensure!(answer.status() == 201, "{}", answer.text().await?);
    Ok(())
}

async fn story(shop: &Shop, order: &str) -> Result<Vec<Seen>> {
    let mut views = PgConnection::connect(shop.world.servers.views_database_url()).await?;
    Ok(sqlx::query_as(
        "SELECT event_id, event_type, correlation_id, causation_id FROM views.event_log
         WHERE correlation_id = $1 OR aggregate_id = $2 ORDER BY occurred_at, sequence",
    )
    .bind(format!("story-{order}"))
    .bind(order)
    .fetch_all(&mut views)
    .await?)
}

/// The timers that fired, by the ids of their commands: each with its own id and its name.
async fn timers(shop: &Shop) -> Result<BTreeMap<String, (Uuid, String)>> {
    let mut journal = PgConnection::connect(shop.world.servers.database_url()).await?;
    let rows = "SELECT command_id, timer_id, name FROM millrace.timers WHERE state = 'fired'";
    let rows: Vec<(String, Uuid, String)> = sqlx::query_as(rows).fetch_all(&mut journal).await?;
    Ok(rows
        .into_iter()
        .map(|(command, timer, name)| (command, (timer, name)))
        .collect())
}

/// Follows each event back, command by command, to the caller's own. What was met on the way: who sent the commands.
fn follow(
    order: &str,
    events: &[Seen],
    sent: &BTreeMap<String, Sent>,
    timers: &BTreeMap<String, (Uuid, String)>,
) -> Result<BTreeSet<String>> {
    let (key, story) = (format!("key-{order}"), format!("story-{order}"));
    let ids: BTreeMap<String, &Seen> = events
        .iter()
        .map(|event| (event.event_id.to_string(), event))
        .collect();
    let mut senders = BTreeSet::new();
    for event in events {
        let mut at = event;
        // Longer than any chain of these: a circle would not end.
        for hop in 0.. {
            ensure!(hop < 50, "{event:?} leads in a circle");
            ensure!(at.correlation_id.as_ref() == Some(&story), "{at:?}");
            let cause = at
                .causation_id
                .as_ref()
                .context("an event without a cause")?;
            if *cause == key {
                senders.insert("the caller".to_owned());
                break;
            }
            if let Some((timer, name)) = timers.get(cause) {
                senders.insert("a timer".to_owned());
                assert_eq!(*cause, command_id(*timer).to_string());
                // A timer is named after the event that set it.
                let name = format!("timer\0{name}");
                let set_by =
                    |event: &&Seen| Uuid::new_v5(&event.event_id, name.as_bytes()) == *timer;
                at = events
                    .iter()
                    .find(set_by)
                    .with_context(|| format!("timer {timer} was set by no event of the story"))?;
                continue;
            }
            let command = sent
                .get(cause)
                .with_context(|| format!("{at:?} names no command of ours"))?;
            ensure!(command.story == story, "{command:?}");
            senders.insert(command.by.clone());
            at = ids
                .get(&command.cause)
                .with_context(|| format!("{command:?} names no event of the story"))?;
        }
    }
    Ok(senders)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_a_story_leads_back_to_the_callers_command_over_every_hop() -> Result<()> {
    let shop = Shop::open(Faults::chosen(|_| Fault::None)).await?;
    let up = shop.up().await?;
    shop.receive("tea", 100).await?;
    begin(
        &shop,
        "paid",
        json!({"coordination": "choreography", "payment": "gateway"}),
    )
    .await?;
    begin(
        &shop,
        "saga",
        json!({"coordination": "orchestration", "payment": "gateway"}),
    )
    .await?;
    // Nobody confirms this one: its timer is due as soon as we say so.
    begin(
        &shop,
        "late",
        json!({"coordination": "orchestration", "payment": "invoice"}),
    )
    .await?;
    for order in ["paid", "saga"] {
        let confirmed = format!(
            "SELECT count(*) FROM views.orders WHERE order_id = '{order}' AND status = 'confirmed'"
        );
        shop.world.until_number(&confirmed, 1).await?;
        let counted = format!(
            "SELECT count(*) FROM views.event_log
             WHERE correlation_id = 'story-{order}' AND event_type = 'SaleCounted'"
        );
        shop.world.until_number(&counted, 1).await?;
    }
    let ended = "SELECT count(*) FROM views.saga_instances WHERE order_id = 'saga' AND ended_at IS NOT NULL";
    shop.world.until_number(ended, 1).await?;
    let mut journal = PgConnection::connect(shop.world.servers.database_url()).await?;
    let due = "UPDATE millrace.timers SET due_at = clock_timestamp()
               WHERE aggregate_type = 'order' AND aggregate_id = 'late' AND state = 'pending'";
    let set = sqlx::query(due).execute(&mut journal).await?;
    assert_eq!(set.rows_affected(), 1);
    let cancelled = "SELECT count(*) FROM views.event_log
         WHERE correlation_id = 'story-late' AND event_type = 'OrderCancelled'";
    shop.world.until_number(cancelled, 1).await?;

    shop.world.until_caught_up().await?;
    let aggregates = ["order", "stock", "payment", "order_saga", "sales_day"];
    let sent = tokio::task::block_in_place(|| sent(&shop, &aggregates))?;
    let timers = timers(&shop).await?;
    let mut types = BTreeMap::new();
    let mut senders = BTreeMap::new();
    for order in ["paid", "saga", "late"] {
        let events = story(&shop, order).await?;
        let of = events.iter().map(|event| event.event_type.clone());
        types.insert(order, of.collect::<BTreeSet<String>>());
        senders.insert(order, follow(order, &events, &sent, &timers)?);
        // The same over HTTP.
        let asked = format!(
            "{}/events/list?correlation_id=story-{order}&limit=100",
            shop.world.url
        );
        let listed: Value = shop.http.get(asked).send().await?.json().await?;
        let items = listed["items"].as_array().context("no items")?;
        ensure!(
            items.len() >= events.len(),
            "{} of {}",
            items.len(),
            events.len()
        );
    }
    let has = |order: &str, wanted: &str| {
        let found = senders[order].iter().any(|sender| sender == wanted);
        assert!(found, "{order}: {wanted} is not among {:?}", senders[order]);
    };
    for order in ["paid", "saga"] {
        has(order, "the caller");
        has(order, "/millrace/effect/payment-gateway");
        has(order, "/millrace/processor/order-sales");
    }
    has("paid", "/millrace/processor/order-stock");
    has("paid", "/millrace/processor/payment-order");
    has("saga", "/millrace/processor/saga-steps");
    has("saga", "/millrace/processor/payment-saga");
    has("late", "a timer");
    for wanted in [
        "StockReserved",
        "PaymentReceived",
        "OrderConfirmed",
        "SaleCounted",
    ] {
        assert!(types["paid"].contains(wanted), "{:?}", types["paid"]);
        assert!(types["saga"].contains(wanted), "{:?}", types["saga"]);
    }
    // What was sold is told once, when the day is over.
    let due = "UPDATE millrace.timers SET due_at = clock_timestamp()
               WHERE aggregate_type = 'sales_day' AND state = 'pending'";
    sqlx::query(due).execute(&mut journal).await?;
    let told = "SELECT coalesce(sum(orders), 0)::bigint FROM views.sales_digests";
    shop.world.until_number(told, 2).await?;
    let url = format!("{}/views/sales-digests", shop.world.url);
    let digests: Value = shop.http.get(url).send().await?.json().await?;
    let items = digests["items"].as_array().context("no items")?;
    ensure!(!items.is_empty(), "{digests}");
    for digest in items {
        assert_eq!(digest["currency"], "EUR", "{digest}");
        assert_eq!(digest["revision"], 1, "{digest}");
    }
    up.stop().await
}
