//! `millrace pause`, `resume` and `rebuild`: operating one view.

use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use indicatif::{ProgressBar, ProgressStyle};
use millrace::config::{KafkaConfig, ViewsConfig};
use millrace::projection::ops;
use millrace::{event, rebuild};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{ConnectOptions, PgPool};

/// How long a server may take to answer.
pub(crate) const AWAY_AFTER: Duration = Duration::from_secs(5);

/// Between two looks while something is waited for.
const LOOK: Duration = Duration::from_millis(200);

/// Stop a view until it is resumed; also over restarts.
///
/// Returns when its consumer group is empty, which is what the stock tools need to reset its offsets.
#[derive(Debug, clap::Args)]
pub(crate) struct PauseArgs {
    /// The view, such as customer-totals.
    view: String,
    /// How long to wait for the group to become empty, in seconds.
    #[arg(long, default_value_t = 30)]
    timeout_s: u64,
    #[command(flatten)]
    kafka: KafkaConfig,
    #[command(flatten)]
    views: ViewsConfig,
}

/// Let a paused view go on.
#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    /// The view.
    view: String,
    /// Return when it has caught up and no rebuild is left.
    #[arg(long)]
    wait: bool,
    /// How long --wait waits, in seconds.
    #[arg(long, default_value_t = 600)]
    timeout_s: u64,
    #[command(flatten)]
    kafka: KafkaConfig,
    #[command(flatten)]
    views: ViewsConfig,
}

/// Compute a view anew from the start of its topics.
///
/// Readers keep the present rows, which stay up to date, until the new ones have caught up with them.
#[derive(Debug, clap::Args)]
pub(crate) struct RebuildArgs {
    /// The view.
    #[arg(required_unless_present = "aggregate", conflicts_with = "aggregate")]
    view: Option<String>,
    /// Every view that reads the events of this aggregate type, such as order; of a view that reads others too, their
    /// rows stay.
    #[arg(long)]
    aggregate: Option<String>,
    /// Return when readers see the new rows; shows the progress on a terminal.
    #[arg(long)]
    wait: bool,
    /// How long --wait waits, in seconds.
    #[arg(long, default_value_t = 3600)]
    timeout_s: u64,
    #[command(flatten)]
    views: ViewsConfig,
}

