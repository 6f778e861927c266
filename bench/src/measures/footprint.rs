//! What the roles cost that do nothing yet, and what they hold after work: start and memory.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use uuid::Uuid;

use crate::cpu::resident_mb;
use crate::figure::Figure;
use crate::http::Client;
use crate::load;
use crate::role::Role;
use crate::world::{World, count};

const VISIBLE_WITHIN: Duration = Duration::from_secs(180);
/// Short, because every order placed leads to reservations and these to further events.
const LOAD_TIME: Duration = Duration::from_secs(1);
/// No new event for so long, and the processors have done what they had to.
const QUIET: Duration = Duration::from_secs(1);

/// From a process's start until it says that it is ready, with the servers up and the tables there.
pub(crate) async fn start_run(world: &World) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    // Topics, tables and schemas are made by the first start of all, which is not the one that is measured.
    Role::start(world, "up").await?.stop().await?;
    for name in ["producer", "processors", "projections", "up"] {
        let role = Role::start(world, name).await?;
        let ready_after = role.ready_after.as_secs_f64();
        figures.push(Figure::new(format!("start-{name}"), "s", ready_after));
        role.stop().await?;
    }
    Ok(figures)
}

/// Resident memory of each role after a load of commands by 64 callers, when all that it led to is in the views.
pub(crate) async fn memory_run(world: &World) -> Result<Vec<Figure>> {
    let producer = Role::start(world, "producer").await?;
    let projections = Role::start(world, "projections").await?;
    let processors = Role::start(world, "processors").await?;
    let prefix = Uuid::now_v7().simple().to_string();
    load::drive(&prefix, 64, LOAD_TIME, async |_| {
        Client::connect(&producer.listen).await
    })
    .await?;
    settled(world).await?;
    let mut figures = Vec::new();
    for (name, role) in [
        ("producer", &producer),
        ("projections", &projections),
        ("processors", &processors),
    ] {
        let memory = resident_mb(role.pid());
        let (now, most) = memory.with_context(|| format!("{name} has ended"))?;
        figures.push(Figure::new(format!("memory-{name}"), "MB", now));
        figures.push(Figure::new(format!("memory-{name}-most"), "MB", most));
    }
    processors.stop().await?;
    projections.stop().await?;
    producer.stop().await?;
    Ok(figures)
}

/// Waits until the view of all events holds what the journal holds, and nothing more comes for a while.
async fn settled(world: &World) -> Result<()> {
    let begun = Instant::now();
    let mut quiet_since = (0, Instant::now());
    loop {
        // In this order: what came in between the two looks is missing in the view, never in the journal.
        let view = "SELECT count(*) FROM views.event_log";
        let seen = count(world.servers.views_database_url(), view).await?;
        let journal = "SELECT count(*) FROM millrace.events";
        let events = count(world.servers.database_url(), journal).await?;
        if seen != events || quiet_since.0 != events {
            quiet_since = (events, Instant::now());
        } else if quiet_since.1.elapsed() > QUIET {
            return Ok(());
        }
        ensure!(
            seen <= events && begun.elapsed() < VISIBLE_WITHIN,
            "{events} events in the journal, {seen} in the view event_log"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
