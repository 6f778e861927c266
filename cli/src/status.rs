//! `millrace status`: how the relay and the views are, and what to type about it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use chrono::{DateTime, Utc};
use millrace::config::{KafkaConfig, ViewsConfig};
use millrace::processor::ops::ProcessorStatus;
use millrace::projection::ops::{self, OpsError, PartitionStatus, ViewStatus};
use serde::Serialize;
use serde_json::Value;

use crate::effect_status;
use crate::views::{self, AWAY_AFTER};

/// A gate that is held for less is nothing to look at.
const GATE_HELD_MS: u64 = 1_000;
/// A claim of a producer that died runs out in 5 s; what is later than this is fired by nobody.
const TIMER_LATE_MS: i64 = 15_000;

/// Show the relay, the views and their groups, and what needs attention.
///
/// Exit 0 if everything runs, be it behind, paused or in a rebuild; 1 if something needs a person: a server that does
/// not answer, a stopped relay, a partition that stands still, a view that nobody runs, a parked aggregate.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    kafka: KafkaConfig,
    #[command(flatten)]
    views: ViewsConfig,
    /// The producer.
    #[arg(long, env = "MILLRACE_URL", default_value = crate::MILLRACE_URL)]
    url: String,
    /// The processors, where they run in a process of their own.
    #[arg(long, env = "PROCESSORS_URL")]
    processors_url: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// A view with the members of its group; none where Kafka is away.
#[derive(Debug, Serialize)]
struct View {
    #[serde(flatten)]
    status: ViewStatus,
    members: Option<usize>,
}

