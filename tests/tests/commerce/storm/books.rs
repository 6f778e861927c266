//! Whether it all adds up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::super::shop::UNSETTLED;
use super::payments::{self, Payment};
use super::{Interrupted, Order, Storm};
use crate::crash::fold::{Decoder, differ};
use crate::crash::oracle::{Event, Oracle};
use crate::crash::verdict::{Findings, sequences, topic_equals_journal};
use crate::operate::world::LONG;

/// Mails that somebody is still to ask for, to send, or to record the end of, and sales that nobody has counted.
const UNSENT: &str = "SELECT
    (SELECT count(*) FROM views.notifications WHERE state NOT IN ('sent', 'uncertain'))
  + (SELECT abs(count(*) FILTER (WHERE event_type IN ('OrderPlaced', 'PaymentReceived', 'OrderShipped'))
              - (SELECT count(*) FROM views.notifications)) FROM views.event_log)
  + (SELECT abs(count(*) FILTER (WHERE event_type = 'OrderPaid') - count(*) FILTER (WHERE event_type = 'SaleCounted'))
     FROM views.event_log)
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

    /// The money is the confirmed orders', what is set aside of each product is what they want of it, and what was shipped out
    /// is what the shipped ones wanted.
    pub(super) async fn goods_and_money(&self) -> Result<()> {
        let orders = self.orders.len() as i64;
        let sold = self.shop.add_up(orders).await?;
        let statuses = self.shop.settled(orders).await?;
        let shipped = statuses.values().filter(|of| *of == "shipped").count();
        ensure!(
            sold > 0 && shipped > 0,
            "{sold} orders are sold, {shipped} shipped"
        );
        let due = |status: &str| {
            let is = |order: &&Order| statuses.get(&order.id).is_some_and(|of| of == status);
            let mut due: BTreeMap<String, i64> = BTreeMap::new();
            for (product, quantity) in self.orders.iter().filter(is).flat_map(Order::wants) {
                *due.entry(product.to_owned()).or_default() += quantity;
            }
            due
        };
        let wanted = (due("confirmed"), due("shipped"));
        let begun = Instant::now();
        // The goods of a parcel leave the stock a moment after it.
        loop {
            let stock = self.stock().await?;
            if stock == wanted {
                break;
            }
            ensure!(
                begun.elapsed() < LONG,
                "set aside and shipped out: {stock:?}, wanted: {wanted:?}"
            );
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        self.say(&format!(
            "{sold} of {orders} orders are sold, {shipped} of them shipped; money and stock add up"
        ));
        Ok(())
    }

    /// What is set aside and what was shipped out, by product.
    async fn stock(&self) -> Result<(BTreeMap<String, i64>, BTreeMap<String, i64>)> {
        let mut views = PgConnection::connect(self.shop.world.servers.views_database_url()).await?;
        let rows: Vec<(String, i64, i64)> =
            sqlx::query_as("SELECT product_id, reserved, shipped_out FROM views.stock")
                .fetch_all(&mut views)
                .await?;
        let of = |quantity: fn(&(String, i64, i64)) -> i64| {
            rows.iter()
                .filter(|row| quantity(row) != 0)
                .map(|row| (row.0.clone(), quantity(row)))
                .collect()
        };
        Ok((of(|row| row.1), of(|row| row.2)))
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
        let owed = "SELECT (SELECT count(*) FROM views.event_log WHERE event_type IN ('OrderPlaced', 'PaymentReceived', 'OrderShipped'))
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

    /// Of every aggregate the topic holds the journal's events, each once, in order and without a gap; the views are what a fold
    /// of the journal gives; and nothing that was acknowledged is missing.
    pub(super) async fn topics(&self) -> Result<()> {
        let oracle = Oracle::new(&self.shop.world.servers)?;
        let all = oracle.journal().await?;
        let mut findings = Findings::default();
        let mut told = Vec::new();
        let mut of: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for event in &all {
            let aggregate = of.entry(event.aggregate_type.as_str()).or_default();
            aggregate.push(event.clone());
        }
        for (aggregate, journal) in &of {
            let topic =
                tokio::task::block_in_place(|| oracle.events(&format!("{aggregate}.events")))?;
            topic_equals_journal(journal, &topic, &[], &mut findings);
            sequences(journal, &topic, &[], &mut findings);
            told.push(format!("{} of {aggregate}", topic.len()));
        }
        let mut decoder = Decoder::new(self.shop.world.servers.registry())?;
        let equal = oracle.views_equal_folds(&all, &mut decoder, &mut findings);
        equal.await?;
        let payments = of.remove("payment").unwrap_or_default();
        let data = decoder.all(&payments).await?;
        let shown = self.payments_shown().await?;
        differ(
            "3 views.payments equals a fold of the journal",
            &payments::fold(&payments, &data)?,
            &shown,
            &mut findings,
        );
        let acknowledged = self.acknowledged(&all, &mut findings);
        findings.verdict()?;
        self.say(&format!(
            "topics equal the journal: {}; views equal its folds; {acknowledged} acknowledged commands are kept",
            told.join(", ")
        ));
        Ok(())
    }

    async fn payments_shown(&self) -> Result<BTreeMap<String, Payment>> {
        let mut views = PgConnection::connect(self.shop.world.servers.views_database_url()).await?;
        let rows: Vec<(String, String, i64, i64)> = sqlx::query_as(
            "SELECT order_id, status, charged_cents, refunded_cents FROM views.payments",
        )
        .fetch_all(&mut views)
        .await?;
        let payment = |(id, status, charged_cents, refunded_cents)| {
            let payment = Payment {
                status,
                charged_cents,
                refunded_cents,
            };
            (id, payment)
        };
        Ok(rows.into_iter().map(payment).collect())
    }

    /// Check 4: every event of an accepted command stands in the journal where the answer said. How many commands there were.
    fn acknowledged(&self, journal: &[Event], findings: &mut Findings) -> usize {
        let place = |event: &Event| (event.event_id, (event.aggregate_id.clone(), event.sequence));
        let stored: HashMap<Uuid, (String, i64)> = journal.iter().map(place).collect();
        let acknowledged = self.shop.acknowledged.lock().unwrap();
        for one in acknowledged.iter() {
            for event in &one.events {
                if stored.get(&event.id) != Some(&(one.id.clone(), event.sequence)) {
                    let finding = format!("{event:?} of {} is not in the journal", one.id);
                    findings.add("4 no acknowledged command is lost", finding);
                }
            }
        }
        acknowledged.len()
    }
}

/// Orders that their customer was told of.
const TOLD_OF_ORDERS: &str = "SELECT count(*) FROM views.notifications WHERE kind = 'order_placed'";
