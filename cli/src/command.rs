//! Every subcommand, and what it runs.

use std::process::ExitCode;

use crate::telemetry::Voice;
use crate::{
    dlq, effects, env, events, health, journal, parked, roles, schemas, send, status, tail, topics,
    views,
};

/// Kafka-native event sourcing and CQRS: run the roles, send commands, look and operate.
#[derive(clap::Parser)]
#[command(name = "millrace", version)]
pub(crate) enum Command {
    /// Runs all roles in this process.
    Up(Box<roles::UpArgs>),
    /// Runs the producer alone: commands and the relay.
    Producer(Box<roles::ProducerArgs>),
    /// Runs the processors alone: what events lead to.
    Processors(Box<roles::ProcessorsArgs>),
    /// Runs the projections alone: views and the queries over them.
    Projections(Box<roles::ProjectionsArgs>),
    Send(send::Args),
    Tail(tail::Args),
    Events(events::Args),
    Status(status::Args),
    Health(health::Args),
    Pause(views::PauseArgs),
    Resume(views::ResumeArgs),
    Rebuild(views::RebuildArgs),
    Parked(parked::Args),
    Dlq(dlq::Args),
    Effects(effects::Args),
    Topics(topics::Args),
    Schemas(schemas::Args),
    Journal(Box<journal::Args>),
    Env(env::Args),
}

impl Command {
    /// What it logs: a role runs until it is told to end, everything else ends by itself.
    pub(crate) fn voice(&self) -> Voice {
        match self {
            Self::Up(_) | Self::Producer(_) | Self::Processors(_) | Self::Projections(_) => {
                Voice::Role
            }
            _ => Voice::Command,
        }
    }

    /// Runs it; `Err` is exit 1 with the reason.
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Up(args) => roles::up(*args).await,
            Self::Producer(args) => roles::producer(*args).await,
            Self::Processors(args) => roles::processors(*args).await,
            Self::Projections(args) => roles::projections(*args).await,
            Self::Send(args) => send::run(args).await,
            Self::Tail(args) => tail::run(args).await,
            Self::Events(args) => events::run(args).await,
            Self::Status(args) => status::run(args).await,
            Self::Health(args) => health::run(args).await,
            Self::Pause(args) => views::pause(args).await,
            Self::Resume(args) => views::resume(args).await,
            Self::Rebuild(args) => views::rebuild(args).await,
            Self::Parked(args) => parked::run(args).await,
            Self::Dlq(args) => dlq::run(args).await,
            Self::Effects(args) => effects::run(args).await,
            Self::Topics(args) => topics::run(args).await,
            Self::Schemas(args) => schemas::run(args).await,
            Self::Journal(args) => journal::run(*args).await,
            Self::Env(args) => env::run(&args),
        }
    }
}

/// Fields of a command that stand in no id and no rejects file; none where the command is unknown.
pub(crate) fn secret_fields(aggregate: &str, command_type: &str) -> &'static [&'static str] {
    producer::AGGREGATES
        .iter()
        .find(|one| one.name == aggregate)
        .map_or(&[], |one| (one.secret_fields)(command_type))
}
