//! Read side of the reference system: the views, and the sinks that keep them up to date.

pub mod queries;
pub mod views;

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use millrace::config::{
    Chosen, JournalConfig, KafkaConfig, NobodyNamed, RegistryConfig, ViewsConfig, chosen,
};
use millrace::http::api::{Api, Operation};
use millrace::http::health::{Component, Health};
use millrace::http::reads;
use millrace::journal::{self, JournalError};
use millrace::log::topics::{self, Kind, Topic, TopicError};
use millrace::projection::sink::{Sink, SinkConfig, SinkError, SinkOptions};
use millrace::projection::{Decoder, Projector, fold, sql_projection, tally};
use millrace::query::QueryBus;
use millrace::rebuild::{self, RebuildConfig};
use millrace::registry::{RecordKind, Registry, RegistryError};
use millrace::startup::wait_for;
use millrace::telemetry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use views::identity::{
    registrations::Registrations, tenants::Tenants, users::Users,
    workspace_members::WorkspaceMembers, workspaces::Workspaces,
};
use views::{
    customer_totals::CustomerTotals, event_log::EventLog, notifications::Notifications,
    orders::Orders, payments::Payments, products::Products, saga_instances::SagaInstances,
    saga_steps::SagaSteps, sales_digests::SalesDigests, stock::Stock,
};

/// Sinks that make their tables side by side at a start; each has a session with Postgres.
const STARTS_MAX: usize = 4;

/// Every view; a new one is a line here.
pub fn projections() -> Vec<Arc<dyn Projector>> {
    vec![
        fold(Orders).into(),
        fold(Stock).into(),
        tally(CustomerTotals).into(),
        sql_projection(EventLog).into(),
        fold(Notifications).into(),
        fold(Users).into(),
        fold(Tenants).into(),
        fold(Workspaces).into(),
        fold(WorkspaceMembers).into(),
        fold(Registrations).into(),
        fold(Payments).into(),
        fold(Products).into(),
        fold(SagaInstances).into(),
        fold(SagaSteps).into(),
        fold(SalesDigests).into(),
        fold(views::card_search::CardSearch).into(),
        sql_projection(views::library_activity::LibraryActivity).into(),
        sql_projection(views::recommendations::Recommendations).into(),
        tally(views::owner_statistics::OwnerStatistics).into(),
        fold(views::profiles::Profiles).into(),
    ]
}

/// Settings of the projections.
#[derive(Debug, Clone, clap::Args)]
pub struct ProjectionsConfig {
    /// Kafka.
    #[command(flatten)]
    pub kafka: KafkaConfig,
    /// Schema registry.
    #[command(flatten)]
    pub registry: RegistryConfig,
    /// Journal: only its copy of the schemas is read here, and only where it answers.
    #[command(flatten)]
    pub journal: JournalConfig,
    /// Postgres of the views.
    #[command(flatten)]
    pub views: ViewsConfig,
    /// Bounds of the sinks.
    #[command(flatten)]
    pub sink: SinkOptions,
    /// Which views are kept here.
    #[command(flatten)]
    pub chosen: Chosen,
}

