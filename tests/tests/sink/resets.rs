//! Resets with the stock tool, skips, and offsets that the log no longer holds.

use anyhow::Result;
use millrace::event::Recorded;
use millrace::position::{JournalPosition, Token};
use millrace::projection::{Fold, Poison, Start, fold, ops, tally};
use millrace::query::QueryError;
use millrace::query::wait::await_token;
use millrace::rebuild::{self, Builder, RebuildConfig};
use tests::hall::HallEvent;
use tests::servers::Servers;
use tests::stock;
use tests::wait::eventually;
use tokio_util::sync::CancellationToken;

use super::rows::{GuestTotals, HallRow, Halls};
use super::world::World;

use tests::wait::LONGEST as LONG;

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_to_the_start_with_the_stock_tool_is_recorded_and_the_rows_stay() -> Result<()> {
    let mut world = World::new(Servers::shared(), 2).await?;
    let view = world.view(tally(GuestTotals));
    let totals = format!(
        "SELECT coalesce(sum(reservations), 0)::bigint FROM views.{}",
        view.view_name()
    );
    let sink = world.sink(&view).await?;
    for n in 0..20 {
        world.reserve(&format!("h{n}"), "ada")?;
    }
    world.until(&totals, 20).await?;
    // The stock tool resets an empty group only; a pause empties it while the process lives on.
    ops::pause(&world.kafka, &world.pool, view.name(), LONG).await?;
    assert!(sink.health().paused);
    stock::reset_offsets(
        world.servers,
        &view.group(),
        &world.topic,
        &["--to-earliest"],
    )?;
    world.reserve("h1", "ada")?;
    ops::resume(&world.pool, view.name()).await?;
    world.until(&totals, 21).await?;
    let resets = "SELECT count(*) FROM millrace_views.resets WHERE target = 0 AND next > 0";
    world.until(resets, 2).await?;
    sink.stop().await?;
    // Seen a second time it is ours, not an operator's.
    for partition in 0..2 {
        let (_, metadata) = world.committed(&view.group(), partition)?.unwrap();
        assert!(metadata.starts_with("v1;"), "{metadata}");
    }
    let sink = world.sink(&view).await?;
    world.reserve("h1", "ada")?;
    world.until(&totals, 22).await?;
    assert_eq!(world.count(resets).await, 2);
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_forwards_is_a_recorded_skip_and_marks_what_it_touches() -> Result<()> {
    let mut world = World::new(Servers::shared(), 1).await?;
    let view = world.view(fold(Halls));
    let halls = format!("views.{}", view.view_name());
    let sink = world.sink(&view).await?;
    world.reserve("h", "ada")?;
    world.reserve("other", "ada")?;
    world
        .until(&format!("SELECT count(*) FROM {halls}"), 2)
        .await?;
    sink.stop().await?;
    world.reserve("h", "bob")?;
    world.reserve("h", "eve")?;
    world.flush()?;
    stock::reset_offsets(world.servers, &view.group(), &world.topic, &["--to-latest"])?;
    let sink = world.sink(&view).await?;
    world
        .until("SELECT count(*) FROM millrace_views.skips", 1)
        .await?;
    world.reserve("h", "joe")?;
    world.reserve("other", "joe")?;
    world
        .until(
            &format!("SELECT taken FROM {halls} WHERE hall = 'h' AND version = 4"),
            2,
        )
        .await?;
    world
        .until(
            &format!("SELECT taken FROM {halls} WHERE hall = 'other' AND NOT incomplete"),
            2,
        )
        .await?;
    let status = ops::status(&world.kafka, &world.pool).await?;
    assert_eq!(status[0].incomplete_aggregates, 1);
    assert_eq!(
        (status[0].skips[0].from_offset, status[0].skips[0].to_offset),
        (2, 4)
    );
    let positions: (i64, i64) =
        sqlx::query_as("SELECT from_position, to_position FROM millrace_views.skips")
            .fetch_one(&world.pool)
            .await?;
    assert_eq!(positions, (2, 4));
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_the_log_no_longer_holds_stops_the_partition_and_names_the_runbook()
-> Result<()> {
    let mut world = World::new(Servers::shared(), 1).await?;
    let view = world.view(fold(Halls));
    let sink = world.sink(&view).await?;
    world.reserve("h", "ada")?;
    world
        .until(
            &format!("SELECT count(*) FROM views.{}", view.view_name()),
            1,
        )
        .await?;
    sink.stop().await?;
    for _ in 0..5 {
        world.reserve("h", "ada")?;
    }
    world.flush()?;
    delete_below(&world, 4)?;
    let sink = world.sink(&view).await?;
    eventually("the runbook is named", || async {
        let report = sink.health();
        !report.healthy
            && report
                .errors
                .iter()
                .any(|error| error.contains("offset-out-of-range.md"))
    })
    .await?;
    world.until("SELECT count(*) FROM millrace_views.checkpoints WHERE error LIKE '%offset-out-of-range.md%' AND next = 1", 1).await?;
    sink.stop().await?;
    Ok(())
}

/// The schedule: a tally is right, its log's start is deleted, and it is asked for a rebuild, which would count less.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_start_was_deleted_is_no_source_for_a_rebuild_or_a_new_view() -> Result<()> {
    let mut world = World::new(Servers::shared(), 1).await?;
    let view = world.view(tally(GuestTotals));
    let totals = format!(
        "SELECT coalesce(sum(reservations), 0)::bigint FROM views.{}",
        view.view_name()
    );
    for _ in 0..6 {
        world.reserve("h", "ada")?;
    }
    world.flush()?;
    let sink = world.sink(&view).await?;
    world.until(&totals, 6).await?;
    sink.stop().await?;
    delete_below(&world, 4)?;

    rebuild::ask(&mut *world.pool.acquire().await?, view.name()).await?;
    let config = RebuildConfig::new(world.kafka.clone(), world.views.clone());
    let builder = Builder::new(config, view.clone(), world.decoder());
    let refused = builder.once(&CancellationToken::new()).await;
    let refused = refused.expect_err("two thirds are gone").to_string();
    assert!(refused.contains("begins at offset 4"), "{refused}");
    let status = ops::status(&world.kafka, &world.pool).await?;
    let error = status[0].building[0].error.clone().unwrap_or_default();
    assert!(error.contains("offset-out-of-range.md"), "{error}");
    world.until(&totals, 6).await?;

    let new = world.view(fold(Halls));
    let sink = world.sink(&new).await?;
    eventually("the new view names the runbook", || async {
        let report = sink.health();
        report
            .errors
            .iter()
            .any(|error| error.contains("begins at offset 4"))
    })
    .await?;
    sink.stop().await?;
    Ok(())
}

/// Deletes the log's start with the stock tool.
fn delete_below(world: &World<'_>, offset: i64) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    let plan = serde_json::json!({"partitions": [{"topic": world.topic, "partition": 0, "offset": offset}], "version": 1});
    std::fs::write(file.path(), plan.to_string())?;
    let path = file.path().display().to_string();
    stock::tool(
        world.servers,
        "delete-records",
        &["--offset-json-file", &path],
    )?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_missing_from_the_topic_stop_the_partition_and_the_others_go_on() -> Result<()> {
    let mut world = World::new(Servers::shared(), 2).await?;
    let view = world.view(fold(Halls));
    let sink = world.sink(&view).await?;
    let halls: Vec<String> = (0..20).map(|n| format!("h{n}")).collect();
    let broken = halls
        .iter()
        .find(|hall| world.partition_of(hall) == 0)
        .unwrap()
        .clone();
    let sound = halls
        .iter()
        .find(|hall| world.partition_of(hall) == 1)
        .unwrap()
        .clone();
    world.reserve(&broken, "ada")?;
    world.lose(&broken);
    world.reserve(&broken, "ada")?;
    for _ in 0..3 {
        world.reserve(&sound, "ada")?;
    }
    world
        .until(
            &format!(
                "SELECT taken FROM views.{} WHERE hall = '{sound}'",
                view.view_name()
            ),
            3,
        )
        .await?;
    world.until("SELECT count(*) FROM millrace_views.checkpoints WHERE partition = 0 AND error LIKE '%event 3 of aggregate%follows%'", 1).await?;
    assert!(!sink.health().healthy);
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_before_a_gap_in_its_batch_is_written_and_the_reset_over_it_skips_one_record()
-> Result<()> {
    let mut world = World::new(Servers::shared(), 1).await?;
    let view = world.view(fold(Halls));
    let halls = format!("views.{}", view.view_name());
    for n in 0..30 {
        world.reserve(&format!("h{n}"), "ada")?;
    }
    world.lose("h7");
    world.reserve("h7", "bob")?;
    world.reserve("h8", "bob")?;
    world.flush()?;
    // All of it is one batch.
    let sink = world.sink(&view).await?;
    world
        .until(
            "SELECT count(*) FROM millrace_views.checkpoints
             WHERE next = 30 AND error LIKE 'offset 30, checkpoint 30: event 3 of aggregate h7%'",
            1,
        )
        .await?;
    assert_eq!(
        world.count(&format!("SELECT count(*) FROM {halls}")).await,
        30
    );
    sink.stop().await?;
    stock::reset_offsets(
        world.servers,
        &view.group(),
        &world.topic,
        &["--to-offset", "31"],
    )?;
    world.reserve("h7", "eve")?;
    let sink = world.sink(&view).await?;
    world
        .until(
            &format!(
                "SELECT count(*) FROM {halls}
                 WHERE hall = 'h8' AND taken = 2 AND NOT incomplete
                    OR hall = 'h7' AND taken = 2 AND incomplete AND version = 4"
            ),
            2,
        )
        .await?;
    // A gap before any skip: the build waits for an operator, and `status` says why.
    let builder = Builder::new(
        RebuildConfig::new(world.kafka.clone(), world.views.clone()),
        view.clone(),
        world.decoder(),
    );
    let never = CancellationToken::new();
    rebuild::ask(&mut *world.pool.acquire().await?, view.name()).await?;
    let skip_from = async |offset: i64| {
        sqlx::query("UPDATE millrace_views.skips SET from_offset = $1")
            .bind(offset)
            .execute(&world.pool)
            .await
    };
    skip_from(31).await?;
    assert!(builder.once(&never).await.is_err());
    let status = ops::status(&world.kafka, &world.pool).await?;
    let error = status[0].building[0].error.clone().unwrap_or_default();
    assert!(error.contains("event 3 of aggregate h7"), "{error}");
    skip_from(30).await?;
    // What the live view was allowed to pass, every rebuild may pass; it applies the event that was skipped.
    for live in [2, 3] {
        if live == 3 {
            rebuild::ask(&mut *world.pool.acquire().await?, view.name()).await?;
        }
        builder.once(&never).await?;
        world
            .until("SELECT live_build::bigint FROM millrace_views.views", live)
            .await?;
        world
            .until(
                &format!("SELECT taken FROM {halls} WHERE hall = 'h7' AND incomplete"),
                3,
            )
            .await?;
    }
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_caught_up_although_the_topic_ends_in_transaction_markers() -> Result<()> {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let mut world = World::new(Servers::shared(), 1).await?;
    let view = world.view(fold(Halls));
    let sink = world.sink(&view).await?;
    world.reserve("h", "ada")?;
    world
        .until(
            &format!("SELECT count(*) FROM views.{}", view.view_name()),
            1,
        )
        .await?;
    let producer: BaseProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", world.servers.kafka())
        .set("transactional.id", &world.topic)
        .create()?;
    producer.init_transactions(LONG)?;
    producer.begin_transaction()?;
    producer
        .send(
            BaseRecord::to(&world.topic)
                .key("h")
                .payload("never committed"),
        )
        .map_err(|(error, _)| error)?;
    producer.flush(LONG)?;
    producer.abort_transaction(LONG)?;
    // The broker writes the marker after it has answered; until then the readable log ends before the record.
    eventually("the marker is written", || async {
        let status = ops::status(&world.kafka, &world.pool).await;
        status.is_ok_and(|status| status[0].partitions[0].lag > Some(0))
    })
    .await?;
    let status = &ops::status(&world.kafka, &world.pool).await?[0];
    assert!(status.caught_up, "{status:?}");
    sink.stop().await?;
    Ok(())
}

/// Halls from the moment on at which the view is first run.
struct LateHalls;

impl Fold for LateHalls {
    const NAME: &'static str = "halls";
    const START: Start = Start::Now;
    const SQL: &'static str = Halls::SQL;
    type Event = HallEvent;
    type Rows = Option<HallRow>;

    fn evolve(&self, row: &mut Option<HallRow>, event: &Recorded<HallEvent>) -> Result<(), Poison> {
        Halls.evolve(row, event)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_starts_now_says_that_it_skipped_what_came_before() -> Result<()> {
    let mut world = World::new(Servers::shared(), 1).await?;
    let view = world.view(fold(LateHalls));
    for _ in 0..3 {
        world.reserve("h", "ada")?;
    }
    world.flush()?;
    let sink = world.sink(&view).await?;
    world
        .until("SELECT next FROM millrace_views.checkpoints", 3)
        .await?;
    let token = Token {
        topic: world.topic.clone(),
        partition: 0,
        position: JournalPosition {
            generation: 1,
            xid: 7,
            position: 3,
        },
    };
    let waited = await_token(&world.pool, view.name(), &token, LONG).await;
    assert!(
        matches!(waited, Err(QueryError::Skipped { .. })),
        "{waited:?}"
    );
    world.reserve("h", "bob")?;
    world
        .until(
            &format!(
                "SELECT taken FROM views.{} WHERE incomplete AND version = 4",
                view.view_name()
            ),
            1,
        )
        .await?;
    sink.stop().await?;
    Ok(())
}
