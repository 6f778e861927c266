//! Write side of the reference system: the aggregates, their commands over HTTP and from Kafka,
//! their timers, and the relay.
//!
//! Commands are decided by the aggregates in [`aggregates`], their events are appended to the journal, and one of
//! the running producers relays them to Kafka.

pub mod aggregates;
pub mod credentials;
pub mod demo;

use std::sync::Arc;
use std::time::Duration;

use aggregates::identity::registration::RegistrationOptions;
use aggregates::order::OrderOptions;
use aggregates::order_saga::SagaOptions;
use aggregates::payment::PaymentOptions;
use axum::Json;
use axum::http::StatusCode;
use credentials::{CredentialError, Credentials};
use millrace::command::inbox::{self, InboxConfig, InboxError, InboxOptions};
use millrace::command::{AggregateType, Commands, WriteConfig};
use millrace::config::{Chosen, JournalConfig, KafkaConfig, RegistryConfig, chosen};
use millrace::http::api::{Api, Operation, Shape};
use millrace::http::health::{Component, Health};
use millrace::http::problem::Problem;
use millrace::http::stream;
use millrace::journal::{Journal, JournalError};
use millrace::log::topics::{self, Kind, Topic, TopicError};
use millrace::registry::{Registry, RegistryError};
use millrace::relay::{Relay, RelayConfig, RelayError, RelayRole, RelayStatus};
use millrace::startup::wait_for;
use millrace::telemetry;
use millrace::timer::{self, TimerStatus, Timers};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Every aggregate type that takes commands.
pub const AGGREGATES: &[AggregateType] = &[
    AggregateType::of::<aggregates::order::Order>(),
    AggregateType::of::<aggregates::stock::Stock>(),
    AggregateType::of::<aggregates::recipient::Recipient>(),
    AggregateType::of::<aggregates::identity::tenant::Tenant>(),
    AggregateType::of::<aggregates::identity::email::Email>(),
    AggregateType::of::<aggregates::identity::user::User>(),
    AggregateType::of::<aggregates::identity::workspace::Workspace>(),
    AggregateType::of::<aggregates::identity::registration::Registration>(),
    AggregateType::of::<aggregates::payment::Payment>(),
    AggregateType::of::<aggregates::product::Product>(),
    AggregateType::of::<aggregates::order_saga::OrderSaga>(),
    AggregateType::of::<aggregates::sales_day::SalesDay>(),
    AggregateType::of::<aggregates::library::card::Card>(),
    AggregateType::of::<aggregates::library::collection::Collection>(),
    AggregateType::of::<aggregates::library::profile::Profile>(),
];

/// Settings of the producer.
#[derive(Debug, Clone, clap::Args)]
pub struct ProducerConfig {
    /// Kafka.
    #[command(flatten)]
    pub kafka: KafkaConfig,
    /// Schema registry.
    #[command(flatten)]
    pub registry: RegistryConfig,
    /// Journal.
    #[command(flatten)]
    pub journal: JournalConfig,
    /// Bounds of the write side.
    #[command(flatten)]
    pub write: WriteConfig,
    /// Commands from Kafka.
    #[command(flatten)]
    pub inbox: InboxOptions,
    /// Relay.
    #[command(flatten)]
    pub relay: RelayConfig,
    /// Orders.
    #[command(flatten)]
    pub orders: OrderOptions,
    /// Registrations.
    #[command(flatten)]
    pub registrations: RegistrationOptions,
    /// Payments.
    #[command(flatten)]
    pub payments: PaymentOptions,
    /// Order sagas.
    #[command(flatten)]
    pub sagas: SagaOptions,
    /// Which aggregates' commands are taken from Kafka here.
    #[command(flatten)]
    pub chosen: Chosen,
}

