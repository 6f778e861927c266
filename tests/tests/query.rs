//! Queries over HTTP: pages, tokens, and every way in which there is no answer.

use std::time::{Duration, Instant};

use anyhow::Result;
use millrace::config::{Secret, ViewsConfig};
use millrace::http::reads;
use millrace::projection::sql::PgConnection;
use millrace::projection::{Request, builds, ops};
use millrace::query::{Listed, Page, Queries, Query, QueryBus, QueryError, Shape};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::Connection;
use tests::servers::Servers;

use crate::site::Site;
use crate::stage::{POISON, Stage};

#[derive(Serialize, sqlx::FromRow, schemars::JsonSchema)]
struct Row {
    hall: String,
    seats: i64,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListSeats {
    hall: Option<String>,
}

impl Query for ListSeats {
    const VIEW: &'static str = "seats";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<Row>;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Listed<Row>, QueryError> {
        let rows = sqlx::query_as(
            "SELECT hall, seats FROM views.seats
             WHERE ($1 IS NULL OR hall = $1) AND ($2 IS NULL OR hall > $2) ORDER BY hall LIMIT $3",
        )
        .bind(&self.hall)
        .bind(page.key::<String>("seats")?)
        .bind(page.fetch_limit())
        .fetch_all(db)
        .await?;
        Ok(page.listed("seats", rows, |row: &Row| row.hall.clone()))
    }
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetSeats {
    id: String,
}

impl Query for GetSeats {
    const VIEW: &'static str = "seats";
    const SHAPE: Shape = Shape::One;
    type Answer = Row;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<Row, QueryError> {
        sqlx::query_as("SELECT hall, seats FROM views.seats WHERE hall = $1")
            .bind(&self.id)
            .fetch_optional(db)
            .await?
            .ok_or_else(|| QueryError::NotFound {
                what: "hall",
                id: self.id.clone(),
            })
    }
}

async fn site(views: &ViewsConfig, stage: Option<&Stage>) -> Result<Site> {
    let queries = Queries::new().query::<ListSeats>().query::<GetSeats>();
    let bus = QueryBus::open(views, queries, stage.map(|stage| &stage.projector))?;
    Site::serve(reads::api(bus, &[("/halls/list", "seats")])).await
}

impl Site {
    /// Status, media type and body.
    async fn get(&self, path: &str) -> Result<(u16, String, Value)> {
        let answer = reqwest::get(format!("{}{path}", self.url)).await?;
        let media = answer.headers()["content-type"].to_str()?.to_owned();
        Ok((answer.status().as_u16(), media, answer.json().await?))
    }

