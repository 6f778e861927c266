//! `millrace parked`: aggregates that a view could not apply.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use millrace::config::ViewsConfig;
use millrace::projection::Request;
use millrace::projection::ops::{self, OpsError, Parked, ParkedEvent};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::views;

/// Between two looks at a request.
const LOOK: Duration = Duration::from_millis(100);

/// List aggregates that a view could not apply, look at their events, try them again or skip them.
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
    /// Who is parked, in one view or in all.
    List {
        /// The view.
        view: Option<String>,
    },
    /// The events that wait, the bad one first.
    Show {
        /// The view.
        view: String,
        /// The aggregate's id as `list` shows it.
        aggregate: String,
    },
    /// Apply the waiting events again, after the view or its database was corrected.
    Retry(Asked),
    /// Give up the bad event and apply those after it; a row that misses it is marked incomplete.
    Skip(Asked),
}

#[derive(Debug, clap::Args)]
struct Asked {
    /// The view.
    view: String,
    /// The aggregate's id as `list` shows it.
    aggregate: String,
    /// How long to wait for the partition's owner, in seconds.
    #[arg(long, default_value_t = 30)]
    timeout_s: u64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let pool = views::connect(&args.views).await?;
    let view = match &args.action {
        Action::List { view } => view.as_deref(),
        Action::Show { view, .. } => Some(view.as_str()),
        Action::Retry(asked) | Action::Skip(asked) => Some(asked.view.as_str()),
    };
    if let Some(view) = view
        && let Some(wrong) = views::unknown(&pool, view).await?
    {
        return Ok(wrong);
    }
    match &args.action {
        Action::List { view } => list(&pool, view.as_deref(), args.json).await,
        Action::Show { view, aggregate } => show(&pool, view, aggregate, args.json).await,
        Action::Retry(asked) => request(&pool, asked, Request::Retry, args.json).await,
        Action::Skip(asked) => request(&pool, asked, Request::Skip, args.json).await,
    }
}

async fn list(pool: &PgPool, view: Option<&str>, json: bool) -> anyhow::Result<ExitCode> {
    let parked = ops::parked(pool, view).await?;
    if json {
        for one in &parked {
            crate::output::line(&serde_json::to_string(one)?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if parked.is_empty() {
        crate::output::line("nothing is parked")?;
        return Ok(ExitCode::SUCCESS);
    }
    let row = |one: &Parked| {
        vec![
            one.view.clone(),
            one.aggregate_id.clone(),
            format!("{}/{}", one.topic, one.partition),
            one.events.to_string(),
            one.attempts.to_string(),
            one.parked_at.format("%Y-%m-%d %H:%M:%SZ").to_string(),
            one.reason.clone(),
        ]
    };
    let heading = [
        "VIEW",
        "AGGREGATE",
        "PARTITION",
        "EVENTS",
        "ATTEMPTS",
        "SINCE",
        "REASON",
    ];
    crate::output::table(&heading, &parked.iter().map(row).collect::<Vec<_>>())?;
    Ok(ExitCode::SUCCESS)
}

async fn show(pool: &PgPool, view: &str, aggregate: &str, json: bool) -> anyhow::Result<ExitCode> {
    let events = ops::parked_events(pool, view, aggregate).await?;
    for event in &events {
        if json {
            crate::output::line(&shown(event).to_string())?;
            continue;
        }
        let sequence = event.sequence.map_or("no event".to_owned(), |sequence| {
            format!("sequence {sequence}")
        });
        let size = event.payload.as_ref().map_or(0, Vec::len);
        crate::output::line(&format!(
            "{}/{} offset {}, {sequence}, {size} bytes",
            event.topic, event.partition, event.offset
        ))?;
        for (name, value) in event.headers.as_object().into_iter().flatten() {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            crate::output::line(&format!("    {name}: {text}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The payload as hexadecimal digits: it may be anything.
fn shown(event: &ParkedEvent) -> Value {
    let payload = event.payload.as_ref().map(|bytes| {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        digits
    });
    json!({"topic": event.topic, "partition": event.partition, "offset": event.offset,
           "sequence": event.sequence, "headers": event.headers, "payload_hex": payload})
}

async fn request(
    pool: &PgPool,
    asked: &Asked,
    request: Request,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let Some(before) = find(pool, asked).await? else {
        return Err(OpsError::NotParked {
            view: asked.view.clone(),
            aggregate_id: asked.aggregate.clone(),
        }
        .into());
    };
    ops::request(pool, &asked.view, &asked.aggregate, request).await?;
    let until = Instant::now() + Duration::from_secs(asked.timeout_s);
    let after = loop {
        match find(pool, asked).await? {
            Some(open) if open.request.is_some() => {}
            done => break done,
        }
        if Instant::now() > until {
            bail!(
                "nobody has executed the request within {} s; it stays asked for. Is {} paused, or no projections process running? `millrace status` says",
                asked.timeout_s,
                asked.view
            );
        }
        tokio::time::sleep(LOOK).await;
    };
    if json {
        let left = after.as_ref();
        let line = json!({"view": asked.view, "aggregate_id": asked.aggregate, "released": left.is_none(),
                          "events_before": before.events, "parked": left});
        crate::output::line(&line.to_string())?;
    } else {
        let (view, id, events) = (&asked.view, &asked.aggregate, before.events);
        crate::output::line(&match (&after, request) {
            (None, Request::Retry) => format!("{view} applied {id}: all {events} waiting events"),
            (None, Request::Skip) => {
                format!("{view} gave up what was bad of {id}, {events} waited")
            }
            (Some(left), _) => format!(
                "{id} is still parked by {view}, {} events wait: {}",
                left.events, left.reason
            ),
        })?;
    }
    Ok(ExitCode::from(u8::from(after.is_some())))
}

async fn find(pool: &PgPool, asked: &Asked) -> Result<Option<Parked>, OpsError> {
    let parked = ops::parked(pool, Some(&asked.view)).await?;
    Ok(parked
        .into_iter()
        .find(|one| one.aggregate_id == asked.aggregate))
}
