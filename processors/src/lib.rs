//! The acting side of the reference system: stateless processors that turn events into commands.
//!
//! A processor is one file and one line in [`topology`], which `main` runs and tests pipe events through.

pub mod effects;
pub mod flows;
pub mod gateway;
pub mod notifications;

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use effects::EffectSettings;
use flows::identity::{
    email_registration::EmailRegistration, registration_steps::RegistrationSteps,
    tenant_registration::TenantRegistration, user_registration::UserRegistration,
    workspace_registration::WorkspaceRegistration,
};
use flows::payment_gateway::{self, GatewayError};
use flows::{
    Notices, order_payment::OrderPayment, order_recipient::OrderRecipient, order_saga::OrderSaga,
    order_sales::OrderSales, order_stock::OrderStock, payment_order::PaymentOrder,
    payment_recipient::PaymentRecipient, payment_saga::PaymentSaga, saga_steps::SagaSteps,
    stock_order::StockOrder, stock_saga::StockSaga, user_recipient::UserRecipient,
};
use millrace::config::{
    Chosen, JournalConfig, KafkaConfig, NobodyNamed, RegistryConfig, ViewsConfig, chosen,
};
use millrace::effect::webhook::WebhookError;
use millrace::effect::{EffectError, EffectOptions, EffectsConfig};
use millrace::http::api::{Api, Operation, Shape};
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
use notifications::SettingsError;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Every processor.
pub fn topology() -> Topology {
    topology_with(Notices::On)
}

/// The same, with notices as they are chosen; a new processor is a line here.
fn topology_with(notices: Notices) -> Topology {
    Topology::new()
        .processor(OrderStock)
        .processor(StockOrder)
        .processor(OrderRecipient(notices))
        .processor(RegistrationSteps)
        .processor(EmailRegistration)
        .processor(TenantRegistration)
        .processor(WorkspaceRegistration)
        .processor(UserRegistration)
        .processor(OrderPayment)
        .processor(PaymentOrder)
        .processor(OrderSaga)
        .processor(StockSaga)
        .processor(PaymentSaga)
        .processor(SagaSteps)
        .processor(OrderSales)
        .processor(flows::card_profile::CardProfile)
        .processor(flows::collection_profile::CollectionProfile)
        .processor(flows::profile_recipient::ProfileRecipient(notices))
        .processor(flows::card_published::CardPublished)
        .processor(flows::collection_published::CollectionPublished)
        .processor(PaymentRecipient(notices))
        .processor(UserRecipient(notices))
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
    /// Which processors run here.
    #[command(flatten)]
    pub chosen: Chosen,
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
    /// A choice of processors.
    #[error(transparent)]
    Chosen(#[from] NobodyNamed),
    /// A processor.
    #[error(transparent)]
    Processor(#[from] ProcessorError),
    /// The settings of a webhook.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// The settings of the notifications.
    #[error(transparent)]
    Notifications(#[from] SettingsError),
    /// An effect.
    #[error(transparent)]
    Effect(#[from] EffectError),
    /// The payment gateway.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
}

/// Processors that turn events into commands.
pub struct Processors {
    /// `GET /status/processors`: how each of this process is.
    pub api: Api,
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
    // First of all: a setting that is missing is said at once, also where no server answers.
    let mut effects = effects::effects(&config.effects)?;
    let topology = topology_with(match config.effects.notifications.are_on() {
        true => Notices::On,
        false => Notices::Off,
    });
    let names = ("PROCESSORS", config.chosen.processors.as_slice());
    let handlers = chosen(names, topology.handlers().to_vec(), |one| one.name())?;
    let starting = health.component("processors");
    let journal = journal::reader(&config.journal)?;
    let registry = wait_for(&starting, &shutdown, || {
        Registry::open_reader(&config.registry, schemas::all(), journal.clone())
    });
    let Some(registry) = registry.await? else {
        return Ok(None);
    };
    let gateway = wait_for(&starting, &shutdown, || {
        payment_gateway::registered(&config.effects.payments, &config.views, &shutdown)
    });
    let Some(gateway) = gateway.await? else {
        return Ok(None);
    };
    effects.extend(gateway);
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
    for handler in &handlers {
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
        api: Api::new().route(status_operation(), answer),
        done,
    }))
}

fn status_operation() -> Operation {
    let summary = "How each processor of this process is";
    let shape = Shape::of::<Vec<ProcessorReport>>();
    Operation::get("/status/processors", "operations", summary).answers(
        StatusCode::OK,
        "Each.",
        shape,
    )
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
                RecordKind::Event | RecordKind::Published => Kind::Events,
                _ => Kind::Queue,
            },
        })
        .collect();
    for handler in topology.handlers() {
        topics.extend(processor::topics(&**handler));
    }
    topics
}
