//! Durable commands over HTTP: the producer as a process of its own, its relay at work beside it.

use anyhow::{Context, Result, ensure};
use uuid::Uuid;

use crate::figure::Figure;
use crate::http::Client;
use crate::role::Role;
use crate::world::{World, count};
use crate::{load, raw};

const EVENTS: &str = "SELECT count(*) FROM millrace.events";

pub(crate) async fn run(world: &World, callers: usize) -> Result<Vec<Figure>> {
    let raw_url = world.servers.fresh_database("raw").await?;
    let ceiling = raw::insert_commits(&raw_url, callers, world.scale.load_time).await?;
    let producer = Role::start(world, "producer").await?;
    let url = world.servers.database_url();
    let before = count(url, EVENTS).await?;
    let meter = world.meter(&[producer.pid()]);
    let prefix = Uuid::now_v7().simple().to_string();
    let done = load::drive(&prefix, callers, world.scale.load_time, async |_| {
        Client::connect(&producer.listen).await
    })
    .await
    .with_context(|| format!("{callers} callers"))?;
    let cpu = meter.per_event(done.total);
    let events = count(url, EVENTS).await? - before;
    ensure!(
        events == done.total as i64,
        "{} commands were accepted, the journal gained {events} events",
        done.total
    );
    producer.stop().await?;
    let name = format!("http-{callers}");
    Ok(vec![
        Figure::new(&name, "commands/s", done.per_s)
            .beside(ceiling)
            .costing(cpu),
        Figure::new(format!("{name}-p50"), "ms", done.p50_ms),
        Figure::new(format!("{name}-p99"), "ms", done.p99_ms),
    ])
}
