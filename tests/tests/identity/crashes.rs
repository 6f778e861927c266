//! Registrations while producer and processors are killed at random: each ends, completed or refused, and as a whole.
//!
//! The producer holds the writers, the relay, the timers and the intake of commands; the processors hold the steps between
//! the aggregates. A kill of either falls between any two durable steps of some registration.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures::future::try_join_all;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tests::dice::Dice;

use super::{PASSWORD, Town};

/// Each address is wanted by this many.
const RIVALS: usize = 3;
const ADDRESSES: usize = 40;
const KILLS: u64 = 8;
/// Whoever was on the way at the last kill can still complete, also on a busy machine: with 20 s it once was none of them. Running out
/// of time at any step is what `schedules` goes through.
const TIMEOUT_MS: &str = "60000";
/// All has settled long before.
const SETTLES_WITHIN: Duration = Duration::from_secs(180);

/// The body of a registration. One in five names a user id that is another registration's.
fn body(number: usize) -> Value {
    let address = number % ADDRESSES;
    let mut body = json!({"registration_id": format!("r{number}"), "password": PASSWORD,
        "tenant_id": format!("t{}", address % 10), "email": format!("u{address}@example.com"),
        "first_name": "Ada", "last_name": "Lovelace"});
    if number % 5 == 4 {
        body["user_id"] = json!(format!("r{}", number - 4));
    }
    body
}

