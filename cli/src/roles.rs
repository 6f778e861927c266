//! The roles: all in one process on one port, or each alone.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use millrace::command::WriteConfig;
use millrace::command::inbox::InboxOptions;
use millrace::config::{Chosen, JournalConfig, KafkaConfig, RegistryConfig, ViewsConfig};
use millrace::effect::EffectOptions;
use millrace::http::api::{Api, Operation};
use millrace::http::forward;
use millrace::http::health::Health;
use millrace::http::openapi::About;
use millrace::http::server::{Routes, serve};
use millrace::processor::ProcessorOptions;
use millrace::projection::sink::SinkOptions;
use millrace::relay::RelayConfig;
use millrace::replay::{self, Replays};
use processors::ProcessorsConfig;
use processors::effects::EffectSettings;
use producer::ProducerConfig;
use producer::aggregates::identity::registration::RegistrationOptions;
use producer::aggregates::order::OrderOptions;
use producer::aggregates::order_saga::SagaOptions;
use producer::aggregates::payment::PaymentOptions;
use projections::ProjectionsConfig;
use sqlx::postgres::PgPoolOptions;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::stats;

/// What the OpenAPI document of every role says of itself.
const ABOUT: About = About {
    title: "Millrace",
    version: env!("CARGO_PKG_VERSION"),
    says: "The routes that this process serves. Errors are problem details (RFC 9457).",
};

/// What the projections serve; a producer alone passes it on.
fn reads() -> Vec<Operation> {
    let mut all = projections::operations();
    all.push(stats::operation());
    all.extend(replay::http::operations());
    all
}

/// Where a process listens and how it ends.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ServeArgs {
    /// Address to listen on.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// How long work in flight may take after SIGTERM.
    #[arg(long, env = "DRAIN_TIMEOUT_MS", default_value_t = 10_000)]
    drain_timeout_ms: u64,
}

/// Runs all roles in this process.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    kafka: KafkaConfig,
    #[command(flatten)]
    registry: RegistryConfig,
    #[command(flatten)]
    journal: JournalConfig,
    #[command(flatten)]
    views: ViewsConfig,
    #[command(flatten)]
    write: WriteConfig,
    #[command(flatten)]
    inbox: InboxOptions,
    #[command(flatten)]
    relay: RelayConfig,
    #[command(flatten)]
    orders: OrderOptions,
    #[command(flatten)]
    registrations: RegistrationOptions,
    #[command(flatten)]
    payments: PaymentOptions,
    #[command(flatten)]
    sagas: SagaOptions,
    #[command(flatten)]
    processors: ProcessorOptions,
    #[command(flatten)]
    effect_options: EffectOptions,
    #[command(flatten)]
    effects: EffectSettings,
    #[command(flatten)]
    sink: SinkOptions,
    #[command(flatten)]
    chosen: Chosen,
}

/// Runs the producer alone: commands and the relay.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ProducerArgs {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    producer: ProducerConfig,
    /// Where the projections listen: reads are passed on to them.
    #[arg(long, env = "PROJECTIONS_URL")]
    projections_url: Option<String>,
}

/// Runs the processors alone: what events lead to.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ProcessorsArgs {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    processors: ProcessorsConfig,
}

/// Runs the projections alone: views and the queries over them.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ProjectionsArgs {
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    projections: ProjectionsConfig,
}

/// What runs in this process.
#[derive(Default)]
struct Running {
    api: Api,
    roles: Vec<(&'static str, JoinHandle<anyhow::Result<()>>)>,
}

impl Running {
    async fn producer(
        &mut self,
        config: ProducerConfig,
        health: &Health,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        if let Some(started) = producer::start(config, health, shutdown.clone()).await? {
            self.api = std::mem::take(&mut self.api).merge(started.api);
            let done = tokio::spawn(async move { Ok(started.done.await??) });
            self.roles.push(("producer", done));
        }
        Ok(())
    }

    async fn processors(
        &mut self,
        config: ProcessorsConfig,
        health: &Health,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        if let Some(started) = processors::start(config, health, shutdown.clone()).await? {
            self.api = std::mem::take(&mut self.api).merge(started.api);
            let done = tokio::spawn(async move { Ok(started.done.await??) });
            self.roles.push(("processors", done));
        }
        Ok(())
    }

