//! Commands over HTTP to both producers, each with a key of its own and sent again with it until it is settled.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::dice::Dice;
use super::plan::Plan;

const WORKERS: u64 = 12;
/// Between two commands of a worker: the load is meant to be steady, not the highest that two cores carry.
const PACE: Duration = Duration::from_millis(60);
/// Products that are tracked: each worker receives the first goods of one.
const PRODUCTS: u64 = WORKERS;
/// Orders that a worker leaves to the flow before it comes back to the first of them.
const LEFT: usize = 12;

/// An answer that settled a command; a line of the acks file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ack {
    pub(super) key: String,
    pub(super) id: String,
    pub(super) command: String,
    /// Refused by the domain.
    pub(super) rejected: bool,
    pub(super) version: i64,
    /// Event ids with their sequences.
    pub(super) events: Vec<(Uuid, i64)>,
}

/// The acks file: what was acknowledged is on disk before the load goes on.
pub(super) struct Acks {
    file: Mutex<File>,
    settled: AtomicU64,
}

impl Acks {
    fn write(&self, ack: &Ack) -> Result<()> {
        let mut line = serde_json::to_vec(ack)?;
        line.push(b'\n');
        self.file.lock().unwrap().write_all(&line)?;
        self.settled.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }
}

/// A running load.
pub(super) struct Load {
    stop: CancellationToken,
    workers: JoinSet<Result<()>>,
    pub(super) acks: Arc<Acks>,
}

impl Load {
    pub(super) fn start(urls: [String; 2], acks: &Path, plan: &Plan) -> Result<Self> {
        let acks = Arc::new(Acks {
            file: Mutex::new(File::create(acks)?),
            settled: AtomicU64::new(0),
        });
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(10))
            .build()?;
        let stop = CancellationToken::new();
        let mut workers = JoinSet::new();
        for number in 0..WORKERS {
            let worker = Worker {
                http: http.clone(),
                urls: urls.clone(),
                acks: acks.clone(),
                dice: Dice::new(plan.seed ^ (number + 1)),
                settled_within: plan.drained_within,
                number,
            };
            workers.spawn(worker.run(stop.clone()));
        }
        Ok(Self {
            stop,
            workers,
            acks,
        })
    }

    /// Ends when every command that was begun is settled.
    pub(super) async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        while let Some(worker) = self.workers.join_next().await {
            worker??;
        }
        Ok(())
    }

    /// The first worker that gave up, if one did.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.workers.try_join_next() {
            Some(ended) => ended?.context("a worker of the load ended"),
            None => Ok(()),
        }
    }
}

/// What becomes of an order once it is placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The flow confirms or cancels it; the worker ships or cancels it later.
    Left,
    /// Confirmed by hand, while the flow is on its way.
    ByHand,
    /// Cancelled at once, while the flow is on its way.
    Regretted,
    /// Nobody moves it on until its timer fires.
    Timed,
}