/// A processor as Kafka shows it, with what the process at `MILLRACE_URL` or `PROCESSORS_URL` says of its own.
#[derive(Debug, Serialize)]
struct Processor {
    #[serde(flatten)]
    status: ProcessorStatus,
    /// As `GET /status/processors` answers; null if nobody does.
    member: Option<Value>,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Status {
    /// False if something needs a person.
    healthy: bool,
    /// As `GET /status/relay` answers; null if it does not.
    relay: Option<Value>,
    /// As `GET /status/timers` answers; null if it does not.
    timers: Option<Value>,
    views: Vec<View>,
    /// Null where Kafka does not answer.
    processors: Option<Vec<Processor>>,
    effects: Vec<effect_status::Effect>,
    /// What is wrong and what to do, one sentence each.
    problems: Vec<String>,
    /// What an operator did or is doing, and what comes of it.
    notes: Vec<String>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut status = Status {
        healthy: true,
        relay: None,
        timers: None,
        views: Vec::new(),
        processors: None,
        effects: effect_status::of(&args.kafka, &args.views).await,
        problems: Vec::new(),
        notes: Vec::new(),
    };
    let (relay, timers, views, processors) = tokio::join!(
        ask_producer(&args.url, "relay"),
        ask_producer(&args.url, "timers"),
        views_of(&args),
        processors_of(&args)
    );
    match relay {
        Ok(relay) => status.look_at_relay(relay),
        Err(reason) => status.problems.push(reason),
    }
    match timers {
        Ok(timers) => status.look_at_timers(timers),
        // Of a producer that does not answer at all, the relay's question has told.
        Err(reason) if status.relay.is_some() => status.problems.push(reason),
        Err(_) => {}
    }
    status.views = views.0;
    status.problems.extend(views.1);
    for view in &status.views {
        let (problems, notes) = findings(view);
        status.problems.extend(problems);
        status.notes.extend(notes);
    }
    match processors {
        Ok(processors) => status.look_at_processors(processors),
        Err(reason) => status.problems.push(reason),
    }
    for effect in &status.effects {
        let (problems, notes) = effect_status::findings(effect);
        status.problems.extend(problems);
        status.notes.extend(notes);
    }
    status.healthy = status.problems.is_empty();
    match args.json {
        true => crate::output::line(&serde_json::to_string(&status)?)?,
        false => status.print()?,
    }
    Ok(ExitCode::from(u8::from(!status.healthy)))
}

async fn ask_producer(url: &str, what: &str) -> Result<Value, String> {
    let away = |reason: String| {
        format!("the producer at {url} (MILLRACE_URL) does not answer about its {what}: {reason}")
    };
    let ask = async {
        let client = reqwest::Client::builder().timeout(AWAY_AFTER).build()?;
        let address = format!("{}/status/{what}", url.trim_end_matches('/'));
        client
            .get(address)
            .send()
            .await?
            .error_for_status()?
            .json()
            .await
    };
    ask.await.map_err(|error: reqwest::Error| {
        away(match (error.status(), error.is_timeout()) {
            (Some(status), _) => format!("it answers {status}"),
            (None, true) => format!("no answer within {} s", AWAY_AFTER.as_secs()),
            (None, false) => "no answer".to_owned(),
        })
    })
}

/// The views, and which of their servers are away.
async fn views_of(args: &Args) -> (Vec<View>, Vec<String>) {
    let (answered, connected) =
        tokio::join!(ops::kafka_answers(&args.kafka), views::connect(&args.views));
    let mut problems = Vec::new();
    if let Err(error) = &answered {
        problems.push(format!(
            "kafka at {} does not answer ({error}): lags and groups are unknown",
            args.kafka.kafka_bootstrap
        ));
    }
    let pool = match connected {
        Ok(pool) => pool,
        Err(error) => {
            problems.push(format!("{error:#}"));
            return (Vec::new(), problems);
        }
    };
    let looked = async {
        if answered.is_ok() {
            ops::status(&args.kafka, &pool).await
        } else {
            ops::stored_status(&pool).await
        }
    };
    let statuses = match tokio::time::timeout(3 * AWAY_AFTER, looked).await {
        Ok(Ok(statuses)) => statuses,
        Ok(Err(error)) => {
            problems.push(not_read(&error));
            Vec::new()
        }
        Err(_) => {
            problems.push(
                "the views' state was not read in time: see the logs of kafka and postgres"
                    .to_owned(),
            );
            Vec::new()
        }
    };
    let members = match answered {
        Ok(()) => ops::members_of_all(args.kafka.clone()).await.ok(),
        Err(_) => None,
    };
    let view = |status: ViewStatus| View {
        members: members
            .as_ref()
            .map(|all| all.get(&status.group).copied().unwrap_or(0)),
        status,
    };
    (statuses.into_iter().map(view).collect(), problems)
}

async fn processors_of(args: &Args) -> Result<Vec<Processor>, String> {
    let kafka = args.kafka.clone();
    let looked = tokio::task::spawn_blocking(move || {
        millrace::processor::ops::status(&kafka, processors::topology().handlers())
    });
    let statuses = match looked.await {
        Ok(Ok(statuses)) => statuses,
        // Nothing is wrong where nobody has started them yet.
        Ok(Err(millrace::processor::ops::OpsError::NoTopic(_))) => return Ok(Vec::new()),
        Ok(Err(error)) => return Err(format!("the processors' state cannot be read: {error}")),
        Err(error) => return Err(format!("the processors' state cannot be read: {error}")),
    };
    let url = args.processors_url.as_ref().unwrap_or(&args.url);
    let ask = async {
        let client = reqwest::Client::builder().timeout(AWAY_AFTER).build()?;
        let address = format!("{}/status/processors", url.trim_end_matches('/'));
        let answer = client.get(address).send().await?.error_for_status()?;
        answer.json::<Vec<Value>>().await
    };
    // A process that runs no processors answers 404; Kafka's view is enough then.
    let said = ask.await.unwrap_or_default();
    let processors = statuses.into_iter().map(|status| Processor {
        member: said
            .iter()
            .find(|one| one["name"] == *status.processor)
            .cloned(),
        status,
    });
    Ok(processors.collect())
}

fn not_read(error: &OpsError) -> String {
    let missing = matches!(error, OpsError::Database(sqlx::Error::Database(error))
        if matches!(error.code().as_deref(), Some("42P01" | "3F000")));
    match missing {
        true => "no view has run on VIEWS_DATABASE_URL yet: start `millrace up` or `millrace projections`".to_owned(),
        false => format!("the views' state cannot be read: {error}"),
    }
}

impl Status {
    fn look_at_relay(&mut self, relay: Value) {
        let text = |name: &str| relay[name].as_str().unwrap_or("unknown").to_owned();
        if relay["role"] == "stopped" {
            self.problems.push(format!(
                "the relay has stopped: {}; see docs/runbooks/journal-restored.md, begin with `millrace journal compare`",
                text("error")
            ));
        } else if !relay["error"].is_null() {
            self.problems
                .push(format!("the relay tries again after: {}", text("error")));
        }
        let held_ms = relay["gate_held_ms"].as_u64().unwrap_or(0);
        if held_ms >= GATE_HELD_MS {
            self.notes.push(format!(
                "the relay waits since {} for transaction {} of {} (postgres pid {}): events after it are not published before it ends",
                span(Duration::from_millis(held_ms)),
                relay["gate_xid"],
                text("gate_application"),
                relay["gate_pid"]
            ));
        }
        self.relay = Some(relay);
    }

