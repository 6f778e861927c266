//! `millrace effects`: calls to the outside that wait for a person.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use millrace::config::{KafkaConfig, ViewsConfig};
use millrace::effect::ops::{self, CallStatus, EffectStatus, Filter, Settlement};
use millrace::projection::ops::members;
use sqlx::PgPool;
use uuid::Uuid;

use crate::views;

/// Between two looks at a group.
const LOOK: Duration = Duration::from_millis(200);

/// List what effects gave up or do not know the outcome of, call again, settle; pause an effect and let it go on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    views: ViewsConfig,
    /// Print JSON, one object a line.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// What waits for a person, in one effect or in all; with --state whatever is in that state.
    List {
        /// The effect.
        effect: Option<String>,
        /// Rows in this state instead of those that wait.
        #[arg(long, value_parser = ["pending", "calling", "uncertain", "done", "failed", "dead", "settled"])]
        state: Option<String>,
    },
    /// Everything that is known of one event's call.
    Show {
        /// The effect.
        effect: String,
        /// The event's id as `list` shows it.
        event: Uuid,
    },
    /// Call again. Of an uncertain one that may be the second time: first ask the outside about its key.
    Retry {
        /// The effect.
        effect: String,
        /// The event's id as `list` shows it.
        event: Uuid,
    },
    /// End it without a call; the aggregate's later events go on.
    Settle {
        /// The effect.
        effect: String,
        /// The event's id as `list` shows it.
        event: Uuid,
        /// How it ended. No outcome command is made: send it, if an aggregate waits for one.
        #[arg(value_enum)]
        ended: Ended,
        /// How that is known; kept with the row.
        #[arg(long)]
        note: String,
    },
    /// Stop an effect until it is resumed; also over restarts. Returns when its group is empty.
    Pause {
        /// The effect.
        effect: String,
        /// How long to wait for the group to become empty, in seconds.
        #[arg(long, default_value_t = 30)]
        timeout_s: u64,
        #[command(flatten)]
        kafka: KafkaConfig,
    },
    /// Let a paused effect go on.
    Resume {
        /// The effect.
        effect: String,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Ended {
    /// It was carried out.
    Done,
    /// It was not, and will not be.
    Failed,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let pool = views::connect(&args.views).await?;
    let known = ops::status(&pool).await?;
    match args.action {
        Action::List { effect, state } => {
            if let Some(effect) = &effect
                && let Some(wrong) = unknown(&known, effect)
            {
                return Ok(wrong);
            }
            list(&pool, effect, state, args.json).await
        }
        Action::Show { effect, event } => match unknown(&known, &effect) {
            Some(wrong) => Ok(wrong),
            None => show(&pool, effect, event, args.json).await,
        },
        Action::Retry { effect, event } => {
            ops::retry(&pool, &effect, event).await?;
            crate::output::line(&format!("{effect} calls again for {event}"))?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Settle {
            effect,
            event,
            ended,
            note,
        } => {
            let settlement = match ended {
                Ended::Done => Settlement::Done,
                Ended::Failed => Settlement::Failed,
            };
            ops::settle(&pool, &effect, event, (settlement, &note)).await?;
            crate::output::line(&format!("{effect} has settled {event}"))?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Pause {
            effect,
            timeout_s,
            kafka,
        } => pause(&pool, &kafka, &effect, timeout_s).await,
        Action::Resume { effect } => {
            ops::pause(&pool, &effect, false).await?;
            crate::output::line(&format!("{effect} goes on"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Wrong use, where nobody ever ran the effect.
fn unknown(known: &[EffectStatus], effect: &str) -> Option<ExitCode> {
    if known.iter().any(|one| one.effect == effect) {
        return None;
    }
    let names: Vec<&str> = known.iter().map(|one| one.effect.as_str()).collect();
    eprintln!(
        "millrace: effect {effect} is unknown; known are: {}",
        names.join(", ")
    );
    Some(ExitCode::from(2))
}

async fn list(
    pool: &PgPool,
    effect: Option<String>,
    state: Option<String>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let filter = Filter {
        effect,
        state,
        ..Filter::default()
    };
    let there = !ops::status(pool).await?.is_empty();
    let calls = match there {
        true => ops::calls(pool, &filter).await?,
        false => Vec::new(),
    };
    if json {
        for one in &calls {
            crate::output::line(&serde_json::to_string(one)?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if calls.is_empty() {
        crate::output::line("no call waits for a person")?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |one: &CallStatus| {
        vec![
            one.effect.clone(),
            one.event_id.to_string(),
            one.aggregate_id.clone(),
            one.state.clone(),
            one.calls.to_string(),
            one.waiting.to_string(),
            one.claimed_at.format("%Y-%m-%d %H:%M:%SZ").to_string(),
            one.reason.clone().unwrap_or_default(),
        ]
    };
    let heading = [
        "EFFECT",
        "EVENT",
        "AGGREGATE",
        "STATE",
        "CALLS",
        "WAITING",
        "SINCE",
        "REASON",
    ];
    crate::output::table(&heading, &calls.iter().map(row).collect::<Vec<_>>())?;
    Ok(ExitCode::SUCCESS)
}

async fn show(pool: &PgPool, effect: String, event: Uuid, json: bool) -> anyhow::Result<ExitCode> {
    let filter = Filter {
        effect: Some(effect.clone()),
        event_id: Some(event),
        ..Filter::default()
    };
    let calls = ops::calls(pool, &filter).await?;
    let Some(one) = calls.first() else {
        bail!("effect {effect} has claimed no event {event}");
    };
    let value = serde_json::to_value(one)?;
    if json {
        crate::output::line(&value.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    for (name, value) in value.as_object().into_iter().flatten() {
        let text = match value {
            serde_json::Value::Null => continue,
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        crate::output::line(&format!("{name:<14} {text}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn pause(
    pool: &PgPool,
    kafka: &KafkaConfig,
    effect: &str,
    timeout_s: u64,
) -> anyhow::Result<ExitCode> {
    ops::pause(pool, effect, true).await?;
    let group = millrace::effect::group(effect);
    let until = Instant::now() + Duration::from_secs(timeout_s);
    while members(kafka.clone(), group.clone()).await? > 0 {
        if Instant::now() > until {
            bail!(
                "{effect} is paused, but group {group} still has members after {timeout_s} s: look for a process that hangs"
            );
        }
        tokio::time::sleep(LOOK).await;
    }
    crate::output::line(&format!("{effect} is paused; group {group} is empty"))?;
    Ok(ExitCode::SUCCESS)
}
