//! The `millrace` command.

#[cfg(feature = "failpoints")]
mod failpoints;
mod roles;
mod telemetry;

use std::process::ExitCode;

use clap::Parser;

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
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    telemetry::start();
    match Command::parse() {
        Command::Up(args) => roles::up(*args).await,
        Command::Producer(args) => roles::producer(*args).await,
        Command::Projections(args) => roles::projections(*args).await,
    }
}