    fn look_at_timers(&mut self, timers: Value) {
        let failed = timers["failed"].as_i64().unwrap_or(0);
        if failed > 0 {
            self.problems.push(format!(
                "{failed} timers could not be fired: SELECT * FROM millrace.timers WHERE state = 'failed' says why; mend that, then UPDATE … SET state = 'pending'"
            ));
        }
        let late = timers["oldest_due_age_ms"].as_i64().unwrap_or(0);
        if late > TIMER_LATE_MS {
            self.problems.push(format!(
                "the oldest timer is due since {late} ms: no producer fires it; see its log"
            ));
        }
        self.timers = Some(timers);
    }

    fn look_at_processors(&mut self, processors: Vec<Processor>) {
        if processors.is_empty() {
            self.notes.push(
                "no processor has run on this Kafka yet: `millrace up` or `millrace processors` starts them"
                    .to_owned(),
            );
        }
        for one in &processors {
            let (status, name) = (&one.status, &one.status.processor);
            if status.members == 0 {
                self.problems.push(format!(
                    "processor {name} has nobody in group {}: start `millrace up` or `millrace processors`",
                    status.group
                ));
            }
            if let Some(member) = one
                .member
                .as_ref()
                .filter(|member| member["healthy"] == false)
            {
                let error = member["error"].as_str().unwrap_or("no reason given");
                self.problems
                    .push(format!("processor {name} does not get on: {error}"));
            }
            for block in &status.blocks {
                self.problems.push(format!(
                    "processor {name} has dead letters of {} since {}: {}; `millrace dlq show {name} {}`, then `millrace dlq redrive {name} {}` or, to give it up, `millrace dlq skip`",
                    block.key,
                    block.since.format("%Y-%m-%d %H:%M:%SZ"),
                    block.reason,
                    block.key,
                    block.key
                ));
            }
        }
        self.processors = Some(processors);
    }

    fn print_processors(&self) -> anyhow::Result<()> {
        let processors = self.processors.as_deref().unwrap_or_default();
        if processors.is_empty() {
            return Ok(());
        }
        crate::output::line("")?;
        let heading = [
            "PROCESSOR",
            "STATE",
            "LAG",
            "PARTITIONS",
            "MEMBERS",
            "BLOCKED KEYS",
            "LAST ERROR",
        ];
        let row = |one: &Processor| {
            let status = &one.status;
            let behind = status.partitions.iter().filter(|one| !one.caught_up);
            let lag: i64 = behind.clone().map(|one| one.lag).sum();
            let state = match (status.members, status.caught_up) {
                (0, _) => "nobody runs it",
                (_, true) => "caught up",
                (_, false) => "behind",
            };
            let error = one
                .member
                .as_ref()
                .and_then(|one| one["last_error"].as_str());
            vec![
                status.processor.clone(),
                state.to_owned(),
                lag.to_string(),
                format!("{} of {} behind", behind.count(), status.partitions.len()),
                status.members.to_string(),
                status.blocks.len().to_string(),
                error.unwrap_or_default().to_owned(),
            ]
        };
        crate::output::table(&heading, &processors.iter().map(row).collect::<Vec<_>>())
    }

