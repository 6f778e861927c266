//! Orders of both styles, paid at a gateway that fails a fifth of the time in every way, while every role and the broker are killed
//! at random and a mail server takes what is written to whoever ordered.
//!
//! `MILLRACE_STORM_ORDERS=N` places N orders of each style instead of 60, `MILLRACE_STORM_KILLS=N` kills so often instead of 9,
//! `MILLRACE_STORM_BASKETS=FILE` takes the orders from a file of baskets. `./dev storm` sets them.

mod books;
mod orders;
mod payments;
mod replay;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join;
use futures::{StreamExt, TryStreamExt};
use processors::gateway::faults::Faults;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tests::servers::Server;
use tests::smtp::Smtp;
use uuid::Uuid;

use super::shop::Shop;
use crate::operate::world::{LONG, Process};
use orders::Order;

const ROLES: [&str; 3] = ["producer", "processors", "projections"];
/// Callers that place orders side by side.
const LANES: usize = 8;
/// Of a paid order, at the least, with what is written about it.
const EVENTS_PER_ORDER: i64 = 10;

/// How long the broker is away: longer than the first look at a call that lasts.
const AWAY: Duration = Duration::from_secs(25);

/// Kills of the broker in one storm.
const AWAY_MAX: usize = 2;

/// What the environment says.
struct Plan {
    orders_per_style: usize,
    kills: usize,
    baskets: Option<PathBuf>,
}

impl Plan {
    fn read() -> Result<Self> {
        let number = |name: &str, default: usize| match std::env::var(name) {
            Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
            Err(_) => Ok(default),
        };
        Ok(Self {
            orders_per_style: number("MILLRACE_STORM_ORDERS", 60)?,
            kills: number("MILLRACE_STORM_KILLS", 9)?,
            baskets: std::env::var_os("MILLRACE_STORM_BASKETS").map(PathBuf::from),
        })
    }
}

/// Bits by chance; what they decide is printed.
fn roll(sides: usize) -> usize {
    (Uuid::now_v7().as_u128() & 0xffff_ffff) as usize % sides
}

/// A shop, its customers' mail server, and what was placed.
struct Storm {
    shop: Shop,
    smtp: Smtp,
    orders: Vec<Order>,
    begun: Instant,
}

/// The mails whose call was under way when a process was killed: event, and which call of it.
type Interrupted = BTreeSet<(Uuid, i32)>;

impl Storm {
    async fn open(plan: &Plan) -> Result<Self> {
        let mut shop = Shop::open(Faults::random(20)).await?;
        let smtp = Smtp::start().await?;
        shop.set("ORDER_SAGA_STEP_TIMEOUT_MS", 20_000);
        shop.set("ORDER_SAGA_COMPENSATION_TIMEOUT_MS", 10_000);
        shop.set("SMTP_PORT", smtp.port());
        for (name, value) in [
            ("EMAIL_ADAPTER", "smtp"),
            ("EMAIL_FROM", "Shop <shop@example.org>"),
            ("SMTP_HOST", "127.0.0.1"),
            ("SMTP_TLS", "off"),
            ("NOTIFICATION_TIMEOUT_MS", "60000"),
        ] {
            shop.set(name, value);
        }
        let orders = match &plan.baskets {
            Some(file) => orders::from_baskets(file, plan.orders_per_style)?,
            None => orders::invented(plan.orders_per_style),
        };
        Ok(Self {
            shop,
            smtp,
            orders,
            begun: Instant::now(),
        })
    }