/// Why the projections could not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ProjectionsError {
    /// DATABASE_URL cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The registry or a schema.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Kafka's topics.
    #[error(transparent)]
    Topics(#[from] TopicError),
    /// VIEWS_DATABASE_URL cannot be read.
    #[error("VIEWS_DATABASE_URL: {0}")]
    Url(sqlx::Error),
    /// A choice of views.
    #[error(transparent)]
    Chosen(#[from] NobodyNamed),
    /// A sink.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

/// Starts a sink for every view and runs them until shutdown; waits for servers that are away.
pub async fn run(
    config: ProjectionsConfig,
    health: &Health,
    shutdown: CancellationToken,
) -> Result<(), ProjectionsError> {
    match start(config, health, shutdown).await? {
        Some(started) => started
            .done
            .await
            .expect("the task neither panics nor is aborted"),
        None => Ok(()),
    }
}

/// Projections that keep their views up to date, rebuild them and answer queries.
pub struct Projections {
    /// The queries over HTTP.
    pub api: Api,
    /// Ends after shutdown, when every sink has drained, or when one has died.
    pub done: JoinHandle<Result<(), ProjectionsError>>,
}

/// What they serve, for a process that passes it on.
pub fn operations() -> Vec<Operation> {
    reads::operations(&queries::queries(), &queries::ALIASES)
}

/// The same, without waiting for the end. `None` at shutdown.
pub async fn start(
    config: ProjectionsConfig,
    health: &Health,
    shutdown: CancellationToken,
) -> Result<Option<Projections>, ProjectionsError> {
    let starting = health.component("projections");
    let journal = journal::reader(&config.journal)?;
    let registry = wait_for(&starting, &shutdown, || {
        Registry::open_reader(&config.registry, schemas::all(), journal.clone())
    });
    let Some(registry) = registry.await? else {
        return Ok(None);
    };
    let topics = topics();
    let ensured = wait_for(&starting, &shutdown, || {
        topics::ensure(&config.kafka, &topics)
    });
    if ensured.await?.is_none() {
        return Ok(None);
    }
    let decoder = Decoder::of(registry);
    let all = projections();
    let bus =
        QueryBus::open(&config.views, queries::queries(), &all).map_err(ProjectionsError::Url)?;
    let names = ("VIEWS", config.chosen.views.as_slice());
    let projectors = chosen(names, all, |one| one.name())?;
    let rebuilds = RebuildConfig {
        parked_max: config.sink.view_parked_max,
        ..RebuildConfig::new(config.kafka.clone(), config.views.clone())
    };
    let sink_config = SinkConfig {
        kafka: config.kafka,
        views: config.views,
        options: config.sink,
    };
    let started = stream::iter(&projectors)
        .map(|projector| {
            let start = || Sink::start(sink_config.clone(), projector.clone(), decoder.clone());
            wait_for(&starting, &shutdown, start)
        })
        .buffered(STARTS_MAX);
    let started: Vec<Option<Sink>> = started.try_collect().await?;
    let Some(started) = started.into_iter().collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    let components = projectors
        .iter()
        .map(|projector| health.component(&format!("view {}", projector.name())));
    let sinks: Vec<_> = started.into_iter().zip(components).collect();
    starting.ready();
    tokio::spawn(telemetry::views::watch(
        rebuilds.views.clone(),
        shutdown.clone(),
    ));
    let builders = tokio::spawn(rebuild::run(
        rebuilds,
        projectors,
        decoder,
        shutdown.clone(),
    ));
    let watched = sinks
        .into_iter()
        .map(|(sink, component)| watch(sink, component, shutdown.clone()));
    let done = tokio::spawn({
        let sinks: Vec<_> = watched.map(tokio::spawn).collect();
        let shutdown = shutdown.clone();
        async move {
            let mut result = Ok(());
            for sink in sinks {
                let ended = sink.await.expect("the task neither panics nor is aborted");
                // A view that died ends them all: a process is restarted, a thread is not.
                shutdown.cancel();
                result = result.and(ended.map_err(ProjectionsError::from));
            }
            builders
                .await
                .expect("the task neither panics nor is aborted");
            result
        }
    });
    Ok(Some(Projections {
        api: reads::api(bus, &queries::ALIASES),
        done,
    }))
}

/// Says how a sink is, until shutdown drains it or it dies.
async fn watch(
    mut sink: Sink,
    component: Component,
    shutdown: CancellationToken,
) -> Result<(), SinkError> {
    loop {
        let report = sink.health();
        if report.healthy {
            component.ready();
        } else {
            component.not_ready(report.errors.join("; "));
        }
        tokio::select! {
            () = shutdown.cancelled() => return sink.stop().await,
            ended = sink.ended() => {
                shutdown.cancel();
                return ended;
            }
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

fn topics() -> Vec<Topic> {
    schemas::all()
        .iter()
        .filter(|set| set.kind == RecordKind::Event)
        .map(|set| Topic {
            name: set.topic(),
            kind: Kind::Events,
        })
        .collect()
}
