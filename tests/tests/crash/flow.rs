//! Checks 6 to 10: what events led to. Which commands those are, and under which ids, is said here once more.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::Result;
use serde_json::Value;
use sqlx::FromRow;
use uuid::Uuid;

use super::fold::Expected;
use super::oracle::{Event, Message, Oracle};
use super::outside::{Outside, Posted};
use super::points::POISON;
use super::verdict::Findings;

pub(super) const EFFECT: &str = "order-webhook";
const TIMER: &str = "confirmation";

/// What the journal keeps of a command.
#[derive(Debug, Clone, FromRow)]
pub(super) struct Outcome {
    aggregate_type: String,
    pub(super) aggregate_id: String,
    command_id: String,
    command_type: String,
    pub(super) version: i64,
    pub(super) events: i32,
    pub(super) rejection: Option<String>,
}

#[derive(Debug, Clone, FromRow)]
struct Timer {
    timer_id: Uuid,
    aggregate_id: String,
    command_id: String,
    state: String,
}

#[derive(Debug, Clone, FromRow)]
struct CallRow {
    event_id: Uuid,
    call_key: Uuid,
    state: String,
}

/// A command that an event must have led to.
struct Owed {
    event: String,
    aggregate: &'static str,
    aggregate_id: String,
    command: &'static str,
}

