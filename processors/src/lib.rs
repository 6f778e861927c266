//! The acting side of the reference system: stateless processors that turn events into commands.
//!
//! A processor is one file and one line in [`topology`], which `main` runs and tests pipe events through.

pub mod effects;
pub mod flows;

use std::time::Duration;

use axum::routing::get;
use axum::{Json, Router};
use effects::EffectSettings;
use flows::{order_stock::OrderStock, stock_order::StockOrder};
use millrace::config::{JournalConfig, KafkaConfig, RegistryConfig, ViewsConfig};
use millrace::effect::webhook::WebhookError;
use millrace::effect::{EffectError, EffectOptions, EffectsConfig};
use millrace::http::health::{Component, Health};
use millrace::journal::{self, JournalError};
use millrace::log::topics::{self, Kind, Topic, TopicError};
use millrace::processor::{
    self, ProcessorConfig, ProcessorError, ProcessorOptions, ProcessorReport, RunningProcessor,
    Topology,
};
use millrace::projection::Decoder;
use millrace::registry::{RecordKind, Registry, RegistryError};
use millrace::startup::wait_for;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Every processor; a new one is a line here.
pub fn topology() -> Topology {
    Topology::new().processor(OrderStock).processor(StockOrder)
}

/// Settings of the processors.
#[derive(Debug, Clone, clap::Args)]
pub struct ProcessorsConfig {
    /// Kafka.
    #[command(flatten)]
    pub kafka: KafkaConfig,
    /// Schema registry.
    #[command(flatten)]
    pub registry: RegistryConfig,
    /// Journal: only its copy of the schemas is read here, and only where it answers.
    #[command(flatten)]
    pub journal: JournalConfig,
    /// Bounds of the processors.
    #[command(flatten)]
    pub options: ProcessorOptions,
    /// Postgres of the views: effects keep their rows there. Not used where no effect is asked for.
    #[command(flatten)]
    pub views: ViewsConfig,
    /// Bounds of the effects.
    #[command(flatten)]
    pub effect_options: EffectOptions,
    /// Settings of each effect.
    #[command(flatten)]
    pub effects: EffectSettings,
}

/// Why the processors could not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorsError {
    /// DATABASE_URL cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The registry or a schema.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Kafka's topics.
    #[error(transparent)]
    Topics(#[from] TopicError),
    /// A processor.
    #[error(transparent)]
    Processor(#[from] ProcessorError),
    /// The settings of a webhook.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// An effect.
    #[error(transparent)]
    Effect(#[from] EffectError),
}

/// Processors that turn events into commands.
pub struct Processors {
    /// `GET /status/processors`: how each of this process is.
    pub router: Router,
    /// Ends after shutdown, when all have committed what they had in hand.
    pub done: JoinHandle<Result<(), ProcessorsError>>,
}

/// Runs every processor until shutdown; waits for servers that are away.
pub async fn run(
    config: ProcessorsConfig,
    health: &Health,
    shutdown: CancellationToken,
) -> Result<(), ProcessorsError> {
    match start(config, health, shutdown).await? {
        Some(started) => started
            .done
            .await
            .expect("the task neither panics nor is aborted"),
        None => Ok(()),
    }
}

/// Starts every processor; waits for servers that are away. `None` at shutdown.
pub async fn start(
    config: ProcessorsConfig,
    health: &Health,
    shutdown: CancellationToken,
) -> Result<Option<Processors>, ProcessorsError> {
    let starting = health.component("processors");
    let journal = journal::reader(&config.journal)?;
    let registry = wait_for(&starting, &shutdown, || {
        Registry::open_reader(&config.registry, schemas::all(), journal.clone())
    });
    let Some(registry) = registry.await? else {
        return Ok(None);
    };
    let topology = topology();
    let effects = effects::effects(&config.effects)?;
    let mut topics = topics(&topology);
    topics.extend(effects::topics(&effects));
    let ensured = wait_for(&starting, &shutdown, || {
        topics::ensure(&config.kafka, &topics)
    });
    if ensured.await?.is_none() {
        return Ok(None);
    }
    let decoder = Decoder::of(registry);
    let effects_config = EffectsConfig {
        kafka: config.kafka.clone(),
        views: config.views,
        options: config.effect_options,
    };
    let parts = (health, &starting);
    let started = effects::start(&effects_config, effects, &decoder, parts, &shutdown);
    let Some(effects) = started.await? else {
        return Ok(None);
    };
    let processor_config = ProcessorConfig {
        kafka: config.kafka,
        options: config.options,
    };
    let mut watched = Vec::new();
    let mut reports = Vec::new();
    for handler in topology.handlers() {
        let component = health.component(&format!("processor {}", handler.name()));
        let running =
            RunningProcessor::start(processor_config.clone(), handler.clone(), decoder.clone());
        reports.push(running.watch());
        watched.push(tokio::spawn(watch(running, component, shutdown.clone())));
    }
    starting.ready();
    let done = tokio::spawn(async move {
        let mut result = Ok(());
        // Also with no processor at all the role ends with the process, not before.
        shutdown.cancelled().await;
        for one in watched {
            let ended = one.await.expect("the task neither panics nor is aborted");
            result = result.and(ended.map_err(ProcessorsError::from));
        }
        for one in effects {
            let ended = one.await.expect("the task neither panics nor is aborted");
            result = result.and(ended.map_err(ProcessorsError::from));
        }
        result
    });
    let reports = std::sync::Arc::new(reports);
    let answer = move || async move {
        let reports: Vec<ProcessorReport> = reports.iter().map(|report| report()).collect();
        Json(reports)
    };
    Ok(Some(Processors {
        router: Router::new().route("/status/processors", get(answer)),
        done,
    }))
}

/// Says how a processor is, until shutdown drains it or it dies.
async fn watch(
    mut running: RunningProcessor,
    component: Component,
    shutdown: CancellationToken,
) -> Result<(), ProcessorError> {
    loop {
        let report = running.health();
        match report.error.filter(|_| !report.healthy) {
            None => component.ready(),
            Some(error) => component.not_ready(error),
        }
        tokio::select! {
            () = shutdown.cancelled() => return running.stop().await,
            // A processor that died ends them all: a process is restarted, a thread is not.
            ended = running.ended() => {
                shutdown.cancel();
                return ended;
            }
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

fn topics(topology: &Topology) -> Vec<Topic> {
    let mut topics: Vec<Topic> = schemas::all()
        .iter()
        .map(|set| Topic {
            name: set.topic(),
            kind: match set.kind {
                RecordKind::Event => Kind::Events,
                _ => Kind::Queue,
            },
        })
        .collect();
    for handler in topology.handlers() {
        topics.extend(processor::topics(&**handler));
    }
    topics
}
