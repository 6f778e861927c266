//! What events led to, as it is found in the journal, the topics, the effect's rows and outside. Which commands and timers an event
//! owes, and under which ids, is said here once more.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::Result;
use serde_json::Value;
use sqlx::FromRow;
use uuid::Uuid;

use super::oracle::{Event, Message, Oracle};
use super::outside::{Outside, Posted};

pub(super) const EFFECT: &str = "order-webhook";
const TIMER: &str = "confirmation";

/// What the journal keeps of a command.
#[derive(Debug, Clone, FromRow)]
pub(super) struct Outcome {
    pub(super) aggregate_type: String,
    pub(super) aggregate_id: String,
    pub(super) command_id: String,
    pub(super) command_type: String,
    pub(super) version: i64,
    pub(super) events: i32,
    pub(super) rejection: Option<String>,
}

#[derive(Debug, Clone, FromRow)]
pub(super) struct Timer {
    pub(super) timer_id: Uuid,
    pub(super) aggregate_id: String,
    pub(super) command_id: String,
    pub(super) state: String,
}

#[derive(Debug, Clone, FromRow)]
pub(super) struct CallRow {
    pub(super) event_id: Uuid,
    pub(super) call_key: Uuid,
    pub(super) state: String,
}

/// A command that an event must have led to.
pub(super) struct Owed {
    pub(super) event: String,
    pub(super) aggregate: &'static str,
    pub(super) aggregate_id: String,
    pub(super) command: &'static str,
}

/// All that the checks read.
pub(super) struct Facts {
    /// By command id; `twice` are ids that more than one aggregate keeps.
    pub(super) outcomes: HashMap<String, Outcome>,
    pub(super) twice: Vec<String>,
    /// By aggregate id: highest sequence, slow writers left out.
    pub(super) versions: BTreeMap<String, i64>,
    pub(super) owed: HashMap<String, Owed>,
    pub(super) commands: Vec<Message>,
    pub(super) answered: HashSet<String>,
    pub(super) letters: HashSet<(i32, String)>,
    pub(super) timers: Vec<Timer>,
    /// Ids of timers that must be there, with their orders.
    pub(super) timers_owed: HashMap<Uuid, String>,
    pub(super) calls: HashMap<Uuid, CallRow>,
    /// Events that the outside is to be told of, with their orders.
    pub(super) confirmed: HashMap<Uuid, String>,
    pub(super) posts: HashMap<String, Posted>,
    /// What is set aside and not given back or shipped, by product and order.
    pub(super) open: BTreeSet<(String, String)>,
    /// Moments at which a product had less than nothing of something.
    pub(super) below_zero: Vec<String>,
}

impl Facts {
    pub(super) async fn read(
        oracle: &Oracle,
        journal: &[Event],
        data: &[Value],
        outside: &Outside,
    ) -> Result<Self> {
        let rows: Vec<Outcome> = sqlx::query_as(
            "SELECT aggregate_type, aggregate_id, command_id, command_type, version, events, rejection
             FROM millrace.commands",
        )
        .fetch_all(&oracle.journal)
        .await?;
        let (mut outcomes, mut twice) = (HashMap::new(), Vec::new());
        for row in rows {
            if let Some(other) = outcomes.insert(row.command_id.clone(), row) {
                twice.push(other.command_id);
            }
        }
        let timers =
            sqlx::query_as("SELECT timer_id, aggregate_id, command_id, state FROM millrace.timers")
                .fetch_all(&oracle.journal)
                .await?;
        let calls: Vec<CallRow> = sqlx::query_as(
            "SELECT event_id, call_key, state FROM millrace_effects.calls WHERE effect = $1",
        )
        .bind(EFFECT)
        .fetch_all(&oracle.views)
        .await?;
        let [orders, stock, order_replies, stock_replies, letters] =
            tokio::task::block_in_place(|| {
                anyhow::Ok([
                    oracle.messages("order.commands")?,
                    oracle.messages("stock.commands")?,
                    oracle.messages("order.replies")?,
                    oracle.messages("stock.replies")?,
                    oracle.messages("millrace.commands.order.dlq")?,
                ])
            })?;
        let replies = order_replies.into_iter().chain(stock_replies);
        let mut facts = Self {
            outcomes,
            twice,
            versions: BTreeMap::new(),
            owed: HashMap::new(),
            commands: orders.into_iter().chain(stock).collect(),
            answered: replies.map(|reply| reply.cause).collect(),
            letters: letters
                .into_iter()
                .map(|letter| (letter.partition, letter.letter_offset))
                .collect(),
            timers,
            timers_owed: HashMap::new(),
            calls: calls.into_iter().map(|row| (row.event_id, row)).collect(),
            confirmed: HashMap::new(),
            posts: outside.posts(),
            open: BTreeSet::new(),
            below_zero: Vec::new(),
        };
        let mut free: HashMap<&str, i64> = HashMap::new();
        for (event, data) in journal.iter().zip(data) {
            facts.follow(event, data, &mut free);
        }
        Ok(facts)
    }

