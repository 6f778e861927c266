//! Rebuilds beside a live sink: the schedules that would lose, repeat or hide events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use millrace::projection::checkpoint::{self, Checkpoint, Move};
use millrace::rebuild::{self, Builder, RebuildError, Work};
use tests::wait::LONGEST;
use tokio_util::sync::CancellationToken;

use crate::stage::Stage;

/// Runs the builder until every reset is done and nothing is left to drop.
async fn build(stage: &Stage, builder: &Builder) -> Result<()> {
    let begun = Instant::now();
    loop {
        match builder.once(&CancellationToken::new()).await {
            Ok(_) | Err(RebuildError::Fenced { .. } | RebuildError::Database(_)) => {}
            Err(error) => bail!(error),
        }
        let left = stage
            .number(
                "SELECT (SELECT count(*) FROM millrace_views.resets WHERE done_at IS NULL)
                      + (SELECT count(*) FROM millrace_views.builds b
                         JOIN information_schema.schemata s ON s.schema_name = b.schema_name
                         WHERE b.state <> 'live')",
            )
            .await?;
        if left == 0 {
            return Ok(());
        }
        ensure!(begun.elapsed() < LONGEST, "{left} left");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ask(stage: &Stage) -> Result<Vec<i64>> {
    let mut conn = stage.pool.acquire().await?;
    Ok(rebuild::ask(&mut conn, "seats").await?)
}

const LIVE_BUILD: &str = "SELECT live_build::bigint FROM millrace_views.views";

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_under_load_loses_and_repeats_nothing_and_readers_never_see_fewer_rows()
-> Result<()> {
    let stage = Arc::new(Stage::new("load").await?);
    stage.publish_many(6_000)?;
    let sink = stage.sink().await?;
    stage.until_all().await?;

    let done = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (stage, done) = (stage.clone(), done.clone());
        async move {
            while !done.load(Ordering::Relaxed) {
                stage.publish_many(30)?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        }
    });
    let reads = tokio::spawn({
        let (stage, done) = (stage.clone(), done.clone());
        async move {
            let (mut seen, mut reads) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                let now = stage.seats().await?;
                ensure!(now >= seen, "the sum fell from {seen} to {now}");
                (seen, reads) = (now, reads + 1);
            }
            Ok(reads)
        }
    });
    for round in 2..=4 {
        let resets = ask(&stage).await?;
        build(&stage, &stage.builder()).await?;
        assert_eq!(stage.number(LIVE_BUILD).await?, round);
        let mut conn = stage.pool.acquire().await?;
        assert_eq!(
            rebuild::progress(&mut conn, "seats", &resets).await?.open,
            0
        );
    }
    done.store(true, Ordering::Relaxed);
    load.await??;
    assert!(reads.await?? > 20);
    stage.until_all().await?;
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_of_one_partition_leaves_the_rows_of_the_others() -> Result<()> {
    let stage = Stage::new("partial").await?;
    stage.publish_many(900)?;
    let sink = stage.sink().await?;
    stage.until_all().await?;
    // Damage rows of two partitions; only one of them is rebuilt.
    for partition in [0, 1] {
        sqlx::query(
            "UPDATE seats_b1.seats SET seats = seats + 1000 WHERE source = $1 AND hall = $2",
        )
        .bind(format!("{}/{partition}", stage.topic))
        .bind(format!("h{partition}"))
        .execute(&stage.pool)
        .await?;
    }
    assert_eq!(stage.seats().await?, 2_900);
    sqlx::query(
        "INSERT INTO millrace_views.resets (view, topic, partition, target, next)
         SELECT view, topic, partition, 0, next FROM millrace_views.checkpoints WHERE partition = 0",
    )
    .execute(&stage.pool)
    .await?;
    build(&stage, &stage.builder()).await?;
    assert_eq!(stage.seats().await?, 1_900);
    assert_eq!(stage.number(LIVE_BUILD).await?, 1);
    // The live sink goes on in the same tables.
    stage.publish_many(90)?;
    stage
        .until("SELECT sum(seats)::bigint FROM views.seats", 1_990)
        .await?;
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_killed_between_any_two_steps_is_taken_over_by_another() -> Result<()> {
    let stage = Stage::new("killed").await?;
    stage.publish_many(1_800)?;
    let sink = stage.sink().await?;
    stage.until_all().await?;
    for point in [
        "rebuild.after-create",
        "rebuild.after-batch",
        "rebuild.before-swap",
        "rebuild.in-swap",
        "rebuild.after-swap",
        "rebuild.after-drop",
    ] {
        let before = stage.number(LIVE_BUILD).await?;
        ask(&stage).await?;
        fail::cfg(point, "return").map_err(anyhow::Error::msg)?;
        let killed = stage.builder().once(&CancellationToken::new()).await;
        fail::remove(point);
        assert!(
            matches!(killed, Err(RebuildError::Stopped(at)) if at == point),
            "{point}: {killed:?}"
        );
        stage.publish_many(60)?;
        build(&stage, &stage.builder()).await?;
        assert_eq!(stage.number(LIVE_BUILD).await?, before + 1, "{point}");
        stage.until_all().await?;
    }
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_build_and_two_racing_builders_end_in_one_right_build() -> Result<()> {
    let stage = Stage::new("race").await?;
    stage.publish_many(3_000)?;
    let sink = stage.sink().await?;
    stage.until_all().await?;
    ask(&stage).await?;
    let (dropped, running) = (stage.builder(), CancellationToken::new());
    let cut = tokio::time::timeout(Duration::from_millis(150), dropped.once(&running));
    let _ = cut.await;
    let (one, two) = (stage.builder(), stage.builder());
    let (first, second) = tokio::join!(build(&stage, &one), build(&stage, &two));
    first?;
    second?;
    assert_eq!(stage.number(LIVE_BUILD).await?, 2);
    stage.until_all().await?;
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_during_a_build_waits_for_the_next_one() -> Result<()> {
    let stage = Stage::new("queue").await?;
    stage.publish_many(300)?;
    let sink = stage.sink().await?;
    stage.until_all().await?;
    ask(&stage).await?;
    fail::cfg("rebuild.after-create", "return").map_err(anyhow::Error::msg)?;
    let killed = stage.builder().once(&CancellationToken::new()).await;
    fail::remove("rebuild.after-create");
    assert!(
        matches!(killed, Err(RebuildError::Stopped(_))),
        "{killed:?}"
    );
    let later = ask(&stage).await?;
    let waiting = "SELECT count(*) FROM millrace_views.resets WHERE build IS NULL";
    assert_eq!(stage.number(waiting).await?, later.len() as i64);
    build(&stage, &stage.builder()).await?;
    assert_eq!(
        stage
            .number("SELECT count(DISTINCT build) FROM millrace_views.resets")
            .await?,
        2
    );
    assert_eq!(stage.number(LIVE_BUILD).await?, 3);
    stage.until_all().await?;
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_for_another_definition_waits_for_the_program_that_has_it() -> Result<()> {
    let stage = Stage::new("other").await?;
    stage.publish_many(300)?;
    let sink = stage.sink().await?;
    stage.until_all().await?;
    ask(&stage).await?;
    sqlx::query("UPDATE millrace_views.resets SET definition = 'another'")
        .execute(&stage.pool)
        .await?;
    let found = stage.builder().once(&CancellationToken::new()).await?;
    assert_eq!(found, Work::None);
    // An operator's own reset is not held up by them, and leaves them open.
    ask(&stage).await?;
    let found = stage.builder().once(&CancellationToken::new()).await?;
    assert_eq!(found, Work::Done);
    assert_eq!(stage.number(LIVE_BUILD).await?, 2);
    let open = "SELECT count(*) FROM millrace_views.resets
                WHERE definition = 'another' AND build IS NULL AND done_at IS NULL";
    assert_eq!(stage.number(open).await?, 3);
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_slept_through_a_swap_moves_no_checkpoint() -> Result<()> {
    let stage = Stage::new("zombie").await?;
    stage.publish_many(300)?;
    let sink = stage.sink().await?;
    stage.until_all().await?;
    sink.stop().await?;
    let (epoch, next): (i64, i64) =
        sqlx::query_as("SELECT epoch, next FROM millrace_views.checkpoints WHERE partition = 0")
            .fetch_one(&stage.pool)
            .await?;
    ask(&stage).await?;
    build(&stage, &stage.builder()).await?;
    let claimed = Checkpoint {
        topic: stage.topic.clone(),
        partition: 0,
        epoch,
        next,
        position: None,
    };
    let step = Move {
        next: next + 1,
        ..claimed.stay()
    };
    let mut tx = stage.pool.begin().await?;
    let lost = checkpoint::advance(&mut tx, "seats", &[step]).await?;
    assert_eq!(lost, [(stage.topic.clone(), 0)]);
    Ok(())
}
