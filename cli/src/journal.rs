//! `millrace journal`: what the runbook for restored journals asks for.

use std::process::ExitCode;

use millrace::config::{JournalConfig, KafkaConfig};
use millrace::relay::RelayConfig;
use millrace::relay::runbook::{self, Comparison};

/// Make journal and topics agree after a restore; docs/runbooks/journal-restored.md says when.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    /// Print one JSON object.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Read the event topics whole and say how the journal differs; change nothing. Exit 1 if it lacks events or would never publish some.
    Compare(Servers),
    /// Read back into the journal what only the topics hold, and raise its generation. Stop every producer and relay first.
    Recover(Servers),
}

#[derive(Debug, clap::Args)]
struct Servers {
    #[command(flatten)]
    kafka: KafkaConfig,
    #[command(flatten)]
    journal: JournalConfig,
    #[command(flatten)]
    relay: RelayConfig,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Compare(servers) => {
            let found = runbook::compare(&servers.relay, &servers.kafka, &servers.journal).await?;
            match args.json {
                true => crate::output::line(&serde_json::to_string(&found)?)?,
                false => show(&found)?,
            }
            let agree = found.only_in_topics == 0 && found.stranded == 0;
            Ok(ExitCode::from(u8::from(!agree)))
        }
        Action::Recover(servers) => {
            let done = runbook::recover(&servers.relay, &servers.kafka, &servers.journal).await?;
            if args.json {
                crate::output::line(&serde_json::to_string(&done)?)?;
                return Ok(ExitCode::SUCCESS);
            }
            crate::output::line(&format!(
                "{} events read back from the topics, {} moved above the published ones; the journal is of generation {} now\n\
                 next: start the relay, then the producers, then `millrace journal compare`",
                done.imported, done.moved, done.generation
            ))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn show(found: &Comparison) -> anyhow::Result<()> {
    let position = found.position.as_ref().map(|at| {
        format!(
            "{}:{}:{} of journal {}",
            at.generation, at.xid, at.position, at.journal
        )
    });
    let number = |name: &str, value: i64| vec![name.to_owned(), value.to_string()];
    let rows = vec![
        vec![
            "position".to_owned(),
            position.unwrap_or_else(|| "none".to_owned()),
        ],
        number("published", found.published),
        number("only_in_topics", found.only_in_topics),
        number("forked", found.forked),
        number("unpublished", found.unpublished),
        number("stranded", found.stranded),
        number("foreign", found.foreign),
    ];
    crate::output::table(&["VALUE", ""], &rows)?;
    if let Some(first) = &found.first_fork {
        crate::output::line(&format!("first fork: {first}"))?;
    }
    let next = if found.forked > 0 {
        "both histories are real to somebody: see docs/runbooks/journal-restored.md"
    } else if found.only_in_topics > 0 || found.stranded > 0 {
        "stop every producer, then `millrace journal recover`"
    } else {
        return Ok(());
    };
    crate::output::line(&format!("next: {next}"))
}