    fn follow<'j>(&mut self, event: &'j Event, data: &Value, free: &mut HashMap<&'j str, i64>) {
        if event.aggregate_id.starts_with("slow-") {
            return;
        }
        self.versions
            .insert(event.aggregate_id.clone(), event.sequence);
        for owed in led_to(event, data) {
            let id = derived(event.event_id, &owed);
            self.owed.insert(id.to_string(), owed);
        }
        let order = event.aggregate_id.clone();
        match event.event_type.as_str() {
            "OrderPlaced" => {
                let id = Uuid::new_v5(&event.event_id, format!("timer\0{TIMER}").as_bytes());
                self.timers_owed.insert(id, order);
            }
            "OrderConfirmed" => {
                self.confirmed.insert(event.event_id, order);
            }
            _ => {}
        }
        if event.aggregate_type == "stock" {
            let quantity = data["quantity"].as_i64().unwrap_or_default();
            let free = free.entry(event.aggregate_id.as_str()).or_default();
            let key = || {
                let order = data["order_id"].as_str().unwrap_or_default();
                (event.aggregate_id.clone(), order.to_owned())
            };
            let had = match event.event_type.as_str() {
                "StockReserved" if data["tracked"] == true => {
                    *free -= quantity;
                    self.open.insert(key())
                }
                "StockReleased" => {
                    *free += quantity;
                    self.open.remove(&key())
                }
                "StockShippedOut" => self.open.remove(&key()),
                "StockReceived" => {
                    *free += quantity;
                    true
                }
                _ => true,
            };
            if *free < 0 || !had {
                let Event {
                    aggregate_id,
                    sequence,
                    event_type,
                    ..
                } = event;
                self.below_zero.push(format!(
                    "{aggregate_id} {sequence} {event_type}: {free} are left"
                ));
            }
        }
    }

    /// The figures of a run, for whoever reads its output.
    pub(super) fn told(&self) -> String {
        let count = |state: &str| self.calls.values().filter(|row| row.state == state).count();
        let timers = |state: &str| self.timers.iter().filter(|row| row.state == state).count();
        format!(
            "{} commands of the flow, {} orders confirmed: {} webhooks settled, {} uncertain, {} dead letters; {} timers fired, {} cancelled",
            self.owed.len(),
            self.confirmed.len(),
            count("settled"),
            count("uncertain"),
            count("dead"),
            timers("fired"),
            timers("cancelled"),
        )
    }
}

/// What an event leads to, by the rules of the flow.
fn led_to(event: &Event, data: &Value) -> Vec<Owed> {
    let owed = |aggregate, aggregate_id: &str, command| Owed {
        event: format!(
            "{} {} of {}",
            event.event_type, event.sequence, event.aggregate_id
        ),
        aggregate,
        aggregate_id: aggregate_id.to_owned(),
        command,
    };
    let to_products = |field: &str, command| {
        let all = data[field].as_array().into_iter().flatten();
        let products: BTreeSet<&str> = all.filter_map(|one| one["product_id"].as_str()).collect();
        products
            .into_iter()
            .map(|product| owed("stock", product, command))
            .collect()
    };
    let order = data["order_id"].as_str().unwrap_or_default();
    match event.event_type.as_str() {
        "OrderPlaced" if data["coordination"] == "choreography" => {
            to_products("lines", "ReserveStock")
        }
        "OrderShipped" => to_products("products", "ShipOutStock"),
        "OrderCancelled" => to_products("products", "ReleaseStock"),
        "StockReserved" => vec![owed("order", order, "RecordReservation")],
        "StockReservationRefused" => vec![owed("order", order, "RecordShortage")],
        _ => Vec::new(),
    }
}

/// The id of the command that an event leads to.
fn derived(event_id: Uuid, owed: &Owed) -> Uuid {
    let Owed {
        aggregate,
        aggregate_id,
        command,
        ..
    } = owed;
    let processor = match *aggregate {
        "stock" => "order-stock",
        _ => "stock-order",
    };
    let name = format!("{processor}\0{aggregate}\0{aggregate_id}\0{command}\0{}", 0);
    Uuid::new_v5(&event_id, name.as_bytes())
}