    fn print(&self) -> anyhow::Result<()> {
        match &self.relay {
            None => crate::output::line("relay   unknown")?,
            Some(relay) => crate::output::line(&relay_line(relay))?,
        }
        if let Some(timers) = &self.timers {
            let late = timers["oldest_due_age_ms"].as_i64();
            let late = late.map(|ms| format!(", the oldest due since {ms} ms"));
            crate::output::line(&format!(
                "timers  {} pending{}",
                timers["pending"],
                late.unwrap_or_default()
            ))?;
        }
        if !self.views.is_empty() {
            crate::output::line("")?;
            let heading = [
                "VIEW",
                "STATE",
                "LAG",
                "PARTITIONS",
                "MEMBERS",
                "LAST EVENT",
                "PARKED",
                "SKIPS",
                "INCOMPLETE",
                "BUILD",
            ];
            let rows: Vec<_> = self.views.iter().map(row).collect();
            crate::output::table(&heading, &rows)?;
            crate::output::line("")?;
            for view in &self.views {
                crate::output::line(&format!(
                    "{}: group {}, tables {}",
                    view.status.view,
                    view.status.group,
                    view.status.tables.join(", ")
                ))?;
            }
        }
        self.print_processors()?;
        if !self.effects.is_empty() {
            crate::output::line("")?;
            let rows: Vec<_> = self.effects.iter().map(effect_status::row).collect();
            crate::output::table(&effect_status::HEADING, &rows)?;
        }
        for (title, lines) in [("NOTES", &self.notes), ("NEEDS ATTENTION", &self.problems)] {
            if !lines.is_empty() {
                crate::output::line(&format!("\n{title}"))?;
                for line in lines {
                    crate::output::line(&format!("  {line}"))?;
                }
            }
        }
        if self.healthy {
            crate::output::line("\nall is well")?;
        }
        Ok(())
    }
}

fn relay_line(relay: &Value) -> String {
    let role = relay["role"].as_str().unwrap_or("unknown");
    let mut line = format!("relay   {role}");
    if let Some(leader) = relay["leader"].as_str() {
        line.push_str(&format!(", the active one is {leader}"));
    }
    if let Some(position) = relay["position"].as_str() {
        line.push_str(&format!(", at {position}"));
    }
    line.push_str(&format!(", {} events published", relay["published"]));
    let last = relay["published_at"].as_str();
    if let Some(at) = last.and_then(|at| at.parse().ok()) {
        line.push_str(&format!(", the last {} ago", since(at)));
    }
    line
}

fn row(view: &View) -> Vec<String> {
    let status = &view.status;
    let behind = status.partitions.iter().filter(|one| !one.caught_up);
    let unknown = || "?".to_owned();
    let lag: Option<i64> = status
        .partitions
        .iter()
        .map(|one| if one.caught_up { Some(0) } else { one.lag })
        .sum();
    let last = status
        .partitions
        .iter()
        .filter_map(|one| one.event_time)
        .max();
    let stands = status.partitions.iter().any(|one| one.error.is_some());
    let state = if stands {
        "stands still"
    } else if status.paused {
        "paused"
    } else if view.members == Some(0) {
        "nobody runs it"
    } else if !status.building.is_empty() {
        "rebuilding"
    } else if status.caught_up {
        "caught up"
    } else if lag.is_none() {
        "unknown"
    } else {
        "behind"
    };
    vec![
        status.view.clone(),
        state.to_owned(),
        lag.map_or_else(unknown, |lag| lag.to_string()),
        match lag {
            Some(_) => format!("{} of {} behind", behind.count(), status.partitions.len()),
            None => status.partitions.len().to_string(),
        },
        view.members
            .map_or_else(unknown, |members| members.to_string()),
        last.map_or_else(
            || "none".to_owned(),
            |at| at.format("%Y-%m-%d %H:%M:%SZ").to_string(),
        ),
        status.parked_aggregates.to_string(),
        status.skips.len().to_string(),
        status.incomplete_aggregates.to_string(),
        status.live_build.to_string(),
    ]
}

/// What needs a person, and what is only worth knowing.
fn findings(view: &View) -> (Vec<String>, Vec<String>) {
    let (status, name) = (&view.status, &view.status.view);
    let mut problems: Vec<String> = errors(&status.partitions)
        .into_iter()
        .map(|(error, at)| format!("{name} stands still at {at}: {error}"))
        .collect();
    let mut notes = Vec::new();
    if status.paused {
        notes.push(format!(
            "{name} is paused; `millrace resume {name}` lets it go on"
        ));
    } else if view.members == Some(0) {
        problems.push(format!(
            "{name} has nobody in group {}: start `millrace up` or `millrace projections`",
            status.group
        ));
    }
    if status.parked_aggregates > 0 {
        problems.push(format!(
            "{name} has {} parked aggregates: `millrace parked list {name}`",
            status.parked_aggregates
        ));
    }
    let behind: Vec<String> = status
        .partitions
        .iter()
        .filter(|one| !one.caught_up)
        .filter_map(|one| {
            let (lag, moved) = (one.lag?, since(one.updated_at));
            Some(format!(
                "{}/{} by {lag}, last moved {moved} ago",
                one.topic, one.partition
            ))
        })
        .collect();
    if !behind.is_empty() {
        notes.push(format!("{name} is behind: {}", behind.join("; ")));
    }
    for skip in &status.skips {
        notes.push(format!(
            "{name} skips {}/{} offsets {} to {}, since {}; `millrace rebuild {name}` applies them",
            skip.topic,
            skip.partition,
            skip.from_offset,
            skip.to_offset - 1,
            skip.created_at.format("%Y-%m-%d %H:%M:%SZ")
        ));
    }
    if status.incomplete_aggregates > 0 {
        notes.push(format!(
            "{name} has {} aggregates whose rows miss skipped events (column `incomplete`)",
            status.incomplete_aggregates
        ));
    }
    for build in &status.building {
        notes.push(format!(
            "{name} is being rebuilt ({}), build {}: {} of {} offsets after {}",
            build.reason,
            build.build,
            build.applied,
            build.total,
            since(build.started_at)
        ));
    }
    let waiting = status
        .resets
        .iter()
        .filter(|reset| reset.build.is_none())
        .count();
    if waiting > 0 {
        notes.push(format!(
            "{name}: the resets of {waiting} partitions wait for the next rebuild"
        ));
    }
    (problems, notes)
}

/// Each error once, with the partitions that have it and since when.
fn errors(partitions: &[PartitionStatus]) -> BTreeMap<&str, String> {
    let mut found: BTreeMap<&str, String> = BTreeMap::new();
    for one in partitions {
        let Some(error) = &one.error else { continue };
        let places = found.entry(error).or_default();
        if !places.is_empty() {
            places.push_str(", ");
        }
        places.push_str(&format!("{}/{}", one.topic, one.partition));
        if let Some(at) = one.error_at {
            places.push_str(&format!(" for {}", since(at)));
        }
    }
    found
}

fn since(at: DateTime<Utc>) -> String {
    span((Utc::now() - at).to_std().unwrap_or_default())
}

fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