/// Asks until it is accepted, whatever is killed meanwhile.
async fn insist(town: &Town, body: &Value) -> Result<()> {
    let begun = Instant::now();
    loop {
        match town.post("/identity/registrations", body).await {
            Ok((status, _)) if status == 202 => return Ok(()),
            Ok((status, answer)) if status.is_client_error() => bail!("{status} {answer}"),
            _ if begun.elapsed() > SETTLES_WITHIN => bail!("{body} was never accepted"),
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// What each registration has by now, as the journal tells it.
struct Facts {
    /// How each ended, for those that have.
    ended: BTreeMap<String, String>,
    /// Registrations whose user is there and not deactivated, with tenant and address.
    live: BTreeMap<String, String>,
    /// Registrations that have an address.
    claims: BTreeSet<String>,
    /// Those whose workspace is open.
    workspaces: BTreeSet<String>,
    /// Tenants that nobody but one registration rests on, with that registration.
    tenants: BTreeMap<String, String>,
    /// How many hashes each has.
    credentials: BTreeMap<String, usize>,
}

impl Facts {
    /// From the view of all events, which holds them as they were written.
    async fn read(town: &Town) -> Result<Self> {
        let mut views = PgConnection::connect(town.world.servers.views_database_url()).await?;
        let events: Vec<(String, String, Value)> = sqlx::query_as(
            "SELECT aggregate_id, event_type, data FROM views.event_log
             ORDER BY aggregate, aggregate_id, sequence",
        )
        .fetch_all(&mut views)
        .await?;
        let mut facts = Self {
            ended: BTreeMap::new(),
            live: BTreeMap::new(),
            claims: BTreeSet::new(),
            workspaces: BTreeSet::new(),
            tenants: BTreeMap::new(),
            credentials: BTreeMap::new(),
        };
        for (id, kind, data) in events {
            facts.take(id, &kind, &data);
        }
        let mut journal = PgConnection::connect(town.world.servers.database_url()).await?;
        let credentials: Vec<String> =
            sqlx::query_scalar("SELECT registration_id FROM identity.credentials")
                .fetch_all(&mut journal)
                .await?;
        for id in credentials {
            *facts.credentials.entry(id).or_default() += 1;
        }
        Ok(facts)
    }

    fn take(&mut self, id: String, kind: &str, data: &Value) {
        let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
        let registration = text("registration_id");
        match kind {
            "RegistrationCompleted" => {
                self.ended.insert(id, "completed".to_owned());
            }
            "RegistrationRefused" => {
                assert_ne!(text("reason"), "", "{id} was refused without a reason");
                self.ended.insert(id, text("step"));
            }
            "UserRegistered" => {
                let address = format!("{} {}", text("tenant_id"), text("email"));
                self.live.insert(registration, address);
            }
            "UserDeactivated" => {
                self.live.remove(&registration);
            }
            "EmailClaimed" => {
                self.claims.insert(registration);
            }
            "EmailReleased" => {
                self.claims.remove(&registration);
            }
            "WorkspaceCreated" => {
                self.workspaces.insert(id);
            }
            "WorkspaceDeactivated" => {
                self.workspaces.remove(&id);
            }
            "TenantCreated" => {
                self.tenants.insert(id, registration);
            }
            "TenantWithdrawn" => {
                self.tenants.remove(&id);
            }
            "TenantAdmittedRegistration" if data["tenant_created"] == false => {
                self.tenants.remove(&id);
            }
            _ => {}
        }
    }

    /// What is not as it should be when all has settled.
    fn faults(&self, registrations: usize) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |wrong: bool, what: String| {
            if wrong {
                faults.push(what);
            }
        };
        for number in 0..registrations {
            let id = format!("r{number}");
            let Some(end) = self.ended.get(&id) else {
                fault(true, format!("{id} has not ended"));
                continue;
            };
            let completed = end == "completed";
            for (what, has) in [
                ("a user", self.live.contains_key(&id)),
                ("an address", self.claims.contains(&id)),
                ("a workspace", self.workspaces.contains(&id)),
            ] {
                fault(has != completed, format!("{id}: {end}; {what}: {has}"));
            }
            let hashes = self.credentials.get(&id).copied().unwrap_or_default();
            let wrong = hashes != usize::from(completed);
            fault(wrong, format!("{id}: {end}; hashes: {hashes}"));
            let tenant = self.tenants.values().any(|by| *by == id);
            fault(
                !completed && tenant,
                format!("{id}: {end}; its tenant is there"),
            );
        }
        let addresses: BTreeSet<&String> = self.live.values().collect();
        let twice = self.live.len() - addresses.len();
        fault(twice > 0, format!("{twice} addresses have two users"));
        faults
    }
}

/// Waits until all is as it should be.
async fn settled(town: &Town, registrations: usize) -> Result<Facts> {
    let begun = Instant::now();
    loop {
        let facts = Facts::read(town).await?;
        let faults = facts.faults(registrations);
        if faults.is_empty() {
            return Ok(facts);
        }
        if begun.elapsed() > SETTLES_WITHIN {
            bail!("{faults:#?}\n{}", town.world.logs());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_registration_ends_whole_or_not_at_all_while_producer_and_processors_are_killed()
-> Result<()> {
    let town = Town::open()?;
    let environment = [("REGISTRATION_TIMEOUT_MS", TIMEOUT_MS)];
    let mut producer = Some(town.world.producer_with(&environment)?);
    let mut processors = Some(town.world.processors()?);
    let mut projections = town.world.projections("")?;
    for role in [&mut producer, &mut processors].into_iter().flatten() {
        role.ready().await?;
    }
    projections.ready().await?;

    let registrations = RIVALS * ADDRESSES;
    let killing = AtomicBool::new(true);
    let register = async {
        let mut number = 0;
        // A dozen at a time, so that some are on their way at every kill.
        while number < registrations {
            let batch: Vec<Value> = (number..registrations.min(number + 12)).map(body).collect();
            try_join_all(batch.iter().map(|body| insist(&town, body))).await?;
            number += batch.len();
        }
        let begun_again = body(0);
        while killing.load(Ordering::Relaxed) {
            // Repeated under its id for as long as there are kills: it begins once.
            insist(&town, &begun_again).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    let kill = async {
        let mut dice = Dice::new(20_260_311);
        for _ in 0..KILLS {
            // The moment is the very thing that is random; nothing is waited for.
            tokio::time::sleep(Duration::from_millis(500 + dice.roll(3_500))).await;
            let which = dice.roll(3);
            if which != 1 {
                drop(producer.take());
                producer = Some(town.world.producer_with(&environment)?);
            }
            if which != 0 {
                drop(processors.take());
                processors = Some(town.world.processors()?);
            }
        }
        killing.store(false, Ordering::Relaxed);
        Ok::<_, anyhow::Error>(())
    };
    tokio::try_join!(register, kill)?;
    let facts = settled(&town, registrations).await?;
    let mut ends: BTreeMap<&str, usize> = BTreeMap::new();
    for end in facts.ended.values() {
        *ends.entry(end).or_default() += 1;
    }
    println!("{KILLS} kills: {ends:?}");
    let completed = ends.get("completed").copied().unwrap_or_default();
    assert!(completed > ADDRESSES / 2, "{ends:?}");

    // Whoever is refused may come again, and one more that passes through all partitions' queues finds all settled.
    let last = json!({"registration_id": "last", "password": PASSWORD, "tenant_id": "t0",
                      "email": "last@example.com", "first_name": "Last", "last_name": ""});
    insist(&town, &last).await?;
    town.ended("last", "completed").await?;
    let faults = settled(&town, registrations).await?.faults(registrations);
    assert_eq!(faults, Vec::<String>::new());
    for role in [producer, processors].into_iter().flatten() {
        role.stop().await?;
    }
    projections.stop().await
}