fn addressed(id: &str, steps: Vec<Vec<(&'static str, Value)>>) -> impl Iterator<Item = Vec<Order>> {
    steps.into_iter().map(move |step| {
        let order = |(command, data)| Order {
            aggregate: "order",
            id: id.to_owned(),
            command,
            data,
        };
        step.into_iter().map(order).collect()
    })
}

#[derive(Clone)]
struct Worker {
    http: reqwest::Client,
    urls: [String; 2],
    acks: Arc<Acks>,
    dice: Dice,
    /// Longest that a command may stay unsettled, over every outage that the test makes.
    settled_within: Duration,
    number: u64,
}

/// One command of the load.
struct Order {
    aggregate: &'static str,
    id: String,
    command: &'static str,
    data: Value,
}

impl Worker {
    async fn run(mut self, stop: CancellationToken) -> Result<()> {
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Orders that the flow moves on; the worker comes back to each later.
        let mut left: VecDeque<String> = VecDeque::new();
        for number in 0.. {
            let mut steps = Vec::new();
            if number == 0 || self.dice.roll(8) == 0 {
                let product = if number == 0 {
                    self.number
                } else {
                    self.dice.roll(PRODUCTS)
                };
                steps.push(vec![self.receipt(product)]);
            }
            let (kind, id) = match self.dice.roll(8) {
                0 => (Kind::Timed, format!("timed-{}-{number}", self.number)),
                1 | 2 => (Kind::ByHand, format!("load-{}-{number}", self.number)),
                3 => (Kind::Regretted, format!("load-{}-{number}", self.number)),
                _ => (Kind::Left, format!("load-{}-{number}", self.number)),
            };
            let commands = self.order(kind, number);
            steps.extend(addressed(&id, commands));
            if kind == Kind::Left {
                left.push_back(id);
            }
            if left.len() > LEFT {
                let id = left.pop_front().context("more than none")?;
                let commands = self.later();
                steps.extend(addressed(&id, commands));
            }
            for step in steps {
                if stop.is_cancelled() {
                    return Ok(());
                }
                pace.tick().await;
                self.step(step).await?;
            }
        }
        Ok(())
    }

    fn receipt(&mut self, product: u64) -> Order {
        Order {
            aggregate: "stock",
            id: format!("product-{product}"),
            command: "ReceiveStock",
            // Now and then nothing, which is refused.
            data: json!({"quantity": self.dice.roll(25)}),
        }
    }

    /// The commands of one order's life; those of a step race each other, and the flow.
    fn order(&mut self, kind: Kind, order: u64) -> Vec<Vec<(&'static str, Value)>> {
        let customer = format!("customer-{}", self.dice.roll(40));
        let mut steps = Vec::new();
        let drafted = self.dice.roll(2) == 0;
        if drafted {
            let draft = json!({"customer_id": customer, "currency": "EUR"});
            steps.push(vec![("DraftOrder", draft)]);
            for _ in 0..1 + self.dice.roll(4) {
                // Two at once, each to another producer: one of them finds its state old.
                steps.push(vec![self.item(), self.item()]);
            }
            if self.dice.roll(4) == 0 {
                return steps;
            }
        }
        // A product that is tracked and often short, and one that never was.
        let mut place = json!({"lines": [
            {"product_id": format!("product-{}", self.dice.roll(PRODUCTS)), "quantity": 1 + self.dice.roll(4),
             "total_cents": self.dice.roll(10_000)},
            {"product_id": "cup", "quantity": 1, "total_cents": order},
        ]});
        if !drafted {
            place["customer_id"] = customer.into();
            place["currency"] = "EUR".into();
        }
        if kind == Kind::Timed {
            // Its saga would move it on, and there is none: it expires.
            place["coordination"] = "orchestration".into();
        }
        steps.push(vec![("PlaceOrder", place)]);
        match kind {
            Kind::Timed | Kind::Left => {}
            Kind::Regretted => steps.push(vec![self.cancel()]),
            Kind::ByHand => {
                // Of two confirmations at least one is refused.
                steps.push(vec![
                    ("ConfirmOrder", json!({})),
                    ("ConfirmOrder", json!({})),
                ]);
                steps.extend(self.later());
            }
        }
        steps
    }

    /// The end of an order's life, which is refused where the flow has not confirmed it.
    fn later(&mut self) -> Vec<Vec<(&'static str, Value)>> {
        let end = match self.dice.roll(4) {
            0 => self.cancel(),
            _ => ("ShipOrder", json!({"tracking_code": "T1"})),
        };
        vec![vec![end], vec![("DeliverOrder", json!({}))]]
    }

    fn cancel(&self) -> (&'static str, Value) {
        ("CancelOrder", json!({"reason": "changed my mind"}))
    }

    fn item(&mut self) -> (&'static str, Value) {
        // A quantity of 0 is refused.
        let item = json!({
            "product_id": format!("p{}", self.dice.roll(9)),
            "quantity": self.dice.roll(12),
            "total_cents": self.dice.roll(5_000),
        });
        ("AddItem", item)
    }

    async fn step(&mut self, commands: Vec<Order>) -> Result<()> {
        let mut sent = JoinSet::new();
        for order in commands {
            let key = Uuid::now_v7().to_string();
            let first = self.dice.roll(2) as usize;
            let race = self.dice.roll(6) == 0;
            let again = self.dice.roll(4) == 0;
            let worker = self.clone();
            sent.spawn(async move {
                if race {
                    let other = worker.settle(&order, &key, 1 - first);
                    tokio::try_join!(worker.settle(&order, &key, first), other)?;
                } else {
                    worker.settle(&order, &key, first).await?;
                }
                if again {
                    worker.settle(&order, &key, 1 - first).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(settled) = sent.join_next().await {
            settled??;
        }
        Ok(())
    }

    /// Sends until an answer settles it, to the other producer after each that did not.
    async fn settle(&self, order: &Order, key: &str, first: usize) -> Result<()> {
        let (aggregate, id) = (order.aggregate, &order.id);
        let body = json!({"type": order.command, "data": order.data});
        let deadline = Instant::now() + self.settled_within;
        let mut said = String::new();
        for attempt in first.. {
            if Instant::now() > deadline {
                bail!("command {key} {body} of {id} was not settled: {said}");
            }
            let url = format!("{}/commands/{aggregate}/{id}", self.urls[attempt % 2]);
            let request = self
                .http
                .post(url)
                .header("Idempotency-Key", key)
                .json(&body);
            let answer = match request.send().await {
                Ok(answer) => {
                    let status = answer.status().as_u16();
                    answer.text().await.map(|text| (status, text))
                }
                Err(error) => Err(error),
            };
            match answer {
                Ok((status @ (201 | 422), text)) => {
                    let ack = ack(id, key, &body, status, &text)?;
                    return self.acks.write(&ack);
                }
                Ok((503, text)) => said = text,
                Ok((status, text)) => bail!("command {key} {body} of {id}: {status} {text}"),
                Err(error) => said = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

fn ack(id: &str, key: &str, body: &Value, status: u16, text: &str) -> Result<Ack> {
    let answer: Value = serde_json::from_str(text).with_context(|| text.to_owned())?;
    let mut events = Vec::new();
    for event in answer["events"].as_array().into_iter().flatten() {
        let event_id = event["id"].as_str().context("an event without id")?;
        let sequence = event["sequence"].as_i64().context("no sequence")?;
        events.push((event_id.parse()?, sequence));
    }
    Ok(Ack {
        key: key.to_owned(),
        id: id.to_owned(),
        command: body["type"].as_str().unwrap_or_default().to_owned(),
        rejected: status == 422,
        version: answer["version"].as_i64().unwrap_or(-1),
        events,
    })
}
