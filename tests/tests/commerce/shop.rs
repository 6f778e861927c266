//! A shop on real servers whose orders are paid at the in-house gateway, and the books that say whether they add up.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use processors::gateway::faults::Faults;
use processors::gateway::in_house::{self, InHouse};
use processors::gateway::ledger::Ledger;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, PgPool};
use tests::http::Server;
use uuid::Uuid;

use crate::operate::world::{LONG, Process, World, free_address};

pub(super) const STYLES: [&str; 2] = ["choreography", "orchestration"];

/// Everything that is still to happen by itself: when it is nothing, nothing is stuck.
pub(super) const UNSETTLED: &str = "SELECT
    (SELECT count(*) FROM views.orders WHERE status = 'placed')
  + (SELECT count(*) FROM views.payments WHERE status IN ('requested', 'refunding'))
  + (SELECT count(*) FROM views.saga_instances WHERE ended_at IS NULL)
  + (SELECT count(*) FROM views.saga_steps WHERE ended_at IS NULL)
  + (SELECT count(*) FROM views.payments p JOIN views.orders o USING (order_id)
     WHERE (o.status = 'cancelled') <> (p.status IN ('failed', 'refunded')))
  + (SELECT count(*) FROM millrace_effects.calls WHERE effect = 'payment-gateway' AND state <> 'settled')";

pub(super) struct Shop {
    pub(super) world: World,
    pub(super) gateway: Server,
    pub(super) ledger: Ledger,
    pub(super) http: reqwest::Client,
    /// Of every command that was accepted: the aggregate and its events, by id and sequence.
    pub(super) acknowledged: Mutex<Vec<Acknowledged>>,
    environment: Vec<(&'static str, String)>,
}

/// What a command was answered with.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Acknowledged {
    pub(super) id: String,
    pub(super) events: Vec<AcknowledgedEvent>,
}

/// An event of which was said that it is durable.
#[derive(Debug, serde::Deserialize)]
pub(super) struct AcknowledgedEvent {
    pub(super) id: Uuid,
    pub(super) sequence: i64,
}

impl Shop {
    pub(super) async fn open(faults: Faults) -> Result<Self> {
        let world = World::start()?;
        let pool = PgPool::connect(world.servers.views_database_url()).await?;
        let ledger = Ledger::open(pool).await?;
        let gateway = Server::start(in_house::router(InHouse {
            ledger: ledger.clone(),
            faults,
            notify_url: Some(world.url.clone()),
        }))
        .await?;
        let environment = vec![
            ("PAYMENT_GATEWAY_URL", gateway.url()),
            ("PAYMENT_CALL_TIMEOUT_MS", "1000".to_owned()),
            ("ORDER_PAYMENT", "gateway".to_owned()),
        ];
        Ok(Self {
            world,
            gateway,
            ledger,
            http: reqwest::Client::new(),
            acknowledged: Mutex::default(),
            environment,
        })
    }

    pub(super) fn set(&mut self, name: &'static str, value: impl ToString) {
        self.environment.push((name, value.to_string()));
    }

    pub(super) async fn up(&self) -> Result<Process> {
        let mut up = self.spawn()?;
        up.ready().await?;
        Ok(up)
    }

    /// All roles, which need not be ready when this returns.
    pub(super) fn spawn(&self) -> Result<Process> {
        self.world.up_with(&self.settings())
    }

    fn settings(&self) -> Vec<(&str, &str)> {
        let pairs = self.environment.iter();
        pairs.map(|(name, value)| (*name, value.as_str())).collect()
    }

    /// One role alone; it need not be ready when this returns.
    pub(super) fn role(&self, role: &str) -> Result<Process> {
        let world = &self.world;
        let projections = format!("http://{}", world.projections_at);
        let (arguments, at) = match role {
            "producer" => (
                vec![role, "--projections-url", &projections],
                world.producer_at.clone(),
            ),
            "projections" => (vec![role], world.projections_at.clone()),
            _ => (vec![role], free_address()?),
        };
        world.spawn_with(&arguments, &at, &self.settings())
    }

