//! `millrace dlq`: dead letters of processors, and of effects by the same words.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use millrace::config::{KafkaConfig, ViewsConfig};
use millrace::effect::ops::CallStatus;
use millrace::processor::ops::{self, OpsError};
use millrace::processor::{Handler, Letter, State};
use serde_json::{Value, json};

use crate::dead_calls;

/// Between two looks at a request.
const LOOK: Duration = Duration::from_millis(200);

/// List dead letters of processors and effects, look at them, run those of a key again, or give one up.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    kafka: KafkaConfig,
    #[command(flatten)]
    views: ViewsConfig,
    /// Print JSON, one object a line.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// The dead letters that wait, of one processor or effect or of all.
    List {
        /// The processor or effect.
        processor: Option<String>,
        /// Also those that were redriven or came again after a reset.
        #[arg(long)]
        all: bool,
    },
    /// The dead letters of a key, with their headers.
    Show {
        /// The processor or effect.
        processor: String,
        /// The key as `list` shows it.
        key: String,
    },
    /// Run the waiting letters of a key again, in order, after the reason is gone.
    Redrive {
        /// The processor or effect.
        processor: String,
        /// The key as `list` shows it.
        key: String,
        /// How long to wait for the partition's owner, in seconds.
        #[arg(long, default_value_t = 30)]
        timeout_s: u64,
    },
    /// Give up the first waiting letter of a key, which no change of code will mend, and run those behind it.
    Skip {
        /// The processor.
        processor: String,
        /// The key as `list` shows it.
        key: String,
        /// The letter's offset as `list` shows it.
        offset: i64,
        /// How long to wait for the partition's owner, in seconds.
        #[arg(long, default_value_t = 30)]
        timeout_s: u64,
    },
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let topology = processors::topology();
    let named = match &args.action {
        Action::List { processor, .. } => processor.as_deref(),
        Action::Show { processor, .. }
        | Action::Redrive { processor, .. }
        | Action::Skip { processor, .. } => Some(processor.as_str()),
    };
    let handlers: Vec<Arc<dyn Handler>> = topology
        .handlers()
        .iter()
        .filter(|handler| named.is_none_or(|name| handler.name() == name))
        .cloned()
        .collect();
    if let (Some(name), true) = (named, handlers.is_empty()) {
        let effects = dead_calls::known(&args.views).await?;
        if effects.iter().any(|one| one == name) {
            return of_effect(&args, name).await;
        }
        let known = topology.handlers().iter().map(|one| one.name());
        let known: Vec<&str> = known.chain(effects.iter().map(String::as_str)).collect();
        eprintln!(
            "millrace: neither a processor nor an effect is named {name}; known are: {}",
            known.join(", ")
        );
        return Ok(ExitCode::from(2));
    }
    let effects = match named {
        Some(_) => Vec::new(),
        // A processor's letters stand in Kafka, whatever Postgres does.
        None => match dead_calls::all(&args.views, None).await {
            Ok(calls) => calls,
            Err(error) => {
                eprintln!("millrace: the dead letters of effects cannot be read: {error:#}");
                Vec::new()
            }
        },
    };
    // librdkafka's calls block, and nothing else runs in this process.
    tokio::task::block_in_place(|| match &args.action {
        Action::List { all, .. } => list(&args, &handlers, (*all, &effects)),
        Action::Show { key, .. } => show(&args, &*handlers[0], key),
        Action::Redrive { key, timeout_s, .. } => {
            redrive(&args, &*handlers[0], (key, None), *timeout_s)
        }
        Action::Skip {
            key,
            offset,
            timeout_s,
            ..
        } => redrive(&args, &*handlers[0], (key, Some(*offset)), *timeout_s),
    })
}

fn letters(args: &Args, handler: &dyn Handler) -> anyhow::Result<Vec<Letter>> {
    match ops::letters(&args.kafka, handler) {
        Ok(letters) => Ok(letters),
        Err(OpsError::NoTopic(_)) => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("dead letters of {}", handler.name())),
    }
}

/// The same of an effect, whose letters stand in its table.
async fn of_effect(args: &Args, effect: &str) -> anyhow::Result<ExitCode> {
    match &args.action {
        Action::List { .. } => {
            let calls = dead_calls::all(&args.views, Some(effect)).await?;
            list(args, &[], (false, &calls))
        }
        Action::Show { key, .. } => dead_calls::show(&args.views, (effect, key), args.json).await,
        Action::Redrive { key, .. } => {
            dead_calls::redrive(&args.views, (effect, key), args.json).await
        }
        Action::Skip { .. } => bail!(
            "a call is given up with `millrace effects settle {effect} EVENT failed --note WHY`; `millrace dlq show {effect} KEY` shows the event"
        ),
    }
}

