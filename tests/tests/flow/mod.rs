//! Orders get their goods: from HTTP through journal, Kafka, processors, commands from Kafka and back, to views and a webhook.

mod receiver;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use millrace::position::partition_of;
use receiver::Receiver;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::operate::world::{LONG, PARTITIONS, Process, World};

/// A system that runs, and whoever it tells of confirmed orders.
struct Shop {
    world: World,
    receiver: Receiver,
    http: reqwest::Client,
}

impl Shop {
    async fn open() -> Result<Self> {
        Ok(Self {
            world: World::start()?,
            receiver: Receiver::start().await?,
            http: reqwest::Client::new(),
        })
    }

    async fn up(&self) -> Result<Process> {
        let mut up = self
            .world
            .up_with(&[("ORDER_WEBHOOK_URL", &self.receiver.url())])?;
        up.ready().await?;
        Ok(up)
    }

    async fn command(&self, to: &str, kind: &str, data: Value) -> Result<()> {
        let url = format!("{}/commands/{to}", self.world.url);
        let body = json!({"type": kind, "data": data});
        let answer = self.http.post(&url).json(&body).send().await?;
        let status = answer.status();
        ensure!(
            status == 201,
            "{kind} to {to}: {status} {}",
            answer.text().await?
        );
        Ok(())
    }

    async fn place(&self, order: &str, coordination: &str, products: &[String]) -> Result<()> {
        let lines: Vec<Value> = products
            .iter()
            .map(|product| json!({"product_id": product, "quantity": 1, "total_cents": 250}))
            .collect();
        let data = json!({"customer_id": "ada", "currency": "EUR", "lines": lines,
                          "coordination": coordination});
        self.command(&format!("order/{order}"), "PlaceOrder", data)
            .await
    }