    async fn projections(
        &mut self,
        config: ProjectionsConfig,
        health: &Health,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let stats = stats::api(config.kafka.clone(), &config.views)?;
        let replays = replays(config.kafka.clone(), &config.views)?;
        if let Some(started) = projections::start(config, health, shutdown.clone()).await? {
            let api = std::mem::take(&mut self.api).merge(started.api);
            self.api = api.merge(stats).merge(replay::http::api(replays.clone()));
            tokio::spawn(replays.run(shutdown.clone()));
            let done = tokio::spawn(async move { Ok(started.done.await??) });
            self.roles.push(("projections", done));
        }
        Ok(())
    }
}

/// Replays over all views, processors and effects.
fn replays(kafka: KafkaConfig, views: &ViewsConfig) -> anyhow::Result<Replays> {
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .acquire_timeout(Duration::from_secs(5))
        .connect_lazy(views.views_database_url.expose())?;
    let topology = processors::topology();
    Ok(Replays::new(
        kafka,
        pool,
        topology.handlers(),
        schemas::all(),
    ))
}

/// `millrace up`.
pub(crate) async fn up(args: UpArgs) -> anyhow::Result<ExitCode> {
    let producer = ProducerConfig {
        kafka: args.kafka.clone(),
        registry: args.registry.clone(),
        journal: args.journal.clone(),
        write: args.write,
        inbox: args.inbox,
        relay: args.relay,
        orders: args.orders,
        registrations: args.registrations,
        payments: args.payments,
        sagas: args.sagas,
        chosen: args.chosen.clone(),
    };
    let processors = ProcessorsConfig {
        kafka: args.kafka.clone(),
        registry: args.registry.clone(),
        journal: args.journal.clone(),
        options: args.processors,
        views: args.views.clone(),
        effect_options: args.effect_options,
        effects: args.effects,
        chosen: args.chosen.clone(),
    };
    let projections = ProjectionsConfig {
        kafka: args.kafka,
        registry: args.registry,
        journal: args.journal,
        views: args.views,
        sink: args.sink,
        chosen: args.chosen,
    };
    // A setting that is missing is said at once, not after the servers have been waited for.
    processors::effects::effects(&processors.effects)?;
    run(args.serve, async |health, shutdown| {
        let mut running = Running::default();
        running.producer(producer, health, shutdown).await?;
        running.processors(processors, health, shutdown).await?;
        running.projections(projections, health, shutdown).await?;
        Ok(running)
    })
    .await
}

/// `millrace producer`.
pub(crate) async fn producer(args: ProducerArgs) -> anyhow::Result<ExitCode> {
    run(args.serve, async |health, shutdown| {
        let mut running = Running::default();
        running.producer(args.producer, health, shutdown).await?;
        if let Some(url) = &args.projections_url {
            running.api = running.api.merge(forward::api(url, reads())?);
        }
        Ok(running)
    })
    .await
}

/// `millrace processors`.
pub(crate) async fn processors(args: ProcessorsArgs) -> anyhow::Result<ExitCode> {
    run(args.serve, async |health, shutdown| {
        let mut running = Running::default();
        running
            .processors(args.processors, health, shutdown)
            .await?;
        Ok(running)
    })
    .await
}

/// `millrace projections`.
pub(crate) async fn projections(args: ProjectionsArgs) -> anyhow::Result<ExitCode> {
    run(args.serve, async |health, shutdown| {
        let mut running = Running::default();
        running
            .projections(args.projections, health, shutdown)
            .await?;
        Ok(running)
    })
    .await
}

/// Listens at once, opens the routes when the roles have started, and drains them on SIGTERM or Ctrl-C.
async fn run(
    args: ServeArgs,
    start: impl AsyncFnOnce(&Health, &CancellationToken) -> anyhow::Result<Running>,
) -> anyhow::Result<ExitCode> {
    let listener = TcpListener::bind(args.listen).await.with_context(|| {
        format!(
            "cannot listen on {}: set LISTEN to a free address",
            args.listen
        )
    })?;
    millrace::telemetry::install().context("metrics")?;
    let shutdown = CancellationToken::new();
    tokio::spawn(watch_signals(shutdown.clone())?);
    let health = Health::default();
    let routes = Routes::new(&health);
    let server = tokio::spawn({
        let (health, routes, shutdown) = (health.clone(), routes.clone(), shutdown.clone());
        async move { serve(listener, &health, routes, shutdown).await }
    });
    tracing::info!(listen = %args.listen, "listening");
    let running = start(&health, &shutdown).await?;
    routes.open(running.api, &ABOUT);
    let mut roles = JoinSet::new();
    for (name, done) in running.roles {
        roles.spawn(async move { done.await?.with_context(|| format!("the {name} stopped")) });
    }
    let first = tokio::select! {
        () = shutdown.cancelled() => None,
        ended = roles.join_next() => ended,
    };
    shutdown.cancel();
    let mut result = first.map_or(Ok(()), |ended| ended?);
    let drained = tokio::time::timeout(Duration::from_millis(args.drain_timeout_ms), async {
        while let Some(ended) = roles.join_next().await {
            let ended: anyhow::Result<()> = ended?;
            result = std::mem::replace(&mut result, Ok(())).and(ended);
        }
        server.await??;
        Ok::<_, anyhow::Error>(())
    });
    match drained.await {
        Ok(ended) => ended?,
        Err(_) => tracing::warn!(
            timeout_ms = args.drain_timeout_ms,
            "work in flight did not end in time; what was not acknowledged is settled by the next start"
        ),
    }
    result?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The first signal drains, the second one ends the process at once.
fn watch_signals(shutdown: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        for attempt in 0.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if attempt > 0 {
                std::process::exit(130);
            }
            tracing::info!("draining; a second signal ends at once");
            shutdown.cancel();
        }
    })
}