/// Of processors, and of effects what is dead.
fn list(
    args: &Args,
    handlers: &[Arc<dyn Handler>],
    (all, effects): (bool, &[CallStatus]),
) -> anyhow::Result<ExitCode> {
    let mut rows = Vec::new();
    for handler in handlers {
        for letter in letters(args, &**handler)? {
            if !all && letter.state != State::Open {
                continue;
            }
            if args.json {
                crate::output::line(&summary(handler.name(), &letter).to_string())?;
            }
            rows.push(vec![
                handler.name().to_owned(),
                key_of(&letter),
                format!("{}/{}", letter.record.topic, letter.record.partition),
                letter.record.offset.to_string(),
                letter.state.text().to_owned(),
                letter.cause.clone(),
                letter.attempts.to_string(),
                letter.at.map_or_else(String::new, |at| {
                    at.format("%Y-%m-%d %H:%M:%SZ").to_string()
                }),
                letter.reason.clone(),
            ]);
        }
    }
    for call in effects {
        if args.json {
            crate::output::line(&dead_calls::summary(call).to_string())?;
        }
        rows.push(dead_calls::row(call));
    }
    if args.json {
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        crate::output::line("there are no dead letters")?;
        return Ok(ExitCode::SUCCESS);
    }
    let heading = [
        "HANDLER",
        "KEY",
        "PARTITION",
        "OFFSET",
        "STATE",
        "CAUSE",
        "ATTEMPTS",
        "SINCE",
        "REASON",
    ];
    crate::output::table(&heading, &rows)?;
    Ok(ExitCode::SUCCESS)
}

fn show(args: &Args, handler: &dyn Handler, key: &str) -> anyhow::Result<ExitCode> {
    let mut found = false;
    for letter in letters(args, handler)?
        .iter()
        .filter(|letter| key_of(letter) == key)
    {
        found = true;
        if args.json {
            let mut shown = summary(handler.name(), letter);
            shown["headers"] = letter.record.headers.to_json();
            shown["payload_hex"] = letter.record.payload.as_deref().map(hex).into();
            crate::output::line(&shown.to_string())?;
            continue;
        }
        let size = letter.record.payload.as_ref().map_or(0, Vec::len);
        crate::output::line(&format!(
            "{}/{} offset {}, {size} bytes, {} after {} attempts ({}): {}",
            letter.record.topic,
            letter.record.partition,
            letter.record.offset,
            letter.state.text(),
            letter.attempts,
            letter.cause,
            letter.reason
        ))?;
        for (name, value) in letter.record.headers.iter() {
            let text = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
            crate::output::line(&format!("    {name}: {text}"))?;
        }
    }
    if !found {
        bail!("{} has no dead letter with the key {key}", handler.name());
    }
    Ok(ExitCode::SUCCESS)
}

fn redrive(
    args: &Args,
    handler: &dyn Handler,
    (key, skip): (&str, Option<i64>),
    timeout_s: u64,
) -> anyhow::Result<ExitCode> {
    let asked = ops::redrive(&args.kafka, handler, key, skip)?;
    let until = Instant::now() + Duration::from_secs(timeout_s);
    let left = loop {
        match ops::is_done(&args.kafka, handler, &asked) {
            Ok(Some(left)) => break left,
            // The owner's transaction may be open just now.
            Ok(None) | Err(OpsError::Read(millrace::log::read::ReadError::Open { .. })) => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() > until {
            bail!(
                "nobody has executed the request within {timeout_s} s; it stays asked for. Is a processors process running? `millrace status` says"
            );
        }
        std::thread::sleep(LOOK);
    };
    let name = handler.name();
    if args.json {
        let line =
            json!({"processor": name, "key": key, "released": left.is_none(), "blocked": left});
        crate::output::line(&line.to_string())?;
    } else {
        crate::output::line(&match &left {
            None => format!("{name} handled all dead letters of {key}"),
            Some(block) => format!(
                "{key} is still blocked in {name}, from offset {} on, after {} attempts: {}",
                block.first, block.attempts, block.reason
            ),
        })?;
    }
    Ok(ExitCode::from(u8::from(left.is_some())))
}

fn key_of(letter: &Letter) -> String {
    match &letter.record.key {
        Some(key) => String::from_utf8_lossy(key).into_owned(),
        None => String::new(),
    }
}

fn summary(processor: &str, letter: &Letter) -> Value {
    json!({"processor": processor, "key": key_of(letter), "topic": &*letter.record.topic,
           "partition": letter.record.partition, "offset": letter.record.offset,
           "dlq_offset": letter.dlq_offset, "state": letter.state.text(), "cause": letter.cause,
           "attempts": letter.attempts, "at": letter.at, "reason": letter.reason})
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