/// All that the checks read.
pub(super) struct Facts {
    /// By command id; `twice` are ids that more than one aggregate keeps.
    pub(super) outcomes: HashMap<String, Outcome>,
    twice: Vec<String>,
    /// By aggregate id: highest sequence, slow writers left out.
    versions: BTreeMap<String, i64>,
    owed: HashMap<String, Owed>,
    commands: Vec<Message>,
    answered: HashSet<String>,
    letters: HashSet<(i32, String)>,
    timers: Vec<Timer>,
    /// Ids of timers that must be there, with their orders.
    timers_owed: HashMap<Uuid, String>,
    calls: HashMap<Uuid, CallRow>,
    /// Events that the outside is to be told of, with their orders.
    confirmed: HashMap<Uuid, String>,
    posts: HashMap<String, Posted>,
    /// What is set aside and not given back or shipped, by product and order.
    open: BTreeSet<(String, String)>,
    /// Moments at which a product had less than nothing of something.
    below_zero: Vec<String>,
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

/// Checks 6 to 10.
pub(super) fn judge(
    facts: &Facts,
    expected: &Expected,
    of_load: &HashSet<String>,
    replays: usize,
    findings: &mut Findings,
) {
    commands(facts, replays, findings);
    outcomes(facts, of_load, findings);
    orders_and_stock(facts, expected, findings);
    effects(facts, findings);
    timers(facts, findings);
}

/// Check 6: in the topics, each event has exactly its commands, as often as it was handled on purpose.
fn commands(facts: &Facts, replays: usize, findings: &mut Findings) {
    const CHECK: &str = "6 every event led to exactly its commands";
    let mut sent: HashMap<&str, usize> = HashMap::new();
    for message in &facts.commands {
        if message.key.starts_with(POISON) {
            let at = (message.partition, message.offset.to_string());
            if !facts.letters.contains(&at) {
                findings.add(CHECK, format!("the poison at {at:?} is no dead letter"));
            }
            continue;
        }
        *sent.entry(&message.id).or_default() += 1;
        let Some(owed) = facts.owed.get(&message.id) else {
            let Message {
                key,
                id,
                source,
                cause,
                ..
            } = message;
            findings.add(
                CHECK,
                format!("command {id} of {source} to {key} is nothing that event {cause} leads to"),
            );
            continue;
        };
        if message.key != owed.aggregate_id {
            findings.add(CHECK, format!("{} has the key {}", message.id, message.key));
        }
    }
    for (id, owed) in &facts.owed {
        let times = sent.get(id.as_str()).copied().unwrap_or_default();
        if times != 1 + replays {
            let Owed {
                event,
                command,
                aggregate_id,
                ..
            } = owed;
            findings.add(
                CHECK,
                format!(
                    "{event}: {command} to {aggregate_id} ({id}) was sent {times} times, not {}",
                    1 + replays
                ),
            );
        }
        if !facts.answered.contains(id) {
            findings.add(
                CHECK,
                format!("{}: {} ({id}) has no reply", owed.event, owed.command),
            );
        }
    }
}

/// Check 7: each command has one outcome, no outcome is nobody's, and the outcomes' events are the journal's.
fn outcomes(facts: &Facts, of_load: &HashSet<String>, findings: &mut Findings) {
    const ONE: &str = "7 each command of the flow took effect once";
    const WHOLE: &str = "7 the journal's events are those of its commands";
    for id in &facts.twice {
        findings.add(ONE, format!("{id} has outcomes of two aggregates"));
    }
    for (id, owed) in &facts.owed {
        let kept = facts.outcomes.get(id);
        let same = |kept: &Outcome| {
            kept.aggregate_type == owed.aggregate
                && kept.aggregate_id == owed.aggregate_id
                && kept.command_type == owed.command
                && kept.rejection.is_none()
        };
        if !kept.is_some_and(same) {
            let Owed { event, command, .. } = owed;
            findings.add(
                ONE,
                format!("{event}: {command} ({id}) has the outcome {kept:?}"),
            );
        }
    }
    let fired: HashSet<&str> = facts
        .timers
        .iter()
        .map(|row| row.command_id.as_str())
        .collect();
    let mut ranges: BTreeMap<&str, Vec<(i64, i64)>> = BTreeMap::new();
    for (id, kept) in &facts.outcomes {
        if !(of_load.contains(id) || facts.owed.contains_key(id) || fired.contains(id.as_str())) {
            findings.add(ONE, format!("nobody sent {kept:?}"));
        }
        if kept.events > 0 {
            let first = kept.version - i64::from(kept.events) + 1;
            let of = ranges.entry(&kept.aggregate_id).or_default();
            of.push((first, kept.version));
        }
    }
    for (id, version) in &facts.versions {
        let mut next = 1;
        let mut of = ranges.remove(id.as_str()).unwrap_or_default();
        of.sort_unstable();
        for (first, last) in of {
            if first != next {
                findings.add(
                    WHOLE,
                    format!(
                        "{id}: events {first} to {last} of a command follow {}",
                        next - 1
                    ),
                );
            }
            next = last + 1;
        }
        if next != version + 1 {
            findings.add(
                WHOLE,
                format!("{id} has {version} events, its commands made {}", next - 1),
            );
        }
    }
}

/// Check 8: no order is stuck, and what was received is there, set aside or gone.
fn orders_and_stock(facts: &Facts, expected: &Expected, findings: &mut Findings) {
    const STUCK: &str = "8 no order is stuck";
    const SUM: &str = "8 received = available + reserved + shipped out";
    for (id, order) in &expected.orders {
        if order.status == "placed" {
            findings.add(STUCK, format!("{id} is still placed"));
        }
    }
    for (product, order) in &facts.open {
        let status = expected
            .orders
            .get(order)
            .map(|order| order.status.as_str());
        if status != Some("confirmed") {
            findings.add(
                STUCK,
                format!("{product} is set aside for {order}, which is {status:?}"),
            );
        }
    }
    for (id, stock) in &expected.stock {
        let sum = stock.available + stock.reserved + stock.shipped_out;
        if stock.received != sum || stock.available < 0 || stock.reserved < 0 {
            findings.add(SUM, format!("{id}: {stock:?}"));
        }
    }
    for moment in &facts.below_zero {
        findings.add(SUM, moment.clone());
    }
}

/// Check 9: the outside was told of each confirmed order once. Under the rule that nothing is repeated, what a crash left in
/// doubt was posted once or not at all, and says so.
fn effects(facts: &Facts, findings: &mut Findings) {
    const CHECK: &str = "9 every effect was called once or is uncertain";
    for (event_id, order) in &facts.confirmed {
        let key = Uuid::new_v5(event_id, EFFECT.as_bytes());
        let Some(row) = facts.calls.get(event_id) else {
            findings.add(
                CHECK,
                format!("{order} is confirmed, and no call of it is known"),
            );
            continue;
        };
        let posted = facts
            .posts
            .get(&key.to_string())
            .cloned()
            .unwrap_or_default();
        let fits = match row.state.as_str() {
            "settled" => posted.times == 1 && !posted.refused,
            "uncertain" => posted.times <= 1,
            "dead" => posted.times == 1 && posted.refused,
            _ => false,
        };
        if !fits || row.call_key != key {
            findings.add(
                CHECK,
                format!("{order}: {row:?}, the outside has {posted:?} under {key}"),
            );
        }
        if posted.times > 0 && (posted.event_id != Some(*event_id) || posted.order_id != *order) {
            findings.add(CHECK, format!("{order} was told of as {posted:?}"));
        }
    }
    for event_id in facts
        .calls
        .keys()
        .filter(|id| !facts.confirmed.contains_key(id))
    {
        findings.add(
            CHECK,
            format!("a call about {event_id}, which confirms no order"),
        );
    }
    let posts: u32 = facts.posts.values().map(|posted| posted.times).sum();
    if posts as usize > facts.confirmed.len() {
        findings.add(
            CHECK,
            format!("{posts} posts for {} orders", facts.confirmed.len()),
        );
    }
}

/// Check 10: every placed order's timer fired once, or was cancelled.
fn timers(facts: &Facts, findings: &mut Findings) {
    const CHECK: &str = "10 every timer fired once or was cancelled";
    let mut owed = facts.timers_owed.clone();
    for timer in &facts.timers {
        if owed.remove(&timer.timer_id).as_ref() != Some(&timer.aggregate_id) {
            findings.add(CHECK, format!("{timer:?} was set by no event"));
        }
        if timer.command_id != Uuid::new_v5(&timer.timer_id, b"fire").to_string() {
            findings.add(
                CHECK,
                format!("{timer:?} fires under an id that is not its own"),
            );
        }
        let outcome = facts.outcomes.get(&timer.command_id);
        let fits = match timer.state.as_str() {
            "fired" => outcome.is_some_and(|kept| kept.rejection.is_none()),
            // A claim may have fired it in the moment of its cancelling: then its command changed nothing.
            "cancelled" => outcome.is_none_or(|kept| kept.events == 0),
            _ => false,
        };
        if !fits {
            findings.add(CHECK, format!("{timer:?} has the outcome {outcome:?}"));
        }
    }
    for order in owed.values() {
        findings.add(CHECK, format!("{order} was placed and has no timer"));
    }
}
