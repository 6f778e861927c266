//! The `millrace` command: one file a subcommand.

mod command;
mod dead_calls;
mod dlq;
mod effect_status;
mod effects;
mod env;
mod events;
#[cfg(feature = "failpoints")]
mod failpoints;
mod health;
mod journal;
mod output;
mod parked;
mod roles;
mod schemas;
mod send;
#[cfg(test)]
mod settings;
mod stats;
mod status;
mod tail;
mod telemetry;
mod topics;
mod views;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::runtime::Runtime;

/// Where the producer is, unless MILLRACE_URL says otherwise.
const MILLRACE_URL: &str = "http://127.0.0.1:8080";

fn main() -> ExitCode {
    let command = command::Command::parse();
    run(command).unwrap_or_else(|error| {
        eprintln!("millrace: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: command::Command) -> anyhow::Result<ExitCode> {
    let runtime = Runtime::new().context("the threads of the runtime cannot be started")?;
    let ended = runtime.block_on(async {
        let traces = telemetry::start(command.voice())?;
        let ended = command.run().await;
        traces.end().await;
        ended
    });
    // A thread that is closing a Kafka client may be held by it for long; the command waits for no longer than it said.
    runtime.shutdown_background();
    ended
}
