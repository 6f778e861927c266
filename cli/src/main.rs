//! The `millrace` command.

#[cfg(feature = "failpoints")]
mod failpoints;
mod output;
mod roles;
mod send;
mod telemetry;

use std::process::ExitCode;

use clap::Parser;

pub(crate) const MILLRACE_URL: &str = "http://127.0.0.1:8080";

/// Fields of a command that stand in no id, hash, log or rejects file.
pub(crate) fn secret_fields(aggregate: &str, command_type: &str) -> &'static [&'static str] {
    producer::AGGREGATES
        .iter()
        .find(|known| known.name == aggregate)
        .map_or(&[], |known| (known.secret_fields)(command_type))
}

/// Kafka-native event sourcing and CQRS: run the roles, send commands, look and operate.
#[derive(Parser)]
#[command(name = "millrace", version)]
enum Command {
    /// Runs all roles in this process.
    Up(Box<roles::UpArgs>),
    /// Runs the producer alone: commands and the relay.
    Producer(Box<roles::ProducerArgs>),
    /// Runs the projections alone: views and the queries over them.
    Projections(Box<roles::ProjectionsArgs>),
    Send(send::Args),
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    telemetry::start();
    match Command::parse() {
        Command::Up(args) => roles::up(*args).await,
        Command::Producer(args) => roles::producer(*args).await,
        Command::Projections(args) => roles::projections(*args).await,
        Command::Send(args) => send::run(args).await,
    }
}