    async fn problem(&self, path: &str) -> Result<(u16, String)> {
        let (status, media, body) = self.get(path).await?;
        assert_eq!(media, "application/problem+json", "{path}");
        assert_eq!(body["status"], status);
        assert!(!body["detail"].as_str().unwrap_or_default().is_empty());
        Ok((status, body["type"].as_str().unwrap_or_default().to_owned()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_waited_for_and_a_skipped_parked_or_late_one_is_never_a_stale_row() -> Result<()>
{
    let stage = Stage::new("tokens").await?;
    let first = stage.publish("h1", "ada", 0)?;
    stage.flush()?;
    let sink = stage.sink().await?;
    let site = site(&stage.views, Some(&stage)).await?;
    // The checkpoint is not there yet: the query waits for it.
    let (status, _, body) = site
        .get(&format!("/views/seats/h1?after={first}&timeout_ms=20000"))
        .await?;
    assert_eq!((status, body["seats"].as_i64()), (200, Some(1)), "{body}");
    for seats in 2..=20 {
        let token = stage.publish("h1", "bob", 0)?;
        stage.flush()?;
        let (status, _, body) = site.get(&format!("/views/seats/h1?after={token}")).await?;
        assert_eq!((status, body["seats"].as_i64()), (200, Some(seats)));
    }

    let poison = stage.publish("h2", POISON, 1)?;
    stage.flush()?;
    let parked = site
        .problem(&format!("/views/seats?after={poison}"))
        .await?;
    assert_eq!(parked, (409, "parked".to_owned()));
    ops::request(&stage.pool, "seats", "h2", Request::Skip).await?;
    stage
        .until("SELECT count(*) FROM millrace_views.parked", 0)
        .await?;
    let gone = site
        .problem(&format!("/views/seats?after={poison}"))
        .await?;
    assert_eq!(gone, (410, "skipped".to_owned()));

    let mut late = first.clone();
    late.position.xid += 1_000_000;
    let path = format!("/views/seats/h1?after={late}&timeout_ms=50");
    assert_eq!(site.problem(&path).await?, (504, "behind".to_owned()));

    sink.stop().await?;
    let skipped = stage.publish("h1", "eve", 0)?;
    sqlx::query(
        "WITH c AS (UPDATE millrace_views.checkpoints
                    SET next = next + 1, generation = 1, xid = $1, position = $2 WHERE partition = 0
                    RETURNING view, topic, partition, next)
         INSERT INTO millrace_views.skips (view, topic, partition, from_offset, to_offset,
             from_generation, from_xid, from_position, to_generation, to_xid, to_position)
         SELECT view, topic, partition, next - 1, next, 1, $1, $2 - 1, 1, $1, $2 FROM c",
    )
    .bind(skipped.position.xid)
    .bind(skipped.position.position)
    .execute(&stage.pool)
    .await?;
    let gone = site
        .problem(&format!("/views/seats/h1?after={skipped}"))
        .await?;
    assert_eq!(gone, (410, "skipped".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_prepared_before_the_view_changed_is_answered_after_it() -> Result<()> {
    let stage = Stage::new("stale").await?;
    stage.publish("h1", "ada", 0)?;
    stage.flush()?;
    let sink = stage.sink().await?;
    stage.until_all().await?;
    let site = site(&stage.views, Some(&stage)).await?;
    assert_eq!(site.get("/views/seats/h1").await?.0, 200);
    // What a swap to a changed definition does: the same columns, one of another type.
    sqlx::raw_sql(
        "BEGIN; DROP VIEW views.seats;
         CREATE VIEW views.seats AS SELECT hall::varchar AS hall, seats FROM seats_b1.seats; COMMIT",
    )
    .execute(&stage.pool)
    .await?;
    let (status, _, body) = site.get("/views/seats/h1").await?;
    assert_eq!((status, body["seats"].as_i64()), (200, Some(1)), "{body}");
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other_and_what_is_malformed_is_refused() -> Result<()> {
    let stage = Stage::new("pages").await?;
    stage.publish_many(300)?;
    let sink = stage.sink().await?;
    stage.until_all().await?;
    let site = site(&stage.views, Some(&stage)).await?;
    let (mut halls, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, _, body) = site.get(&format!("/halls/list?limit=7{cursor}")).await?;
        assert_eq!(status, 200, "{body}");
        let items = body["items"].as_array().unwrap();
        halls.extend(items.iter().map(|row| row["hall"].to_string()));
        match body["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(halls.len(), 30);
    assert!(halls.is_sorted());
    for path in [
        "/views/seats?cursor=00ff",
        "/views/seats?limit=501",
        "/views/seats?hal=h1",
        "/views/seats?after=12",
        "/views/seats?after=other.events/0/1:2:3",
        "/views/seats/h1?limit=3",
    ] {
        assert_eq!(
            site.problem(path).await?,
            (400, "malformed".to_owned()),
            "{path}"
        );
    }
    for path in ["/views/seats/none", "/views/none", "/none"] {
        assert_eq!(
            site.problem(path).await?,
            (404, "unknown".to_owned()),
            "{path}"
        );
    }
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_views_database_that_is_away_is_a_503_and_not_a_hang() -> Result<()> {
    let away = ViewsConfig {
        views_database_url: Secret::from("postgres://postgres@127.0.0.1:1/views"),
    };
    let site = site(&away, None).await?;
    let begun = Instant::now();
    let answer = reqwest::get(format!("{}/views/seats", site.url)).await?;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    assert!(begun.elapsed() < Duration::from_secs(25));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_reference_system_runs_with_every_filter() -> Result<()> {
    let views = ViewsConfig {
        views_database_url: Secret::from(
            Servers::shared()
                .fresh_database("reference")
                .await?
                .as_str(),
        ),
    };
    let mut conn = PgConnection::connect(views.views_database_url.expose()).await?;
    builds::migrate(&mut conn).await?;
    for projector in projections::projections() {
        builds::ensure(&mut conn, &*projector).await?;
    }
    sqlx::raw_sql(
        "INSERT INTO event_log_b1.event_log SELECT 'order', 'o' || n, 1, gen_random_uuid(),
             'OrderPlaced', 2, timestamptz '2026-01-01' + n * interval '1 second', 'c', NULL, '{}',
             'order.events/0', n FROM generate_series(1, 3) n",
    )
    .execute(&mut conn)
    .await?;
    let queries = projections::queries::queries();
    let bus = QueryBus::open(&views, queries, &projections::projections())?;
    let site = Site::serve(reads::api(bus, &projections::queries::ALIASES)).await?;
    for path in [
        "/views/orders?customer_id=c&status=placed",
        "/views/customer-totals",
    ] {
        let (status, _, body) = site.get(path).await?;
        assert_eq!(
            (status, body["items"].as_array().map(Vec::len)),
            (200, Some(0)),
            "{body}"
        );
    }
    for path in ["/views/orders/o", "/views/customer-totals/c"] {
        assert_eq!(site.problem(path).await?.0, 404, "{path}");
    }
    let all = "/events/list?aggregate=order&type=OrderPlaced&correlation_id=c\
               &from=2026-01-01T00:00:02Z&to=2027-01-01T00:00:00Z&limit=1";
    let (status, _, first) = site.get(all).await?;
    assert_eq!(
        (status, &first["items"][0]["aggregate_id"]),
        (200, &"o2".into()),
        "{first}"
    );
    let next = format!("{all}&cursor={}", first["cursor"].as_str().unwrap());
    let (_, _, last) = site.get(&next).await?;
    assert_eq!(last["items"][0]["aggregate_id"], "o3", "{last}");
    assert!(last["cursor"].is_null());
    assert_eq!(site.problem("/events/list?from=yesterday").await?.0, 400);
    Ok(())
}
