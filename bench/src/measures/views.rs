//! The live sinks of a fold and of a tally, and a rebuild, each from a filled topic into a database of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use millrace::config::{Secret, ViewsConfig};
use millrace::projection::sink::{Sink, SinkConfig, SinkOptions};
use millrace::projection::{Decoder, Projector, fold, tally};
use millrace::rebuild::{self, Builder, RebuildConfig, Work};
use projections::views::customer_totals::CustomerTotals;
use projections::views::orders::Orders;
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::cpu::CpuPerEvent;
use crate::figure::Figure;
use crate::measures::elsewhere::Elsewhere;
use crate::raw;
use crate::world::{World, count, settings};

const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) async fn fold_run(world: &World) -> Result<Vec<Figure>> {
    let stage = Stage::new(world, fold(Orders).into()).await?;
    let ceiling = stage.ceiling().await?;
    let (rate, cpu) = stage.catch_up().await?;
    stage.verify_orders().await?;
    let figure = Figure::new("fold", "events/s", rate);
    Ok(vec![figure.beside(ceiling).costing(cpu)])
}

pub(crate) async fn tally_run(world: &World) -> Result<Vec<Figure>> {
    let stage = Stage::new(world, tally(CustomerTotals).into()).await?;
    let ceiling = stage.ceiling().await?;
    let (rate, cpu) = stage.catch_up().await?;
    let orders = world.filled().await?.orders as i64;
    let counted = count(
        &stage.url,
        "SELECT sum(orders)::bigint FROM views.customer_totals",
    );
    let counted = counted.await?;
    ensure!(counted == orders, "tally: {counted} orders, not {orders}");
    let figure = Figure::new("tally", "events/s", rate);
    Ok(vec![figure.beside(ceiling).costing(cpu)])
}

pub(crate) async fn rebuild_run(world: &World) -> Result<Vec<Figure>> {
    let filled = world.filled().await?;
    let (kafka, topic) = (world.kafka.clone(), filled.topic.clone());
    let consumed = tokio::task::spawn_blocking(move || raw::consume(&kafka, &topic));
    let (held, ceiling) = consumed.await??;
    ensure!(
        held == filled.events,
        "{} events sent, {} holds {held}",
        filled.events,
        filled.topic
    );
    let stage = Stage::new(world, fold(Orders).into()).await?;
    stage.catch_up().await?;
    let config = RebuildConfig {
        claims_timeout: Duration::ZERO,
        ..RebuildConfig::new(world.kafka.clone(), stage.views.clone())
    };
    let builder = Builder::new(config, stage.projector.clone(), stage.decoder.clone());
    let mut connection = PgConnection::connect(&stage.url).await?;
    rebuild::ask(&mut connection, stage.projector.name()).await?;
    let (started, meter) = (Instant::now(), world.meter(&[]));
    // The whole of it: creating the tables, reading, writing, and swapping them in.
    let work = builder.once(&CancellationToken::new()).await?;
    let elapsed = started.elapsed();
    let cpu = meter.per_event(filled.events as u64);
    ensure!(work == Work::Done, "rebuild: nothing was built");
    let open = count(
        &stage.url,
        "SELECT count(*) FROM millrace_views.resets WHERE done_at IS NULL",
    );
    ensure!(open.await? == 0, "rebuild: a reset is still open");
    stage.verify_orders().await?;
    let rate = filled.events as f64 / elapsed.as_secs_f64();
    let figure = Figure::new("rebuild", "events/s", rate);
    Ok(vec![figure.beside(ceiling).costing(cpu)])
}

/// A view with a database of its own.
struct Stage<'w> {
    world: &'w World,
    url: String,
    views: ViewsConfig,
    projector: Arc<dyn Projector>,
    decoder: Decoder,
}

impl<'w> Stage<'w> {
    async fn new(world: &'w World, projector: Arc<dyn Projector>) -> Result<Self> {
        let filled = world.filled().await?;
        let url = world.servers.fresh_database("views").await?;
        Ok(Self {
            world,
            views: ViewsConfig {
                views_database_url: Secret::from(url.as_str()),
            },
            url,
            projector: Arc::new(Elsewhere::new(projector, &filled.topic)),
            decoder: Decoder::of(world.registry(None).await?),
        })
    }

    /// As many rows as events, by UNNEST alone, in transactions as large as the sink's.
    async fn ceiling(&self) -> Result<f64> {
        let batch = settings::<SinkOptions>().view_batch_records as usize;
        raw::unnest_orders(&self.url, self.world.scale.events, batch).await
    }

    /// Runs the sink until it has applied every event of the topic: events a second from its first batch on.
    async fn catch_up(&self) -> Result<(f64, CpuPerEvent)> {
        let events = self.world.filled().await?.events as u64;
        let config = SinkConfig {
            kafka: self.world.kafka.clone(),
            views: self.views.clone(),
            options: settings(),
        };
        let sink = Sink::start(config, self.projector.clone(), self.decoder.clone()).await?;
        let asked = Instant::now();
        let mut first = None;
        loop {
            let report = sink.health();
            if report.applied > 0 && first.is_none() {
                first = Some((report.applied, Instant::now(), self.world.meter(&[])));
            }
            if report.applied >= events {
                break;
            }
            if asked.elapsed() > DEADLINE || !report.healthy {
                bail!("the sink got no further than {report:?}");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let Some((already, started, meter)) = first else {
            bail!("the sink applied nothing");
        };
        let applied = events - already;
        let rate = applied as f64 / started.elapsed().as_secs_f64();
        let cpu = meter.per_event(applied);
        sink.stop().await?;
        Ok((rate, cpu))
    }

    async fn verify_orders(&self) -> Result<()> {
        let orders = self.world.filled().await?.orders as i64;
        let sql = "SELECT count(*) FROM views.orders WHERE status = 'delivered' AND version = 4";
        let delivered = count(&self.url, sql).await?;
        ensure!(
            delivered == orders,
            "the view has {delivered} delivered orders, not {orders}"
        );
        Ok(())
    }
}
