//! Durable commands in process: decided, appended and acknowledged, without HTTP and without a relay.

use anyhow::{Context, Result, ensure};
use millrace::command::Commands;

use crate::figure::Figure;
use crate::load::{self, Sender, Turn};
use crate::world::{World, count};
use crate::{orders, raw};

struct InProcess {
    commands: Commands,
    keyed: bool,
}

impl Sender for InProcess {
    async fn send(&mut self, turn: &Turn) -> Result<()> {
        let envelope = orders::envelope(&turn.id, turn.step, turn.number, self.keyed);
        self.commands.node("order")?.handle(envelope).await?;
        Ok(())
    }
}

/// With `keyed`, every outcome is kept under an id that the caller gave: what idempotency costs.
pub(crate) async fn run(world: &World, callers: usize, keyed: bool) -> Result<Vec<Figure>> {
    let raw_url = world.servers.fresh_database("raw").await?;
    let ceiling = raw::insert_commits(&raw_url, callers, world.scale.load_time).await?;
    let name = match keyed {
        true => format!("commands-keyed-{callers}"),
        false => format!("commands-{callers}"),
    };
    let url = world.servers.fresh_database("commands").await?;
    let commands = world.write_side(&url).await?;
    let meter = world.meter(&[]);
    let done = load::drive("order", callers, world.scale.load_time, async |_| {
        let commands = commands.clone();
        Ok(InProcess { commands, keyed })
    })
    .await
    .with_context(|| name.clone())?;
    let cpu = meter.per_event(done.total);
    let events = count(&url, "SELECT count(*) FROM millrace.events").await?;
    ensure!(
        events == done.total as i64,
        "{name}: {} commands were accepted, the journal holds {events} events",
        done.total
    );
    let versions = count(&url, "SELECT sum(version)::bigint FROM millrace.streams").await?;
    ensure!(
        versions == events,
        "{name}: {events} events, but the streams' versions add up to {versions}"
    );
    Ok(vec![
        Figure::new(&name, "commands/s", done.per_s)
            .beside(ceiling)
            .costing(cpu),
        Figure::new(format!("{name}-p50"), "ms", done.p50_ms),
        Figure::new(format!("{name}-p99"), "ms", done.p99_ms),
    ])
}
