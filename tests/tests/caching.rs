//! Answers that a caller holds: 304 while they are what it would be told now, and never longer. Each test runs a schedule that
//! would break the invariant of `millrace::query::unchanged`.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use millrace::http::{forward, reads};
use millrace::projection::sql::PgConnection;
use millrace::projection::{Request, ops};
use millrace::query::{Listed, Page, Queries, Query, QueryBus, QueryError, Shape};
use millrace::rebuild::{self, RebuildError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::Connection;
use tests::wait::LONGEST;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::site::Site;
use crate::stage::{POISON, Stage};

/// Where a query stops between reading its rows and answering: says that it has them, then waits.
type Stop = (oneshot::Sender<()>, oneshot::Receiver<()>);
static STOP: Mutex<Option<Stop>> = Mutex::new(None);

#[derive(Serialize, JsonSchema, sqlx::FromRow)]
struct Row {
    hall: String,
    seats: i64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListSeats {
    hall: Option<String>,
}

impl Query for ListSeats {
    const VIEW: &'static str = "seats";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<Row>;
    const BY_POSITION: bool = true;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Listed<Row>, QueryError> {
        let rows = sqlx::query_as(
            "SELECT hall, seats FROM views.seats WHERE ($1 IS NULL OR hall = $1) ORDER BY hall",
        )
        .bind(&self.hall)
        .fetch_all(db)
        .await?;
        let stop = STOP.lock().expect("no test panics with it").take();
        if let Some((has_them, go_on)) = stop {
            let _ = has_them.send(());
            let _ = go_on.await;
        }
        Ok(page.listed("seats", rows, |row: &Row| row.hall.clone()))
    }
}

fn queries() -> Queries {
    Queries::new().query::<ListSeats>()
}

async fn site(stage: &Stage) -> Result<Site> {
    let bus = QueryBus::open(&stage.views, queries(), [&stage.projector])?;
    Site::serve(reads::api(bus, &[])).await
}

/// What was answered: the sum over all rows, or that it is what the caller has.
#[derive(Debug, PartialEq)]
enum Told {
    Unchanged,
    Seats(i64),
}

impl Site {
    async fn ask(&self, path: &str, held: Option<&str>) -> Result<(Told, String)> {
        let mut request = reqwest::Client::new().get(format!("{}{path}", self.url));
        if let Some(held) = held {
            request = request.header("if-none-match", held);
        }
        let answer = request.send().await?;
        let header = |name| {
            let value = answer.headers().get(name).context("no such header")?;
            anyhow::Ok(value.to_str()?.to_owned())
        };
        let (validator, control) = (header("etag")?, header("cache-control")?);
        assert_eq!(control, "no-cache");
        let told = match answer.status().as_u16() {
            304 => {
                assert!(answer.bytes().await?.is_empty());
                Told::Unchanged
            }
            200 => {
                let body: serde_json::Value = answer.json().await?;
                let rows = body["items"].as_array().context("no rows")?.iter();
                Told::Seats(rows.filter_map(|row| row["seats"].as_i64()).sum())
            }
            other => bail!("{path}: {other}"),
        };
        Ok((told, validator))
    }
}

const ALL: &str = "/views/seats";

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_the_answer_is_told_so_without_a_look_at_the_rows_by_any_process() -> Result<()> {
    let stage = Stage::new("held").await?;
    stage.publish_many(30)?;
    let sink = stage.sink().await?;
    stage.until_all().await?;
    let (one, other) = (site(&stage).await?, site(&stage).await?);
    let before = Site::serve(forward::api(&one.url, reads::operations(&queries(), &[]))?).await?;

    let (told, held) = one.ask(ALL, None).await?;
    assert_eq!(told, Told::Seats(30));
    // Nobody can read the rows now, so whoever answers has not looked at them.
    let mut conn = PgConnection::connect(stage.views.views_database_url.expose()).await?;
    let mut locked = conn.begin().await?;
    sqlx::raw_sql("LOCK TABLE seats_b1.seats IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *locked)
        .await?;
    for process in [&one, &other, &before] {
        let asked = process.ask(ALL, Some(&held));
        let answer = tokio::time::timeout(Duration::from_secs(30), asked).await??;
        assert_eq!(answer, (Told::Unchanged, held.clone()));
    }
    locked.rollback().await?;
    // Another question is another answer.
    let (told, _) = one.ask("/views/seats?hall=h1", Some(&held)).await?;
    assert_eq!(told, Told::Seats(1));

    stage.publish_many(3)?;
    stage.until_all().await?;
    for process in [&one, &other, &before] {
        let (told, now) = process.ask(ALL, Some(&held)).await?;
        assert_eq!(told, Told::Seats(33));
        assert_ne!(now, held);
    }
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_a_write_overtook_is_not_taken_for_the_present_one() -> Result<()> {
    let stage = Arc::new(Stage::new("overtaken").await?);
    stage.publish_many(9)?;
    let sink = stage.sink().await?;
    stage.until_all().await?;
    let site = Arc::new(site(&stage).await?);

    let (has_them, rows_read) = oneshot::channel();
    let (go_on, waits) = oneshot::channel();
    *STOP.lock().expect("no test panics with it") = Some((has_them, waits));
    let asked = tokio::spawn({
        let site = site.clone();
        async move { site.ask(ALL, None).await }
    });
    rows_read.await?;
    stage.publish_many(1)?;
    stage.until_all().await?;
    let _ = go_on.send(());
    let (told, held) = asked.await??;
    assert_eq!(told, Told::Seats(9), "it had read them before the write");

    let (told, now) = site.ask(ALL, Some(&held)).await?;
    assert_eq!(told, Told::Seats(10));
    assert_eq!(site.ask(ALL, Some(&now)).await?.0, Told::Unchanged);
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_retry_or_a_rebuild_writes_are_told_though_no_offset_moved() -> Result<()> {
    let stage = Stage::new("mended").await?;
    stage.publish("h1", "ada", 0)?;
    stage.publish("h2", POISON, 1)?;
    stage.publish("h2", "bob", 1)?;
    stage.flush()?;
    let sink = stage.sink().await?;
    stage
        .until("SELECT count(*) FROM millrace_views.parked_events", 2)
        .await?;
    let site = site(&stage).await?;
    let offsets = "SELECT sum(next)::bigint FROM millrace_views.checkpoints";
    let read = stage.number(offsets).await?;
    let (told, parked) = site.ask(ALL, None).await?;
    assert_eq!(told, Told::Seats(1));

    // The poison is left out, what waited behind it is applied.
    ops::request(&stage.pool, "seats", "h2", Request::Skip).await?;
    stage
        .until("SELECT count(*) FROM millrace_views.parked", 0)
        .await?;
    assert_eq!(stage.number(offsets).await?, read);
    let (told, skipped) = site.ask(ALL, Some(&parked)).await?;
    assert_eq!(told, Told::Seats(2));

    // Rows that no event accounts for; the rebuild gives those that events account for.
    sqlx::raw_sql("UPDATE seats_b1.seats SET seats = seats + 1000 WHERE hall = 'h1'")
        .execute(&stage.pool)
        .await?;
    let mut conn = stage.pool.acquire().await?;
    rebuild::ask(&mut conn, "seats").await?;
    let builder = stage.builder();
    let begun = Instant::now();
    let open = "SELECT count(*) FROM millrace_views.resets WHERE done_at IS NULL";
    while stage.number(open).await? > 0 {
        match builder.once(&CancellationToken::new()).await {
            Ok(_) | Err(RebuildError::Fenced { .. } | RebuildError::Database(_)) => {}
            Err(error) => bail!(error),
        }
        ensure!(begun.elapsed() < LONGEST, "no swap");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let live = "SELECT live_build::bigint FROM millrace_views.views";
    ensure!(stage.number(live).await? == 2, "no rebuild was swapped in");
    assert_eq!(stage.number(offsets).await?, read);
    let (told, _) = site.ask(ALL, Some(&skipped)).await?;
    // The poison is parked again: the build reads what was skipped.
    assert_eq!(told, Told::Seats(1));
    sink.stop().await?;
    Ok(())
}