    fn say(&self, what: &str) {
        println!("  {:>5.1} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    /// Stock for what is wanted, of every seventh product for half of it; and every customer's address.
    async fn prepare(&self) -> Result<()> {
        let wanted = orders::wanted(&self.orders);
        let goods = wanted
            .iter()
            .enumerate()
            .map(|(number, (product, wanted))| {
                let share = if number % 7 == 0 { 2 } else { 1 };
                self.shop.receive(product, (wanted / share).max(1))
            });
        let customers: BTreeSet<&str> = self.orders.iter().map(Order::customer).collect();
        let contacts = customers.iter().map(|customer| async move {
            let contact = json!({"name": customer, "email": books::address(customer)});
            let to = format!("recipient/{customer}");
            self.shop.accepted(&to, "SetContact", contact).await
        });
        in_lanes(goods).await?;
        in_lanes(contacts).await?;
        self.say(&format!(
            "{} products, {} customers",
            wanted.len(),
            customers.len()
        ));
        Ok(())
    }

    /// Places every order; one of seven cancels an earlier one, or one that comes yet, and one of five ships an earlier one.
    async fn place(&self) -> Result<()> {
        let each = self
            .orders
            .iter()
            .enumerate()
            .map(|(number, order)| async move {
                self.shop
                    .accepted(
                        &format!("order/{}", order.id),
                        "PlaceOrder",
                        order.command.clone(),
                    )
                    .await?;
                if number % 7 == 0 {
                    let earlier = &self.orders[roll(number + 1)].id;
                    let status = self.shop.cancel(earlier).await?;
                    // It may have been cancelled for another reason, or not be there yet.
                    ensure!([201, 422].contains(&status), "{earlier}: {status}");
                }
                if number % 5 == 0 {
                    let earlier = &self.orders[roll(number + 1)].id;
                    // It may not be confirmed.
                    let status = self.shop.ship(earlier).await?;
                    ensure!([201, 422].contains(&status), "{earlier}: {status}");
                }
                Ok(())
            });
        in_lanes(each).await?;
        self.say("all orders are placed");
        Ok(())
    }

    /// Ships one of nine of those that are confirmed and rest.
    async fn ship(&self) -> Result<()> {
        let orders = self.orders.len() as i64;
        let statuses = self.shop.settled(orders).await?;
        let confirmed = statuses.iter().filter(|(_, status)| *status == "confirmed");
        let parcels = confirmed.step_by(9).map(|(order, _)| async move {
            let status = self.shop.ship(order).await?;
            // By the number that a command goes by it may have been refused before, when it was too early.
            ensure!([201, 422].contains(&status), "{order}: {status}");
            Ok(())
        });
        in_lanes(parcels).await
    }

    async fn kill(&self, kills: usize, roles: &mut [Option<Process>]) -> Result<Interrupted> {
        let events = "SELECT count(*) FROM views.event_log";
        let apart = (self.orders.len() as i64 * EVENTS_PER_ORDER / kills.max(1) as i64).max(40);
        let (mut seen, mut away, mut interrupted) = (0, 0, Interrupted::new());
        for blow in 0..kills {
            // The first kill of each role and of the broker is certain, the others come by chance; the broker is not killed so
            // often that nothing else happens.
            let index = match blow {
                certain if certain <= ROLES.len() => certain,
                _ if away < AWAY_MAX => roll(ROLES.len() + 1),
                _ => roll(ROLES.len()),
            };
            // Something must have happened before the next one.
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(20) {
                let now = self.shop.world.number(events).await.unwrap_or(seen);
                if now > seen + apart {
                    seen = now;
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            if index == ROLES.len() {
                away += 1;
                self.say(&format!("blow {}: kafka, at {seen} events", blow + 1));
                let servers = &self.shop.world.servers;
                tokio::task::block_in_place(|| servers.kill(Server::Kafka))?;
                tokio::time::sleep(AWAY).await;
                tokio::task::block_in_place(|| servers.restart())?;
                self.say("kafka is back");
                continue;
            }
            // Dropped is killed; its port is free for the next one.
            roles[index] = None;
            if ROLES[index] == "processors" {
                interrupted.extend(self.calls_under_way().await?);
            }
            roles[index] = Some(self.shop.role(ROLES[index])?);
            self.say(&format!(
                "blow {}: {}, at {seen} events",
                blow + 1,
                ROLES[index]
            ));
        }
        Ok(interrupted)
    }

    /// Mails that somebody began to send and nobody has recorded the end of; nobody is there to go on with them.
    async fn calls_under_way(&self) -> Result<Vec<(Uuid, i32)>> {
        let mut views = PgConnection::connect(self.shop.world.servers.views_database_url()).await?;
        let sql = "SELECT event_id, calls FROM millrace_effects.calls WHERE effect = 'email' AND state = 'calling'";
        Ok(sqlx::query_as(sql).fetch_all(&mut views).await?)
    }
}

/// Runs all of them, a few at a time.
async fn in_lanes<F: Future<Output = Result<()>>>(each: impl Iterator<Item = F>) -> Result<()> {
    futures::stream::iter(each)
        .buffer_unordered(LANES)
        .try_collect()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn money_stock_and_mails_add_up_and_no_order_is_stuck_whatever_is_killed() -> Result<()> {
    let plan = Plan::read()?;
    let storm = Storm::open(&plan).await?;
    let mut roles = Vec::new();
    for role in ROLES {
        roles.push(Some(storm.shop.role(role)?));
    }
    for role in roles.iter_mut().flatten() {
        role.ready().await?;
    }
    storm.prepare().await?;
    let ((), interrupted) = try_join(storm.place(), storm.kill(plan.kills, &mut roles)).await?;
    for role in roles.iter_mut().flatten() {
        role.ready().await?;
    }
    storm.settle(LONG).await?;
    storm.ship().await?;
    storm.settle(LONG).await?;
    storm.shop.world.until_caught_up().await?;
    storm.goods_and_money().await?;
    storm.mails(&interrupted).await?;
    storm.topics().await?;
    for role in roles.into_iter().flatten() {
        role.stop().await?;
    }
    storm.everything_again(&interrupted).await
}
