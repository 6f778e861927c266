//! What an operator sees and does when one event is bad, and when the outside is away.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use millrace::position::partition_of;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;
use tests::event;
use tests::wait::eventually;
use uuid::Uuid;

use super::{Shop, id_in, status_is};
use crate::operate::world::{PARTITIONS, Process};

/// What is no value of any schema, in the framing of one that nobody knows.
const POISON: &[u8] = b"\0\0\0\x27\x0fno event";

async fn open() -> Result<(Shop, Process)> {
    let shop = Shop::open().await?;
    let up = shop.up().await?;
    // The webhook tells of what is confirmed from the moment on at which it holds its partitions.
    let held = "SELECT count(*) FROM millrace_effects.checkpoints WHERE epoch > 0";
    shop.world.until_number(held, PARTITIONS.into()).await?;
    Ok((shop, up))
}

/// One JSON value a line, as the command prints them.
fn lines(shop: &Shop, arguments: &[&str]) -> Result<Vec<Value>> {
    let printed = shop.world.done(&[arguments, &["--json"]].concat())?;
    let parsed = printed.lines().map(|line| Ok(serde_json::from_str(line)?));
    parsed.collect()
}

fn said(status: &Value, where_: &str, what: &str) -> bool {
    let texts = status[where_].as_array().into_iter().flatten();
    texts
        .filter_map(Value::as_str)
        .any(|text| text.contains(what))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_record_holds_back_its_key_only_until_an_operator_gives_it_up() -> Result<()> {
    let (shop, up) = open().await?;
    let sour = "sour".to_owned();
    let partition = partition_of(&sour, PARTITIONS);
    let sweet = id_in(partition, "sweet");
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", shop.world.servers.kafka())
        .create()?;
    let poison = Uuid::now_v7();
    let record = BaseRecord::to("order.events")
        .partition(partition)
        .key(&sour)
        .payload(POISON)
        .headers(event::headers(poison, &sour, 1, 1));
    producer.send(record).map_err(|(error, _)| error)?;
    producer.flush(Duration::from_secs(30))?;

    let tea = ["tea".to_owned()];
    shop.place(&sour, "choreography", &tea).await?;
    shop.place(&sweet, "choreography", &tea).await?;
    // The same partition goes on, the key does not.
    shop.world.until_number(&status_is("confirmed"), 1).await?;
    assert_eq!(shop.confirmed().await?, [sweet.clone()].into());

    let letters = lines(&shop, &["dlq", "list", "order-stock"])?;
    let causes: Vec<&str> = letters
        .iter()
        .filter_map(|one| one["cause"].as_str())
        .collect();
    assert_eq!(causes, ["poison", "behind"], "{letters:?}");
    ensure!(letters.iter().all(|one| one["key"] == *sour), "{letters:?}");
    ensure!(letters[0]["attempts"] == 1, "{letters:?}");
    let shown = shop.world.done(&["dlq", "show", "order-stock", &sour])?;
    ensure!(shown.contains(&poison.to_string()), "{shown}");
    let status = shop.world.status()?;
    let hint = format!("millrace dlq redrive order-stock {sour}");
    ensure!(said(&status, "problems", &hint), "{status:#}");

    // Nothing has changed, so nothing changes.
    let again = shop.world.run(&["dlq", "redrive", "order-stock", &sour])?;
    let printed = String::from_utf8_lossy(&again.stdout).into_owned();
    ensure!(again.status.code() == Some(1), "{printed}");
    ensure!(printed.contains("after 2 attempts"), "{printed}");
    let wrong = shop
        .world
        .run(&["dlq", "skip", "order-stock", &sour, "999999"])?;
    let refused = String::from_utf8_lossy(&wrong.stderr).into_owned();
    ensure!(refused.contains("stands at offset"), "{refused}");

    let offset = letters[0]["offset"].to_string();
    let done = shop
        .world
        .done(&["dlq", "skip", "order-stock", &sour, &offset])?;
    ensure!(done.contains("handled all dead letters"), "{done}");
    assert_eq!(lines(&shop, &["dlq", "list", "order-stock"])?.len(), 0);
    let confirmed = "SELECT count(*) FROM millrace.events
        WHERE aggregate_id = 'sour' AND event_type = 'OrderConfirmed'";
    eventually("the order behind it is confirmed", || async {
        shop.world
            .journal::<i64>(confirmed)
            .await
            .is_ok_and(|count| count == 1)
    })
    .await?;

    // The webhook keeps the same event back by itself, as it stands in the way of its own calls.
    assert!(!shop.receiver.posts().contains_key(&sour));
    let dead = lines(&shop, &["effects", "list", "order-webhook"])?;
    let first = dead.first().context("no dead call")?;
    ensure!(
        first["aggregate_id"] == *sour && first["state"] == "dead",
        "{dead:?}"
    );
    let id = first["event_id"].as_str().context("no event id")?;
    assert_eq!(id, poison.to_string());
    let settle = [
        "effects",
        "settle",
        "order-webhook",
        id,
        "failed",
        "--note",
        "no event",
    ];
    shop.world.done(&settle)?;
    let told = shop.told_of(2).await?;
    assert_eq!(told.keys().cloned().collect::<Vec<_>>(), [sour, sweet]);
    up.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_down_holds_nobody_up_and_is_told_of_everything_when_it_is_back()
-> Result<()> {
    let (mut shop, up) = open().await?;
    shop.receiver.server.go_down().await;
    let tea = ["tea".to_owned()];
    for order in ["one", "two"] {
        shop.place(order, "choreography", &tea).await?;
    }
    shop.world.until_number(&status_is("confirmed"), 2).await?;
    let tried =
        "SELECT min(calls)::bigint FROM millrace_effects.calls WHERE state = 'failed' OR calls > 0";
    eventually("each was tried four times", || async {
        shop.world.number(tried).await.is_ok_and(|calls| calls >= 4)
    })
    .await?;
    let pending = lines(
        &shop,
        &["effects", "list", "order-webhook", "--state", "pending"],
    )?;
    for call in pending.iter().filter(|call| call["calls"] != 0) {
        ensure!(call["attempts"] == 0, "an outage is no attempt: {call}");
        ensure!(call["reason"].is_string(), "{call}");
    }
    let status = shop.world.status()?;
    ensure!(said(&status, "notes", "tries 2 calls again"), "{status:#}");
    ensure!(!said(&status, "problems", "order-webhook"), "{status:#}");

    shop.receiver.server.come_back().await?;
    let told = shop.told_of(2).await?;
    ensure!(told.values().all(|keys| keys.len() == 1), "{told:?}");
    assert_eq!(
        lines(&shop, &["effects", "list", "order-webhook"])?.len(),
        0
    );
    assert_eq!(lines(&shop, &["dlq", "list"])?.len(), 0);
    up.stop().await
}
