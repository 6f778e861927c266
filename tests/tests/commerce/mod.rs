//! Orders that are paid, on real servers: with the gateway failing in every way, orders cancelled in the middle, time limits that
//! run out, and roles that are killed. Money and stock add up, and nothing is stuck.

mod causes;
mod kills;
mod schedules;
mod shop;
mod storm;

use std::collections::HashMap;
use std::sync::Mutex;

use anyhow::{Result, ensure};
use processors::gateway::faults::{FAULTS, Fault, Faults};
use serde_json::Value;
use shop::{STYLES, Shop};
use sqlx::{Connection, PgConnection};

/// The fault that is in the order's name befalls the first request about it; of those that only say no, the first three.
fn by_name() -> Faults {
    let seen: Mutex<HashMap<String, u32>> = Mutex::default();
    Faults::chosen(move |payment| {
        let mut seen = seen.lock().unwrap();
        let requests = seen.entry(payment.to_owned()).or_default();
        *requests += 1;
        let named = FAULTS
            .into_iter()
            .find(|fault| payment.ends_with(&format!("{fault:?}")));
        let times = match named {
            Some(Fault::Busy | Fault::Fails | Fault::BreaksOff) => 3,
            _ => 1,
        };
        named.filter(|_| *requests <= times).unwrap_or(Fault::None)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_fails_in_every_way_leaves_no_order_stuck_and_no_cent_astray() -> Result<()>
{
    let shop = Shop::open(by_name()).await?;
    let up = shop.up().await?;
    shop.receive("tea", 1_000).await?;
    let mut orders = 0;
    for style in STYLES {
        shop.place(&format!("{style}-Well"), style, &["tea"])
            .await?;
        orders += 1;
        for fault in FAULTS {
            let order = format!("{style}-{fault:?}");
            shop.place(&order, style, &["tea", "paper"]).await?;
            orders += 1;
        }
    }
    let statuses = shop.settled(orders).await?;
    for (order, status) in &statuses {
        let declined = order.ends_with("Declines");
        let expected = if declined { "cancelled" } else { "confirmed" };
        ensure!(
            status == expected,
            "{order} is {status}\n{}",
            shop.world.logs()
        );
    }
    let confirmed = shop.add_up(orders).await?;
    assert_eq!(confirmed, orders - 2);
    shop.reserved("tea", confirmed).await?;
    shop.world.until_caught_up().await?;
    let declined = shop.steps("orchestration-Declines").await?;
    let as_expected = [
        ("reserve", "done"),
        ("pay", "failed"),
        ("refund", "done"),
        ("release", "done"),
        ("cancel", "done"),
    ];
    let declined: Vec<(&str, &str)> = declined
        .iter()
        .map(|(step, status)| (step.as_str(), status.as_str()))
        .collect();
    assert_eq!(declined, as_expected);
    up.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_short_of_goods_or_cancelled_after_its_payment_keeps_no_money()
-> Result<()> {
    let shop = Shop::open(by_name()).await?;
    let up = shop.up().await?;
    shop.receive("tea", 100).await?;
    shop.receive("scarce", 2).await?;
    let mut orders = 0;
    for style in STYLES {
        for number in 0..4 {
            let products = ["scarce", "tea"];
            shop.place(&format!("{style}-short-{number}"), style, &products)
                .await?;
        }
        for number in 0..3 {
            shop.place(&format!("{style}-regretted-{number}"), style, &["tea"])
                .await?;
        }
        // At once: wherever its payment is by then.
        shop.place(&format!("{style}-at-once"), style, &["tea"])
            .await?;
        ensure!(shop.cancel(&format!("{style}-at-once")).await? == 201);
        orders += 8;
    }
    // All that have their goods are confirmed, and then some are cancelled by hand.
    let confirmed = shop.add_up(orders).await?;
    assert_eq!(confirmed, 2 + 6);
    for style in STYLES {
        for number in 0..3 {
            ensure!(shop.cancel(&format!("{style}-regretted-{number}")).await? == 201);
        }
    }
    let cancelled = "SELECT count(*) FROM views.orders WHERE status = 'cancelled'";
    shop.world.until_number(cancelled, orders - 2).await?;
    assert_eq!(shop.add_up(orders).await?, 2);
    shop.reserved("tea", 2).await?;
    shop.reserved("scarce", 2).await?;
    up.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_whose_gateway_is_away_undoes_itself_in_time_and_says_why() -> Result<()> {
    let mut shop = Shop::open(by_name()).await?;
    shop.set("ORDER_SAGA_STEP_TIMEOUT_MS", 30_000);
    shop.set("ORDER_SAGA_COMPENSATION_TIMEOUT_MS", 1_000);
    shop.set("PAYMENT_WINDOW_MS", 1_000);
    let up = shop.up().await?;
    shop.gateway.go_down().await;
    shop.receive("tea", 10).await?;
    shop.place("waits", "orchestration", &["tea"]).await?;
    let overdue = "SELECT count(*) FROM views.saga_instances WHERE status = 'compensating' AND step = 'refund'
        AND attempt >= 2 AND reason = 'no answer in time from the payment' AND since > started_at";
    shop.world.until_number(overdue, 1).await?;
    // Another view, with a pace of its own.
    let waits =
        "SELECT count(*) FROM views.saga_steps WHERE order_id = 'waits' AND waits_for IS NOT NULL";
    shop.world.until_number(waits, 1).await?;
    let shown: Value = shop
        .http
        .get(format!("{}/views/saga-steps/waits", shop.world.url))
        .send()
        .await?
        .json()
        .await?;
    assert_eq!(shown[1]["step"], "pay", "{shown:#}");
    assert_eq!(shown[1]["status"], "failed", "{shown:#}");
    assert_eq!(shown[2]["waits_for"], "the payment", "{shown:#}");
    shop.gateway.come_back().await?;
    assert_eq!(shop.add_up(1).await?, 0);
    shop.reserved("tea", 0).await?;
    shop.world.until_caught_up().await?;
    let why = "SELECT count(*) FROM views.payments WHERE status = 'failed' AND charged_cents = 0";
    assert_eq!(shop.world.number(why).await?, 1);
    up.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_expires_while_its_charge_has_no_answer_gives_the_money_back() -> Result<()> {
    let mut shop = Shop::open(by_name()).await?;
    shop.set("PAYMENT_CALL_TIMEOUT_MS", 25_000);
    let up = shop.up().await?;
    for style in STYLES {
        shop.place(&format!("{style}-TimesOut"), style, &["tea"])
            .await?;
    }
    // The gateway has charged, and does not say so: the orders' day goes by meanwhile.
    let charged = "SELECT count(*) FROM gateway.charges WHERE state = 'charged'";
    shop.world.until_number(charged, 2).await?;
    let mut journal = PgConnection::connect(shop.world.servers.database_url()).await?;
    sqlx::query(
        "UPDATE millrace.timers SET due_at = now() WHERE state = 'pending' AND name = 'confirmation'",
    )
    .execute(&mut journal)
    .await?;
    assert_eq!(shop.add_up(2).await?, 0);
    shop.world.until_caught_up().await?;
    let back = "SELECT count(*) FROM views.payments
        WHERE status = 'refunded' AND refunded_cents = 250 AND reason LIKE '%not confirmed in time'";
    assert_eq!(shop.world.number(back).await?, 2);
    up.stop().await
}