/// `millrace pause`.
pub(crate) async fn pause(args: PauseArgs) -> anyhow::Result<ExitCode> {
    let pool = connect(&args.views).await?;
    if let Some(wrong) = unknown(&pool, &args.view).await? {
        return Ok(wrong);
    }
    let timeout = Duration::from_secs(args.timeout_s);
    ops::pause(&args.kafka, &pool, &args.view, timeout).await?;
    let group = ops::group(&args.view);
    crate::output::line(&format!(
        "{} is paused and group {group} is empty; `millrace resume {}` lets it go on",
        args.view, args.view
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// `millrace resume`.
pub(crate) async fn resume(args: ResumeArgs) -> anyhow::Result<ExitCode> {
    let pool = connect(&args.views).await?;
    if let Some(wrong) = unknown(&pool, &args.view).await? {
        return Ok(wrong);
    }
    let (paused, asked): (bool, DateTime<Utc>) = sqlx::query_as(
        "SELECT paused, clock_timestamp() FROM millrace_views.views WHERE name = $1",
    )
    .bind(&args.view)
    .fetch_one(&pool)
    .await?;
    ops::resume(&pool, &args.view).await?;
    if !args.wait {
        crate::output::line(&format!(
            "{} goes on; `millrace status` shows how far it is",
            args.view
        ))?;
        return Ok(ExitCode::SUCCESS);
    }
    let until = Instant::now() + Duration::from_secs(args.timeout_s);
    // A reset shows only when its partition is claimed again: before that the view seems to be where it was.
    let since = paused.then_some(asked);
    while !settled(&args.kafka, &pool, &args.view, since).await? {
        if Instant::now() > until {
            bail!(
                "{} has not caught up within {} s: `millrace status` says why",
                args.view,
                args.timeout_s
            );
        }
        tokio::time::sleep(LOOK).await;
    }
    crate::output::line(&format!("{} has caught up", args.view))?;
    Ok(ExitCode::SUCCESS)
}

/// True when every partition was claimed since then, no reset or build is left, and no record either.
async fn settled(
    kafka: &KafkaConfig,
    pool: &PgPool,
    view: &str,
    since: Option<DateTime<Utc>>,
) -> anyhow::Result<bool> {
    let open: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM millrace_views.checkpoints
                        WHERE view = $1 AND (claimed_at IS NULL OR claimed_at < $2))
             OR NOT EXISTS (SELECT FROM millrace_views.checkpoints WHERE view = $1)
             OR EXISTS (SELECT FROM millrace_views.resets WHERE view = $1 AND done_at IS NULL)
             OR EXISTS (SELECT FROM millrace_views.builds WHERE view = $1 AND state = 'building')",
    )
    .bind(view)
    .bind(since.unwrap_or(DateTime::UNIX_EPOCH))
    .fetch_one(pool)
    .await?;
    if open {
        return Ok(false);
    }
    let statuses = ops::status(kafka, pool).await?;
    Ok(statuses
        .iter()
        .any(|status| status.view == view && status.caught_up))
}

/// `millrace rebuild`.
pub(crate) async fn rebuild(args: RebuildArgs) -> anyhow::Result<ExitCode> {
    let pool = connect(&args.views).await?;
    let mut conn = pool.acquire().await?;
    let topic = args.aggregate.as_deref().map(event::events_topic);
    let views = match (args.view, &topic) {
        (Some(view), _) => match unknown(&pool, &view).await? {
            Some(wrong) => return Ok(wrong),
            None => vec![view],
        },
        (None, Some(topic)) if !names(&pool).await?.is_empty() => {
            rebuild::readers(&mut conn, topic).await?
        }
        (None, _) => Vec::new(),
    };
    if views.is_empty() {
        let topic = topic.unwrap_or_default();
        eprintln!(
            "millrace: no view has read {topic}: is it the right aggregate type, and do the projections run?"
        );
        return Ok(ExitCode::from(2));
    }
    // All are asked for before the first is waited for: they are built side by side.
    let mut asked = Vec::new();
    for view in views {
        let resets = rebuild::ask_for(&mut conn, &view, topic.as_deref()).await?;
        if resets.is_empty() {
            bail!(
                "{view} has never read a partition, so there is nothing to rebuild: start the projections"
            );
        }
        crate::output::line(&format!(
            "rebuild of {view} over {} partitions asked for; `millrace status` shows how far it is",
            resets.len()
        ))?;
        asked.push((view, resets));
    }
    if args.wait {
        let timeout = Duration::from_secs(args.timeout_s);
        for (view, resets) in &asked {
            until_rebuilt(&mut conn, (view, resets), timeout).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows the progress on a terminal until readers see the new rows.
async fn until_rebuilt(
    conn: &mut PgConnection,
    (view, resets): (&str, &[i64]),
    timeout: Duration,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template(
        "{wide_bar} {human_pos} of {human_len} offsets, {elapsed} {msg}",
    )?);
    loop {
        let progress = rebuild::progress(conn, view, resets).await?;
        bar.set_length(u64::try_from(progress.target).unwrap_or(0));
        bar.set_position(u64::try_from(progress.read).unwrap_or(0));
        bar.set_message(if progress.build.is_some() {
            ""
        } else {
            "(waiting for a projections process to begin)"
        });
        if progress.open == 0 {
            break;
        }
        if begun.elapsed() > timeout {
            bar.abandon();
            bail!(
                "the rebuild of {view} is not done after {} s ({} of {} offsets); it goes on: `millrace status`",
                timeout.as_secs(),
                progress.read,
                progress.target
            );
        }
        tokio::time::sleep(LOOK).await;
    }
    bar.finish_and_clear();
    crate::output::line(&format!(
        "{view} is rebuilt, in {:.1} s",
        begun.elapsed().as_secs_f64()
    ))
}

/// The views' database, or within five seconds the reason why not.
pub(crate) async fn connect(config: &ViewsConfig) -> anyhow::Result<PgPool> {
    let options = PgConnectOptions::from_str(config.views_database_url.expose())
        .context("VIEWS_DATABASE_URL")?
        .application_name("millrace operator")
        .options([("statement_timeout", "30s")]);
    // A pool would try again until its time is over and then not say what the matter was.
    tokio::time::timeout(AWAY_AFTER, options.connect())
        .await
        .map_err(|_| anyhow::anyhow!("no answer within {} s", AWAY_AFTER.as_secs()))
        .and_then(|connected| Ok(connected?))
        .with_context(|| {
            format!(
                "postgres of the views at {}:{} is away",
                options.get_host(),
                options.get_port()
            )
        })?;
    Ok(PgPoolOptions::new()
        .max_connections(2)
        .acquire_timeout(AWAY_AFTER)
        .connect_lazy_with(options))
}

/// Exit code 2, with the known names, if no process has ever run such a view here.
pub(crate) async fn unknown(pool: &PgPool, view: &str) -> anyhow::Result<Option<ExitCode>> {
    let known = names(pool).await?;
    if known.iter().any(|name| name == view) {
        return Ok(None);
    }
    match known.is_empty() {
        true => eprintln!("millrace: no view has run on this database yet: start the projections"),
        false => eprintln!(
            "millrace: view {view} is not known; the views are {}",
            known.join(", ")
        ),
    }
    Ok(Some(ExitCode::from(2)))
}

async fn names(pool: &PgPool) -> anyhow::Result<Vec<String>> {
    let there: bool = sqlx::query_scalar("SELECT to_regclass('millrace_views.views') IS NOT NULL")
        .fetch_one(pool)
        .await?;
    if !there {
        return Ok(Vec::new());
    }
    Ok(
        sqlx::query_scalar("SELECT name FROM millrace_views.views ORDER BY name")
            .fetch_all(pool)
            .await?,
    )
}
