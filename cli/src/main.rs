//! The `millrace` command: one file a subcommand.

mod command;
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

use clap::Parser;

/// Where the producer is, unless MILLRACE_URL says otherwise.
const MILLRACE_URL: &str = "http://127.0.0.1:8080";

#[tokio::main]
async fn main() -> ExitCode {
    let command = command::Command::parse();
    let ended = match telemetry::start(command.voice()) {
        Ok(traces) => {
            let ended = command.run().await;
            traces.end().await;
            ended
        }
        Err(error) => Err(error),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("millrace: {error:#}");
        ExitCode::FAILURE
    })
}