    /// Waits until this many orders were posted at least once.
    async fn told_of(&self, orders: usize) -> Result<BTreeMap<String, Vec<String>>> {
        let begun = Instant::now();
        loop {
            let posts = self.receiver.posts();
            if posts.len() >= orders {
                return Ok(posts);
            }
            ensure!(
                begun.elapsed() < LONG,
                "told of {} orders, not of {orders}\n{}",
                posts.len(),
                self.world.logs()
            );
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    async fn confirmed(&self) -> Result<BTreeSet<String>> {
        let mut views = PgConnection::connect(self.world.servers.views_database_url()).await?;
        let ids: Vec<String> =
            sqlx::query_scalar("SELECT order_id FROM views.orders WHERE status = 'confirmed'")
                .fetch_all(&mut views)
                .await?;
        Ok(ids.into_iter().collect())
    }
}

/// An id that begins with this and belongs to this partition.
fn id_in(partition: i32, begins: &str) -> String {
    (0..)
        .map(|number| format!("{begins}-{number}"))
        .find(|id| partition_of(id, PARTITIONS) == partition)
        .unwrap()
}

fn status_is(status: &str) -> String {
    format!("SELECT count(*) FROM views.orders WHERE status = '{status}'")
}

/// The numbers of a product as one, so that they are compared together.
async fn stock_becomes(shop: &Shop, product: &str, numbers: [i64; 5]) -> Result<()> {
    let [received, available, reserved, shipped_out, refusals] = numbers;
    ensure!(available + reserved + shipped_out == received);
    let sql = format!(
        "SELECT count(*) FROM views.stock WHERE product_id = '{product}' AND received = {received}
            AND available = {available} AND reserved = {reserved} AND shipped_out = {shipped_out}
            AND refusals = {refusals}"
    );
    shop.world.until_number(&sql, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_racing_orders_for_fifty_items_fifty_get_one_and_a_replay_changes_nothing()
-> Result<()> {
    let shop = Shop::open().await?;
    let up = shop.up().await?;
    // It tells of what is confirmed from now on, and now is when it first holds a partition.
    let held = "SELECT count(*) FROM millrace_effects.checkpoints WHERE epoch > 0";
    shop.world.until_number(held, PARTITIONS.into()).await?;
    shop.command("stock/last", "ReceiveStock", json!({"quantity": 50}))
        .await?;
    // Wrapping paper is not tracked: it is never short, and an order waits for it all the same.
    let products = ["last".to_owned(), "paper".to_owned()];
    let race = (0..200).map(|number| {
        let (shop, products) = (&shop, &products);
        async move {
            let order = format!("race-{number}");
            shop.place(&order, "choreography", products).await
        }
    });
    try_join_all(race).await?;
    let world = &shop.world;
    world.until_number(&status_is("confirmed"), 50).await?;
    world.until_number(&status_is("cancelled"), 150).await?;
    stock_becomes(&shop, "last", [50, 0, 50, 0, 150]).await?;
    let paper = "SELECT untracked FROM views.stock WHERE product_id = 'paper' AND received = 0";
    world.until_number(paper, 200).await?;

    let confirmed = shop.confirmed().await?;
    let told = shop.told_of(50).await?;
    assert_eq!(told.keys().cloned().collect::<BTreeSet<_>>(), confirmed);

    for (number, order) in confirmed.iter().take(30).enumerate() {
        let to = format!("order/{order}");
        match number % 3 {
            0 => {
                let reason = json!({"reason": "changed my mind"});
                shop.command(&to, "CancelOrder", reason).await?;
            }
            _ => shop.command(&to, "ShipOrder", json!({})).await?,
        }
    }
    stock_becomes(&shop, "last", [50, 10, 20, 20, 150]).await?;
    up.stop().await?;
    a_reset_changes_nothing(&shop).await
}

/// Every processor and the effect read everything again.
async fn a_reset_changes_nothing(shop: &Shop) -> Result<()> {
    const BEFORE: &str =
        "SELECT count(*) FROM millrace.events WHERE aggregate_id NOT LIKE 'fence%'";
    let before: i64 = shop.world.journal(BEFORE).await?;
    for (group, topic) in [
        ("millrace.processor.order-stock", "order.events"),
        ("millrace.processor.stock-order", "stock.events"),
        ("millrace.effect.order-webhook", "order.events"),
    ] {
        tests::stock::reset_offsets(&shop.world.servers, group, topic, &["--to-earliest"])?;
    }
    let up = shop.up().await?;
    // An order in every partition with a product in every partition stands behind all that is emitted again: when
    // these are confirmed, each command before theirs was decided.
    let products: Vec<String> = (0..PARTITIONS).map(|of| id_in(of, "fence")).collect();
    let orders: Vec<String> = (0..PARTITIONS).map(|of| id_in(of, "fence-order")).collect();
    for order in &orders {
        shop.place(order, "choreography", &products).await?;
    }
    let told = shop.told_of(50 + orders.len()).await?;
    for order in &orders {
        assert!(told.contains_key(order), "{order}");
    }
    let repeated: Vec<_> = told.iter().filter(|(_, keys)| keys.len() != 1).collect();
    assert!(repeated.is_empty(), "posted more than once: {repeated:?}");
    assert_eq!(shop.world.journal::<i64>(BEFORE).await?, before);
    stock_becomes(shop, "last", [50, 10, 20, 20, 150]).await?;
    up.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_nobody_confirms_in_time_is_cancelled_and_one_that_was_is_not() -> Result<()>
{
    let shop = Shop::open().await?;
    let up = shop.up().await?;
    let tea = ["tea".to_owned()];
    // Nothing confirms an orchestrated order by itself.
    shop.place("waits", "orchestration", &tea).await?;
    shop.place("goes-on", "choreography", &tea).await?;
    let world = &shop.world;
    world.until_number(&status_is("confirmed"), 1).await?;
    let pending =
        "SELECT string_agg(aggregate_id, ' ') FROM millrace.timers WHERE state = 'pending'";
    let waiting: Option<String> = shop.world.journal(pending).await?;
    assert_eq!(waiting.as_deref(), Some("waits"));

    // A day goes by.
    let mut journal = PgConnection::connect(world.servers.database_url()).await?;
    sqlx::query("UPDATE millrace.timers SET due_at = now() WHERE state = 'pending'")
        .execute(&mut journal)
        .await?;
    world.until_number(&status_is("cancelled"), 1).await?;
    let reason: Vec<String> = sqlx::query_scalar(
        "SELECT data->>'reason' FROM views.event_log WHERE event_type = 'OrderCancelled'",
    )
    .fetch_all(&mut PgConnection::connect(world.servers.views_database_url()).await?)
    .await?;
    ensure!(
        reason
            .iter()
            .all(|reason| reason == "not confirmed in time"),
        "{reason:?}"
    );
    assert_eq!(shop.confirmed().await?, ["goes-on".to_owned()].into());
    up.stop().await
}