    /// Sends a command until it is answered for good; its status.
    pub(super) async fn command(&self, to: &str, kind: &str, data: Value) -> Result<u16> {
        let begun = Instant::now();
        loop {
            let request = self
                .http
                .post(format!("{}/commands/{to}", self.world.url))
                .header("idempotency-key", format!("{kind}/{to}"))
                .json(&json!({"type": kind, "data": data}));
            match answered(request).await {
                Ok((201, body)) => {
                    let accepted = serde_json::from_slice(&body)?;
                    self.acknowledged.lock().unwrap().push(accepted);
                    return Ok(201);
                }
                Ok((status, _)) if status < 500 => return Ok(status),
                other => ensure!(begun.elapsed() < LONG, "{kind} to {to}: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sends a command that must be accepted.
    pub(super) async fn accepted(&self, to: &str, kind: &str, data: Value) -> Result<()> {
        let status = self.command(to, kind, data).await?;
        ensure!(status == 201, "{kind} to {to}: {status}");
        Ok(())
    }

    pub(super) async fn receive(&self, product: &str, quantity: i64) -> Result<()> {
        let quantity = json!({"quantity": quantity});
        self.accepted(&format!("stock/{product}"), "ReceiveStock", quantity)
            .await
    }

    /// Places an order of one of each product.
    pub(super) async fn place(&self, order: &str, style: &str, products: &[&str]) -> Result<()> {
        let line =
            |product: &&str| json!({"product_id": product, "quantity": 1, "total_cents": 250});
        let lines: Vec<Value> = products.iter().map(line).collect();
        let data =
            json!({"customer_id": "ada", "currency": "EUR", "coordination": style, "lines": lines});
        self.accepted(&format!("order/{order}"), "PlaceOrder", data)
            .await
    }

    pub(super) async fn ship(&self, order: &str) -> Result<u16> {
        let parcel = json!({"tracking_code": "JD1"});
        self.command(&format!("order/{order}"), "ShipOrder", parcel)
            .await
    }

    pub(super) async fn cancel(&self, order: &str) -> Result<u16> {
        let reason = json!({"reason": "changed my mind"});
        self.command(&format!("order/{order}"), "CancelOrder", reason)
            .await
    }

    /// Every order's status, once all orders of this number are shown and nothing is left to happen.
    pub(super) async fn settled(&self, orders: i64) -> Result<BTreeMap<String, String>> {
        let world = &self.world;
        let placed = "SELECT count(*) FROM views.orders";
        world.until_number(placed, orders).await?;
        // Also an order that was cancelled before its payment was requested has one, which failed.
        let payments = "SELECT count(*) FROM views.payments";
        world.until_number(payments, orders).await?;
        world.until_number(UNSETTLED, 0).await?;
        let mut views = PgConnection::connect(world.servers.views_database_url()).await?;
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT order_id, status FROM views.orders")
                .fetch_all(&mut views)
                .await?;
        Ok(rows.into_iter().collect())
    }

    /// Money and goods add up: every confirmed order, shipped or not, was charged once and in full, of every other one nothing is
    /// kept, and nothing else is missing. How many orders are confirmed.
    pub(super) async fn add_up(&self, orders: i64) -> Result<i64> {
        let statuses = self.settled(orders).await?;
        let mut views = PgConnection::connect(self.world.servers.views_database_url()).await?;
        let totals: Vec<(String, i64)> = sqlx::query_as(
            "SELECT order_id, total_cents FROM views.orders WHERE status IN ('confirmed', 'shipped')",
        )
        .fetch_all(&mut views)
        .await?;
        let mut owed: BTreeMap<String, i64> = totals.into_iter().collect();
        let (confirmed, due) = (owed.len() as i64, owed.values().sum::<i64>());
        let mut kept = 0;
        for balance in self.ledger.balances().await? {
            let order = &balance.payment_id;
            ensure!(balance.charges == 1, "{balance:?}");
            let owed = owed.remove(order).unwrap_or(0);
            ensure!(
                balance.cents == owed,
                "{balance:?}: {:?} owes {owed}",
                statuses.get(order)
            );
            kept += balance.cents;
        }
        ensure!(owed.is_empty(), "confirmed, not charged: {owed:?}");
        ensure!(kept == due, "{kept} cents are kept, {due} are due");
        // The payments' own events say the same as the gateway's books.
        let events =
            "SELECT (coalesce(sum(charged_cents), 0) - coalesce(sum(refunded_cents), 0))::bigint
            FROM views.payments";
        self.world.until_number(events, due).await?;
        let wrong = "SELECT count(*) FROM views.stock
            WHERE received > 0 AND available + reserved + shipped_out <> received";
        ensure!(
            self.world.number(wrong).await? == 0,
            "the stock does not add up"
        );
        let dead = "SELECT count(*) FROM millrace_effects.calls WHERE state = 'dead'";
        ensure!(self.world.number(dead).await? == 0, "a call was given up");
        Ok(confirmed)
    }

    pub(super) async fn reserved(&self, product: &str, quantity: i64) -> Result<()> {
        let sql = format!("SELECT reserved FROM views.stock WHERE product_id = '{product}'");
        self.world.until_number(&sql, quantity).await
    }

    /// The steps of an order's saga, with how each ended.
    pub(super) async fn steps(&self, order: &str) -> Result<Vec<(String, String)>> {
        let mut views = PgConnection::connect(self.world.servers.views_database_url()).await?;
        let sql = "SELECT step, status FROM views.saga_steps WHERE order_id = $1 ORDER BY number";
        Ok(sqlx::query_as(sql)
            .bind(order)
            .fetch_all(&mut views)
            .await?)
    }
}

/// Status and body; both, or the command may have been carried out and is sent again.
async fn answered(request: reqwest::RequestBuilder) -> reqwest::Result<(u16, Vec<u8>)> {
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    Ok((status, answer.bytes().await?.to_vec()))
}