/// Why the producer could not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ProducerError {
    /// Settings that do not fit each other.
    #[error("configuration: {0}")]
    Config(String),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The registry or a schema.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Kafka's topics.
    #[error(transparent)]
    Topics(#[from] TopicError),
    /// Commands from Kafka.
    #[error(transparent)]
    Inbox(#[from] InboxError),
    /// The relay.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// The hashes of passwords.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
}

/// A producer that takes commands.
pub struct Producer {
    /// Its routes.
    pub api: Api,
    /// The state of its relay.
    pub relay: watch::Receiver<RelayStatus>,
    /// Ends after shutdown, when relay, timers and inboxes have stopped; before it when one of them cannot go on.
    pub done: JoinHandle<Result<(), ProducerError>>,
}

/// Starts the producer; waits for servers that are away. `None` at shutdown.
pub async fn start(
    config: ProducerConfig,
    health: &Health,
    shutdown: CancellationToken,
) -> Result<Option<Producer>, ProducerError> {
    let faults = config.relay.faults();
    if !faults.is_empty() {
        return Err(ProducerError::Config(faults.join("; ")));
    }
    config.orders.apply();
    config.registrations.apply();
    config.payments.apply();
    config.sagas.apply();
    let choice = ("INBOXES", config.chosen.inboxes.as_slice());
    let inboxes = chosen(choice, AGGREGATES.iter().collect(), |one| one.name)
        .map_err(|error| ProducerError::Config(error.to_string()))?;
    let starting = health.component("producer");
    let names: Vec<&'static str> = AGGREGATES.iter().map(|aggregate| aggregate.name).collect();
    let journal = wait_for(&starting, &shutdown, || {
        Journal::open(&config.journal, &names)
    });
    let Some(journal) = journal.await? else {
        return Ok(None);
    };
    let registry = wait_for(&starting, &shutdown, || {
        let kept = Some(journal.pool().clone());
        Registry::open(&config.registry, schemas::all(), kept)
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
    let credentials = wait_for(&starting, &shutdown, || Credentials::open(&config.journal));
    let Some(credentials) = credentials.await? else {
        return Ok(None);
    };
    let appended = Arc::new(Notify::new());
    let commands = Commands::start(
        AGGREGATES,
        journal.clone(),
        registry.clone(),
        config.write,
        config.kafka.topic_partitions,
        Arc::clone(&appended),
    );
    let mut running = JoinSet::new();
    for aggregate in inboxes {
        let parts = InboxConfig {
            kafka: config.kafka.clone(),
            options: config.inbox.clone(),
            commands: commands.clone(),
            registry: registry.clone(),
            journal: journal.uuid(),
        };
        let component = health.component(&format!("commands of {}", aggregate.name));
        let inbox = inbox::run(parts, aggregate.name, component, shutdown.clone());
        running.spawn(async move { Ok(inbox.await?) });
    }
    let stream = stream::api(config.journal.clone(), registry.clone(), shutdown.clone());
    let timers = Arc::new(Timers::new(
        &journal,
        registry,
        &commands,
        &names,
        timer::system_clock(),
    ));
    running.spawn({
        let (timers, shutdown) = (Arc::clone(&timers), shutdown.clone());
        async move {
            timers.run(shutdown).await;
            Ok(())
        }
    });
    starting.ready();
    let partitions = config.kafka.topic_partitions;
    let relay = Relay::new(config.relay, config.kafka, config.journal);
    let status = relay.status();
    tokio::spawn(credentials::settle(
        credentials.clone(),
        commands.clone(),
        shutdown.clone(),
    ));
    tokio::spawn(telemetry::journal::watch(
        journal.pool().clone(),
        shutdown.clone(),
    ));
    tokio::spawn(telemetry::relay::watch(
        status.clone(),
        journal.pool().clone(),
        shutdown.clone(),
    ));
    tokio::spawn(watch_journal(
        health.component("journal"),
        journal,
        shutdown.clone(),
    ));
    tokio::spawn(watch_relay(health.component("relay"), status.clone()));
    running.spawn({
        let shutdown = shutdown.clone();
        async move { Ok(relay.run(appended, shutdown).await?) }
    });
    let done = tokio::spawn(all_of(running, shutdown));
    Ok(Some(Producer {
        api: millrace::http::commands::api(commands.clone())
            .merge(demo::api(commands.clone(), partitions))
            .merge(credentials::api(credentials, commands))
            .merge(relay_status(status.clone()))
            .merge(timer_status(timers))
            .merge(stream),
        relay: status,
        done,
    }))
}

/// Runs until all have ended; one that ends before shutdown ends the others.
async fn all_of(
    mut running: JoinSet<Result<(), ProducerError>>,
    shutdown: CancellationToken,
) -> Result<(), ProducerError> {
    let mut result = Ok(());
    while let Some(ended) = running.join_next().await {
        let ended = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        shutdown.cancel();
        result = result.and(ended);
    }
    result
}

/// The topics that must exist; the relay makes its own.
fn topics() -> Vec<Topic> {
    AGGREGATES
        .iter()
        .flat_map(|aggregate| {
            let events = Topic {
                name: millrace::event::events_topic(aggregate.name),
                kind: Kind::Events,
            };
            std::iter::once(events).chain(inbox::topics(aggregate.name))
        })
        .collect()
}

/// `GET /status/relay`: what this producer's relay does, and who leads if it does not.
fn relay_status(status: watch::Receiver<RelayStatus>) -> Api {
    let answer = move || async move { Json(status.borrow().clone()) };
    let says = "What this producer's relay does, and who leads if it does not";
    let shape = Shape::of::<RelayStatus>();
    let operation = Operation::get("/status/relay", "operations", says);
    Api::new().route(
        operation.answers(StatusCode::OK, "Its state.", shape),
        answer,
    )
}

/// `GET /status/timers`: how many timers are pending, and for how long the oldest has been due.
fn timer_status(timers: Arc<Timers>) -> Api {
    let answer = move || async move {
        let status = timers.status().await;
        status.map(Json).map_err(|error| {
            let soon = Duration::from_secs(1);
            Problem::unavailable(format!("journal: {error}"), soon)
        })
    };
    let says = "How many timers are pending, and for how long the oldest has been due";
    let shape = Shape::of::<TimerStatus>();
    let operation = Operation::get("/status/timers", "operations", says);
    Api::new().route(
        operation.answers(StatusCode::OK, "Their state.", shape),
        answer,
    )
}

/// Ready while the journal answers.
async fn watch_journal(component: Component, journal: Journal, shutdown: CancellationToken) {
    loop {
        match sqlx::query("SELECT 1").execute(journal.pool()).await {
            Ok(_) => component.ready(),
            Err(error) => component.not_ready(format!("journal: {error}")),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// Ready while this relay is active or another one is.
async fn watch_relay(component: Component, mut status: watch::Receiver<RelayStatus>) {
    loop {
        {
            let status = status.borrow_and_update();
            match status.role {
                RelayRole::Active | RelayRole::StandingBy => component.ready(),
                RelayRole::Starting => component.not_ready("the relay is starting"),
                RelayRole::Stopped => component.not_ready(
                    status
                        .error
                        .clone()
                        .unwrap_or_else(|| "the relay has stopped".to_owned()),
                ),
            }
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}
