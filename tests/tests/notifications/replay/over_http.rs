//! The same, asked for over HTTP while everything runs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::super::{Office, address};
use super::{behind_all_that_is_read_again, check_mails};
use crate::operate::world::LONG;

/// A call that a busy machine delays is not one that failed: each must be the only one.
const PATIENT: [(&str, &str); 1] = [("NOTIFICATION_TIMEOUT_MS", "30000")];
const OPEN: &str =
    "SELECT count(*) FROM millrace_effects.calls WHERE calls <> 1 OR state <> 'settled'";
const EVENTS: &str =
    "SELECT count(*) FROM millrace.events WHERE aggregate_id IN ('ada', 'bob', '1', '2')";

impl Office {
    /// Status and body.
    async fn ask(&self, query: &str) -> Result<(u16, Value)> {
        let url = format!("{}/events/replay?{query}", self.world.url);
        let begun = Instant::now();
        loop {
            let answer = self.http.post(&url).send().await?;
            let status = answer.status().as_u16();
            if status == 202 {
                assert!(answer.headers().contains_key("location"));
            }
            // What could not be asked of Kafka in time is asked again.
            if status != 503 || begun.elapsed() > LONG {
                return Ok((status, answer.json().await?));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What is begun, or the reason why not.
    async fn begin(&self, query: &str) -> Result<Value> {
        let (status, replay) = self.ask(query).await?;
        ensure!(status == 202, "{query}: {status} {replay}");
        assert_eq!(replay["done"], false, "{replay}");
        Ok(replay)
    }

    /// None while Kafka's answer is not there in time; it is asked by every poll, and after a kill it is busy with the group.
    async fn progress(&self, replay: &Value) -> Result<Option<Value>> {
        let path = replay["progress"].as_str().context("no link")?;
        let answer = reqwest::get(format!("{}{path}", self.world.url)).await?;
        let (status, text) = (answer.status().as_u16(), answer.text().await?);
        match status {
            200 => Ok(Some(serde_json::from_str(&text)?)),
            503 => Ok(None),
            _ => bail!("{path}: {status} {text}"),
        }
    }

    /// Follows the link until it is done; what is left never grows.
    async fn until_done(&self, replay: &Value) -> Result<Value> {
        let begun = Instant::now();
        let mut last = i64::MAX;
        loop {
            let Some(now) = self.progress(replay).await? else {
                ensure!(begun.elapsed() < LONG, "503\n{}", self.world.logs());
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let handlers = now["handlers"].as_array().context("no handlers")?;
            let left: i64 = handlers.iter().filter_map(|one| one["left"].as_i64()).sum();
            ensure!(left <= last, "{left} are left, {last} were: {now}");
            last = left;
            if now["done"] == true {
                assert_eq!(left, 0, "{now}");
                return Ok(now);
            }
            ensure!(begun.elapsed() < LONG, "{now}\n{}", self.world.logs());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn view_rows(&self) -> Result<BTreeMap<&'static str, Vec<String>>> {
        let mut views = PgConnection::connect(self.world.servers.views_database_url()).await?;
        let mut all = BTreeMap::new();
        for view in ["orders", "customer_totals", "stock", "notifications"] {
            let sql = format!("SELECT row_to_json(v)::text FROM views.{view} v ORDER BY 1");
            let rows = sqlx::query_scalar(AssertSqlSafe(sql))
                .fetch_all(&mut views)
                .await?;
            all.insert(view, rows);
        }
        Ok(all)
    }

    /// Two orders, placed and shipped, and their four mails.
    async fn story(&self) -> Result<()> {
        for customer in ["ada", "bob"] {
            let contact = match customer {
                "ada" => json!({"name": "Ada <b>", "email": address(customer)}),
                _ => json!({"email": address(customer)}),
            };
            self.command(&format!("recipient/{customer}"), "SetContact", contact)
                .await?;
        }
        for (order, customer) in [("1", "ada"), ("2", "bob")] {
            self.place(order, customer).await?;
        }
        let confirmed = "SELECT count(*) FROM views.orders WHERE status = 'confirmed'";
        self.world.until_number(confirmed, 2).await?;
        for order in ["1", "2"] {
            let data = json!({"tracking_code": "JD1"});
            self.command(&format!("order/{order}"), "ShipOrder", data)
                .await?;
        }
        let sent = "SELECT count(*) FROM views.notifications WHERE state = 'sent'";
        self.world.until_number(sent, 4).await?;
        self.world.until_number(OPEN, 0).await?;
        // Each view has a pace of its own.
        self.world.until_caught_up().await
    }
}

fn handler<'r>(replay: &'r Value, group: &str) -> Result<&'r Value> {
    let handlers = replay["handlers"].as_array().context("no handlers")?;
    let found = handlers.iter().find(|one| one["group"] == group);
    found.with_context(|| format!("{group} is not in {replay}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_everything_that_is_killed_half_way_ends_and_nothing_goes_out_again()
-> Result<()> {
    let office = Office::open().await?;
    let up = office.up(&PATIENT).await?;
    office.story().await?;
    check_mails(&office);
    let (rows, events) = (
        office.view_rows().await?,
        office.world.journal::<i64>(EVENTS).await?,
    );

    let replay = office.begin("type=&hours=1").await?;
    let email = handler(&replay, "millrace.effect.email")?;
    assert_eq!(
        (&email["silent"], &email["way"]),
        (&json!(true), &json!("redelivery"))
    );
    assert!(email["left"].as_i64() > Some(0), "{email}");
    assert_eq!(email["delivered"], 0);
    let flow = handler(&replay, "millrace.processor.order-stock")?;
    assert_eq!(flow["silent"], false);
    assert!(handler(&replay, "millrace.view.orders").is_err());
    // Killed before much of it was asked for, and again when two partitions have gone back: nothing else commits now.
    drop(up);
    let mut up = office.spawn(&[
        ("MILLRACE_FAILPOINTS", "processor.after-commit=kill*3"),
        PATIENT[0],
    ])?;
    assert!(!up.ended().await?.success());
    let up = office.up(&PATIENT).await?;
    office.until_done(&replay).await?;
    assert_eq!(office.view_rows().await?, rows);
    behind_all_that_is_read_again(&office).await?;
    check_mails(&office);
    assert_eq!(office.world.journal::<i64>(EVENTS).await?, events);
    office.world.until_number(OPEN, 0).await?;
    up.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_for_whom_it_names_one_at_a_time_and_a_view_is_rebuilt() -> Result<()> {
    let office = Office::open().await?;
    let up = office.up(&PATIENT).await?;
    office.story().await?;
    let rows = office.view_rows().await?;

    // While the effect rests its replay stays open, and there is no second one.
    let paused = |is: bool| {
        format!("UPDATE millrace_effects.effects SET paused = {is} WHERE name = 'email'")
    };
    office.world.execute(&paused(true)).await?;
    let replay = office.begin("hours=0.5&to=email").await?;
    let (status, problem) = office.ask("hours=1&to=millrace.effect.email").await?;
    assert_eq!(
        (status, &problem["replay"]),
        (409, &replay["id"]),
        "{problem}"
    );
    office.world.execute(&paused(false)).await?;
    let done = office.until_done(&replay).await?;
    assert_eq!(done["handlers"].as_array().map(Vec::len), Some(1));

    // From the first shipment on, in the partitions that have one.
    let replay = office
        .begin("type=OrderShipped&hours=1&to=order-recipient")
        .await?;
    let flow = handler(&replay, "millrace.processor.order-recipient")?;
    let partitions = flow["partitions"].as_array().context("no partitions")?;
    assert!(partitions.len() <= 2, "{flow}");
    assert!(
        partitions.iter().all(|one| one["from"].as_i64() > Some(0)),
        "{flow}"
    );
    office.until_done(&replay).await?;

    let build = "SELECT live_build::bigint FROM millrace_views.views WHERE name = 'orders'";
    let before = office.world.number(build).await?;
    let replay = office.begin("hours=1&to=orders").await?;
    assert_eq!(handler(&replay, "millrace.view.orders")?["way"], "rebuild");
    assert!(replay["says"].to_string().contains("rebuilt"), "{replay}");
    office.until_done(&replay).await?;
    assert_eq!(office.world.number(build).await?, before + 1);
    assert_eq!(office.view_rows().await?, rows);

    for (query, status, says) in [
        ("hours=0", 400, "hours"),
        ("to=orders", 400, "hours"),
        ("hours=1&type=Nothing", 422, "no event is named Nothing"),
        (
            "hours=1&type=CardAddedToLibrary&to=order-stock",
            422,
            "reads",
        ),
        ("hours=1&to=nobody", 422, "millrace.effect.email"),
        ("hours=1&to=saga-steps", 422, "several"),
        ("hours=0.0000001&to=order-stock", 422, "has handled"),
    ] {
        let (found, problem) = office.ask(query).await?;
        assert_eq!(found, status, "{query}: {problem}");
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(says), "{query}: {detail}");
    }
    let unknown = json!({"progress": format!("/events/replay/{}", uuid::Uuid::now_v7())});
    assert!(office.progress(&unknown).await.is_err());
    check_mails(&office);
    office.world.until_number(OPEN, 0).await?;
    up.stop().await
}
