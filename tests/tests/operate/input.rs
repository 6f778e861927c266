//! Bad input and servers that go away while it runs: each has a clear error, and nothing is lost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use reqwest::Response;
use serde_json::{Value, json};
use tests::servers::Server;

use super::stats::failures;
use super::world::{LONG, PARTITIONS, World};

/// `status` and its helpers give every server five seconds; the rest is a busy machine's.
const STATUS_MAX: Duration = Duration::from_secs(60);
const PARKED: &str = "SELECT count(*) FROM millrace_views.parked";
const ORDERS: &str = "SELECT count(*) FROM views.orders";

async fn post(
    world: &World,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> Result<Response> {
    let mut request = reqwest::Client::new()
        .post(format!("{}/commands/{path}", world.url))
        .body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Ok(request.send().await?)
}

fn order() -> String {
    json!({"type": "PlaceOrder", "data": {"customer_id": "c", "currency": "EUR",
           "coordination": "orchestration",
           "lines": [{"product_id": "p", "quantity": 1, "total_cents": 5}]}})
    .to_string()
}

/// Places an order that must be accepted at once.
pub(super) async fn place(world: &World, id: &str) -> Result<()> {
    let answer = post(world, &format!("order/{id}"), &[], order()).await?;
    let status = answer.status();
    ensure!(status == 201, "{id}: {status} {}", answer.text().await?);
    Ok(())
}

async fn bad_requests_are_refused_each_with_its_reason(world: &World) -> Result<()> {
    let with = |data: Value| json!({"type": "PlaceOrder", "data": data}).to_string();
    let large = with(json!({"customer_id": "x".repeat(1024 * 1024)}));
    let none: &[(&str, &str)] = &[];
    let stale: &[(&str, &str)] = &[("if-match", "\"7\"")];
    let cases = [
        (
            "order/a",
            none,
            "{\"type\": ".to_owned(),
            400,
            "not a command",
        ),
        ("parcel/a", none, order(), 404, "parcel"),
        (
            "order/a",
            none,
            json!({"type": "Burn", "data": {}}).to_string(),
            404,
            "Burn",
        ),
        (
            "order/a",
            none,
            with(json!({"custmer_id": "c"})),
            400,
            "custmer_id",
        ),
        (
            "order/a",
            none,
            with(json!({"customer_id": 7})),
            400,
            "string",
        ),
        ("order/a", none, large, 413, "larger"),
        ("order/first", stale, order(), 409, "7"),
    ];
    for (path, headers, body, status, reason) in cases {
        let answer = post(world, path, headers, body).await?;
        assert_eq!(answer.status(), status, "{path} {reason}");
        let problem: Value = answer.json().await?;
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(reason), "{problem}");
        if status == 409 {
            assert_eq!(problem["actual_version"], 1, "{problem}");
        }
    }
    Ok(())
}

/// Records that are no events park alone; later events of the same partition go on.
async fn foreign_records_are_parked_and_skipped(world: &World) -> Result<()> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", world.servers.kafka())
        .create()?;
    for partition in 0..PARTITIONS {
        let payload: &[u8] = match partition % 2 {
            0 => b"this is no avro",
            _ => &[0, 0x7f, 0xff, 0xff, 0xff, 2, 4],
        };
        let record = BaseRecord::to("order.events")
            .partition(partition)
            .key("foreign")
            .payload(payload);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    producer.flush(Duration::from_secs(10))?;
    world
        .until_number(PARKED, 3 * i64::from(PARTITIONS))
        .await?;
    place(world, "second").await?;
    world.until_number(ORDERS, 2).await?;

    let status = world.run(&["status"])?;
    let told = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(1), "{told}");
    assert!(told.contains("`millrace parked list orders`"), "{told}");
    let (failed, errors, reasons) = failures(world, "orders").await?;
    let all = i64::from(PARTITIONS);
    assert_eq!(failed, all, "{reasons:?}");
    // A registry that was slow to say that it does not know a schema counts too.
    ensure!(errors >= all, "{errors}: {reasons:?}");
    assert_eq!(reasons.len(), PARTITIONS as usize, "{reasons:?}");
    for view in ["orders", "customer-totals", "event-log"] {
        let listed = world.done(&["parked", "list", view, "--json"])?;
        let parked: Vec<Value> = listed
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        assert_eq!(parked.len(), PARTITIONS as usize, "{listed}");
        for one in parked {
            let id = one["aggregate_id"].as_str().context("no id")?;
            // The way is the same for each: one is looked at and tried again before it is skipped.
            if view == "orders" && one["partition"] == 0 {
                assert!(
                    world
                        .done(&["parked", "show", view, id])?
                        .contains("no event")
                );
                let again = world.run(&["parked", "retry", view, id])?;
                assert_eq!(again.status.code(), Some(1), "{again:?}");
            }
            world.done(&["parked", "skip", view, id])?;
        }
    }
    assert_eq!(world.number(PARKED).await?, 0);
    world.done(&["status"]).map(drop)
}

/// `millrace status` while a server is away: not for long, exit 1, and it names the server.
fn status_names(world: &World, server: &str) -> Result<()> {
    let begun = Instant::now();
    let status = world.run(&["status"])?;
    let told = String::from_utf8_lossy(&status.stdout).into_owned();
    ensure!(begun.elapsed() < STATUS_MAX, "{:?}", begun.elapsed());
    ensure!(status.status.code() == Some(1), "{told}");
    ensure!(told.contains(server), "{told}");
    Ok(())
}

async fn commands_wait_for_postgres_and_not_for_kafka_or_the_registry(world: &World) -> Result<()> {
    world.servers.kill(Server::Postgres)?;
    let answer = post(world, "order/third", &[], order()).await?;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    status_names(world, "postgres of the views")?;
    world.servers.restart()?;
    let begun = Instant::now();
    while post(world, "order/third", &[("idempotency-key", "t")], order())
        .await?
        .status()
        != 201
    {
        ensure!(begun.elapsed() < LONG, "{}", world.logs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.until_number(ORDERS, 3).await?;

    world.servers.kill(Server::Kafka)?;
    place(world, "fourth").await?;
    status_names(world, "kafka at")?;
    world.servers.restart()?;
    world.until_number(ORDERS, 4).await?;

    world.servers.kill(Server::Registry)?;
    place(world, "fifth").await?;
    world.until_number(ORDERS, 5).await?;
    world.servers.restart()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_and_lost_servers_lose_nothing_and_say_what_is_wrong() -> Result<()> {
    let world = World::start()?;
    // Commands that cannot be carried out are refused soon.
    let mut up = world.up_with(&[("COMMAND_TIMEOUT_MS", "5000")])?;
    up.ready().await?;
    place(&world, "first").await?;
    world.until_number(ORDERS, 1).await?;
    bad_requests_are_refused_each_with_its_reason(&world).await?;
    foreign_records_are_parked_and_skipped(&world).await?;
    commands_wait_for_postgres_and_not_for_kafka_or_the_registry(&world).await?;
    up.ready().await?;
    up.stop().await
}
