//! `GET /events/stats`: what every handler has handled, also over a kill.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use super::world::{LONG, Orders, World};

/// None while Kafka's answer is not there in time.
async fn stats(world: &World) -> Result<Option<Value>> {
    let answer = reqwest::get(format!("{}/events/stats", world.url)).await?;
    if answer.status().as_u16() == 503 {
        return Ok(None);
    }
    Ok(Some(answer.error_for_status()?.json().await?))
}

/// What of a handler failed: how much waits for an operator, how often, and the last reasons of its partitions.
pub(crate) async fn failures(world: &World, name: &str) -> Result<(i64, i64, Vec<String>)> {
    let begun = Instant::now();
    loop {
        if let Some(stats) = stats(world).await? {
            let handlers = stats["handlers"].as_array().context("no handlers")?;
            let handler = handlers.iter().find(|one| one["name"] == name);
            let handler = handler.with_context(|| format!("no {name} in {stats}"))?;
            let partitions = handler["partitions"].as_array().into_iter().flatten();
            let reasons = partitions.filter_map(|one| one["last_error"].as_str());
            let reasons = reasons.map(str::to_owned).collect();
            return Ok((
                number(handler, "failed")?,
                number(handler, "errors")?,
                reasons,
            ));
        }
        ensure!(begun.elapsed() < LONG, "503");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

fn number(of: &Value, name: &str) -> Result<i64> {
    of[name].as_i64().with_context(|| format!("{name} of {of}"))
}

/// The stats as soon as nothing is left to anybody and as many events are there.
async fn settled(world: &World, total: i64) -> Result<Value> {
    let begun = Instant::now();
    loop {
        let stats = stats(world).await?;
        if let Some(stats) = &stats
            && number(stats, "unprocessed")? == 0
            && number(stats, "total")? == total
        {
            return Ok(stats.clone());
        }
        ensure!(begun.elapsed() < LONG, "{stats:?}\n{}", world.logs());
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

/// An order that processors move on.
fn flowing(number: usize) -> String {
    let order = json!({"order_id": format!("flowing-{number}"), "customer_id": "ada", "currency": "EUR",
                       "lines": [{"product_id": "tea", "quantity": 1, "total_cents": 5}]});
    format!("{order}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_handler_has_counted_every_event_once_although_its_process_was_killed() -> Result<()>
{
    let world = World::start()?;
    let mut process = world.up()?;
    process.ready().await?;
    let orders = Orders::new(0, 300);
    world.send("first.ndjson", &orders)?;
    // In the middle of what follows from them.
    drop(process);
    let mut process = world.up()?;
    process.ready().await?;
    let lines: String = (0..40).map(flowing).collect();
    let path = world.dir.path().join("flowing.ndjson");
    std::fs::write(&path, lines)?;
    let path = path.to_str().context("no path")?;
    world.done(&["send", path, "--as", "order.PlaceOrder", "--id", "order_id"])?;
    let placed = (orders.accepted() + 40) as i64;
    world
        .until_number("SELECT count(*) FROM views.orders", placed)
        .await?;
    let confirmed = "SELECT count(*) FROM views.orders WHERE status = 'confirmed'";
    world.until_number(confirmed, 40).await?;

    let mut journal = PgConnection::connect(world.servers.database_url()).await?;
    let counted: Vec<(String, i64)> = sqlx::query_as(
        "SELECT aggregate_type || '.events', count(*) FROM millrace.events GROUP BY aggregate_type",
    )
    .fetch_all(&mut journal)
    .await?;
    let counted: BTreeMap<String, i64> = counted.into_iter().collect();
    let total = counted.values().sum();
    let stats = settled(&world, total).await?;
    assert_eq!(number(&stats, "processed")?, total);
    assert_eq!(number(&stats, "failed")?, 0);
    let handlers = stats["handlers"].as_array().context("no handlers")?;
    for (name, topics) in [
        ("orders", &["order.events"][..]),
        ("customer-totals", &["order.events"]),
        ("stock", &["stock.events"]),
        ("event-log", &["order.events", "stock.events"]),
        ("order-stock", &["order.events"]),
        ("stock-order", &["stock.events"]),
    ] {
        let mut named = handlers.iter().filter(|handler| handler["name"] == name);
        let handler = named
            .next()
            .with_context(|| format!("no {name} in {stats}"))?;
        let wanted: i64 = topics.iter().map(|topic| counted[*topic]).sum();
        assert_eq!(number(handler, "processed")?, wanted, "{handler}");
        for partition in handler["partitions"].as_array().context("no partitions")? {
            if number(partition, "events")? == 0 {
                continue;
            }
            let last: uuid::Uuid = serde_json::from_value(partition["event_id"].clone())?;
            let position: String = sqlx::query_scalar(
                "SELECT format('%s:%s:%s', e.generation, e.xid, e.position)
                 FROM millrace.events e WHERE e.event_id = $1",
            )
            .bind(last)
            .fetch_one(&mut journal)
            .await?;
            assert_eq!(partition["position"], position.as_str(), "{name}");
            assert!(partition["last_seen"].as_str() >= partition["first_seen"].as_str());
        }
    }
    Ok(())
}
