//! Whether it all adds up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::super::shop::UNSETTLED;
use super::{Interrupted, Order, Storm};
use crate::crash::oracle::Oracle;
use crate::crash::verdict::{Findings, sequences, topic_equals_journal};

/// Mails that somebody is still to send, or to record the end of.
const UNSENT: &str = "SELECT
    (SELECT count(*) FROM views.notifications WHERE state NOT IN ('sent', 'uncertain'))
  + (SELECT count(*) FROM millrace_effects.calls WHERE effect = 'email' AND state NOT IN ('settled', 'uncertain'))";

/// Where a customer is written to.
pub(super) fn address(customer: &str) -> String {
    format!("{customer}@example.net")
}

impl Storm {
    /// Waits until nothing is left to happen; fails when nothing has happened for that long.
    pub(super) async fn settle(&self, patience: Duration) -> Result<()> {
        let world = &self.shop.world;
        let orders = self.orders.len() as i64;
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let placed = world.number("SELECT count(*) FROM views.orders").await?;
            let payments = world.number("SELECT count(*) FROM views.payments").await?;
            let told = world.number(TOLD_OF_ORDERS).await?;
            let open = world.number(UNSETTLED).await? + world.number(UNSENT).await?;
            if placed == orders && payments == orders && told == orders && open == 0 {
                self.say("nothing is left to happen");
                return Ok(());
            }
            let events = world.number("SELECT count(*) FROM views.event_log").await?;
            if events != last {
                (last, since) = (events, Instant::now());
            }
            ensure!(
                since.elapsed() < patience,
                "nothing goes on at {events} events: {placed} orders, {payments} payments and {told} mails about them of {orders}, {open} things open\n{}",
                world.logs()
            );
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// The money is the confirmed orders', and what is set aside of each product is what they want of it.
    pub(super) async fn goods_and_money(&self) -> Result<()> {
        let orders = self.orders.len() as i64;
        let confirmed = self.shop.add_up(orders).await?;
        ensure!(confirmed > 0, "nothing was sold");
        let statuses = self.shop.settled(orders).await?;
        let mut due: BTreeMap<&str, i64> = BTreeMap::new();
        let is_confirmed =
            |order: &&Order| statuses.get(&order.id).is_some_and(|of| of == "confirmed");
        for (product, quantity) in self
            .orders
            .iter()
            .filter(is_confirmed)
            .flat_map(Order::wants)
        {
            *due.entry(product).or_default() += quantity;
        }
        let mut views = PgConnection::connect(self.shop.world.servers.views_database_url()).await?;
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT product_id, reserved FROM views.stock")
                .fetch_all(&mut views)
                .await?;
        for (product, reserved) in rows {
            let due = due.remove(product.as_str()).unwrap_or(0);
            ensure!(
                reserved == due,
                "{reserved} of {product} are set aside, {due} are wanted"
            );
        }
        ensure!(due.is_empty(), "wanted, and not set aside: {due:?}");
        self.say(&format!(
            "{confirmed} of {orders} orders are confirmed; money and stock add up"
        ));
        Ok(())
    }

    /// Each mail was taken over once, or it stands as uncertain, and then a kill came between its call and the record of it.
    pub(super) async fn mails(&self, interrupted: &Interrupted) -> Result<()> {
        let mut views = PgConnection::connect(self.shop.world.servers.views_database_url()).await?;
        let states: Vec<(String, String, String)> =
            sqlx::query_as("SELECT notification_id, recipient_id, state FROM views.notifications")
                .fetch_all(&mut views)
                .await?;
        let calls: Vec<(Uuid, i32)> =
            sqlx::query_as("SELECT event_id, calls FROM millrace_effects.calls WHERE effect = 'email' AND state = 'uncertain'")
                .fetch_all(&mut views)
                .await?;
        for call in &calls {
            ensure!(
                interrupted.contains(call),
                "{call:?} is uncertain, and no kill came between"
            );
        }
        let uncertain: BTreeSet<&str> = states
            .iter()
            .filter(|(_, _, state)| state == "uncertain")
            .map(|(id, _, _)| id.as_str())
            .collect();
        ensure!(
            uncertain.len() == calls.len(),
            "{uncertain:?} are shown as uncertain, {calls:?} are"
        );
        let taken = self.taken();
        for (id, recipient, state) in &states {
            let times = taken.get(id).copied().unwrap_or(0);
            let right = if state == "sent" {
                times == 1
            } else {
                times <= 1
            };
            ensure!(
                right,
                "{id} to {recipient} is {state} and was taken over {times} times"
            );
        }
        let known: BTreeSet<&str> = states.iter().map(|(id, _, _)| id.as_str()).collect();
        let unknown: Vec<_> = taken
            .keys()
            .filter(|id| !known.contains(id.as_str()))
            .collect();
        ensure!(unknown.is_empty(), "nobody asked for these: {unknown:?}");
        // One for each event that a customer hears of.
        let owed = "SELECT (SELECT count(*) FROM views.event_log WHERE event_type IN ('OrderPlaced', 'PaymentReceived'))
            - (SELECT count(*) FROM views.notifications)";
        ensure!(
            self.shop.world.number(owed).await? == 0,
            "an event was told of never, or twice"
        );
        self.say(&format!(
            "{} mails: {} sent once, {} uncertain of {} whose call a kill interrupted",
            states.len(),
            states.len() - uncertain.len(),
            uncertain.len(),
            interrupted.len()
        ));
        Ok(())
    }

    /// How often the mail server took over each notification.
    pub(super) fn taken(&self) -> BTreeMap<String, usize> {
        let customers: BTreeSet<&str> = self.orders.iter().map(Order::customer).collect();
        let mut taken = BTreeMap::new();
        for mail in customers
            .iter()
            .flat_map(|customer| self.smtp.taken(&address(customer)))
        {
            let id = mail.header("Message-ID").unwrap_or_default();
            let id = id
                .trim_start_matches('<')
                .split('@')
                .next()
                .unwrap_or_default()
                .to_owned();
            *taken.entry(id).or_default() += 1;
        }
        taken
    }

    /// Of every aggregate: the topic holds the journal's events, each once, in order and without a gap.
    pub(super) async fn topics(&self) -> Result<()> {
        let oracle = Oracle::new(&self.shop.world.servers)?;
        let mut of: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for event in oracle.journal().await? {
            of.entry(event.aggregate_type.clone())
                .or_default()
                .push(event);
        }
        let mut findings = Findings::default();
        let mut told = Vec::new();
        for (aggregate, journal) in &of {
            let topic =
                tokio::task::block_in_place(|| oracle.events(&format!("{aggregate}.events")))?;
            topic_equals_journal(journal, &topic, &[], &mut findings);
            sequences(journal, &topic, &[], &mut findings);
            told.push(format!("{} of {aggregate}", topic.len()));
        }
        findings.verdict()?;
        // The view of all events is what the journal holds.
        let all: usize = of.values().map(Vec::len).sum();
        let shown = self
            .shop
            .world
            .number("SELECT count(*) FROM views.event_log")
            .await?;
        ensure!(
            shown == all as i64,
            "{shown} events are shown, {all} are in the journal"
        );
        self.say(&format!("topics equal the journal: {}", told.join(", ")));
        Ok(())
    }
}

/// Orders that their customer was told of.
const TOLD_OF_ORDERS: &str = "SELECT count(*) FROM views.notifications WHERE kind = 'order_placed'";
