//! The `millrace` command.

mod output;
mod send;

use std::process::ExitCode;

use clap::Parser;

pub(crate) const MILLRACE_URL: &str = "http://127.0.0.1:8080";
pub(crate) fn secret_fields(_: &str, _: &str) -> &'static [&'static str] {
    &[]
}

/// Kafka-native event sourcing and CQRS: run the roles, send commands, look and operate.
#[derive(Parser)]
#[command(name = "millrace", version)]
enum Command {
    Send(send::Args),
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    match Command::parse() {
        Command::Send(args) => send::run(args).await,
    }
}
