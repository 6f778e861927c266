//! Events that a view cannot apply: the aggregate waits, nobody else does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use millrace::event::Recorded;
use millrace::projection::{Fold, Poison, Request, Start, fold, ops, tally};
use tests::hall::HallEvent;
use tests::servers::Servers;

use super::rows::{GuestTotals, HallRow, Halls};
use super::world::World;

/// Halls that cannot stand one guest until the view is corrected.
struct Picky {
    corrected: Arc<AtomicBool>,
}

impl Fold for Picky {
    const NAME: &'static str = "halls";
    const START: Start = Start::Earliest;
    const SQL: &'static str = Halls::SQL;
    type Event = HallEvent;
    type Rows = Option<HallRow>;

    fn evolve(&self, row: &mut Option<HallRow>, event: &Recorded<HallEvent>) -> Result<(), Poison> {
        if let HallEvent::HallSeatReserved(reserved) = &event.event
            && reserved.guest == "mallory"
            && !self.corrected.load(Ordering::SeqCst)
        {
            return Err(Poison::new("no seat for mallory"));
        }
        Halls.evolve(row, event)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_parks_one_aggregate_in_order_and_a_retry_applies_what_waits() -> Result<()> {
    let mut world = World::new(Servers::shared(), 1).await?;
    let corrected = Arc::new(AtomicBool::new(false));
    let view = world.view(fold(Picky {
        corrected: corrected.clone(),
    }));
    let halls = format!("views.{}", view.view_name());
    let sink = world.sink(&view).await?;
    world.reserve("bad", "ada")?;
    world.reserve("good", "ada")?;
    world.reserve("bad", "mallory")?;
    world.reserve("bad", "eve")?;
    world.reserve("good", "bob")?;
    world
        .until(
            &format!("SELECT taken FROM {halls} WHERE hall = 'good' AND version = 2"),
            2,
        )
        .await?;
    world.reserve("bad", "joe")?;
    world
        .until("SELECT count(*) FROM millrace_views.parked_events", 3)
        .await?;
    assert_eq!(
        world
            .count(&format!("SELECT taken FROM {halls} WHERE hall = 'bad'"))
            .await,
        1
    );
    let parked = ops::parked(&world.pool, Some(view.name())).await?;
    assert_eq!((parked.len(), parked[0].events), (1, 3));
    assert_eq!(parked[0].reason, "no seat for mallory");
    // Still as it was: it fails again, and says how often.
    ops::request(&world.pool, view.name(), "bad", Request::Retry).await?;
    world
        .until(
            "SELECT count(*) FROM millrace_views.parked WHERE attempts = 2 AND request IS NULL",
            1,
        )
        .await?;
    corrected.store(true, Ordering::SeqCst);
    ops::request(&world.pool, view.name(), "bad", Request::Retry).await?;
    world
        .until(
            &format!(
                "SELECT taken FROM {halls} WHERE hall = 'bad' AND version = 4 AND NOT incomplete"
            ),
            4,
        )
        .await?;
    assert_eq!(
        world
            .count("SELECT count(*) FROM millrace_views.parked_events")
            .await,
        0
    );
    world.release("bad", "ada")?;
    world
        .until(
            &format!("SELECT taken FROM {halls} WHERE hall = 'bad' AND version = 5"),
            3,
        )
        .await?;
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_skip_leaves_out_the_first_bad_event_and_marks_the_rows_incomplete() -> Result<()> {
    let mut world = World::new(Servers::shared(), 1).await?;
    let view = world.view(fold(Picky {
        corrected: Arc::default(),
    }));
    let halls = format!("views.{}", view.view_name());
    let sink = world.sink(&view).await?;
    for guest in ["ada", "mallory", "bob", "mallory"] {
        world.reserve("bad", guest)?;
    }
    world
        .until("SELECT count(*) FROM millrace_views.parked_events", 3)
        .await?;
    ops::request(&world.pool, view.name(), "bad", Request::Skip).await?;
    // bob is applied, the second mallory waits now.
    world
        .until(
            &format!("SELECT taken FROM {halls} WHERE version = 3 AND incomplete"),
            2,
        )
        .await?;
    world
        .until(
            "SELECT count(*) FROM millrace_views.parked_events WHERE sequence = 4",
            1,
        )
        .await?;
    ops::request(&world.pool, view.name(), "bad", Request::Skip).await?;
    world
        .until("SELECT count(*) FROM millrace_views.parked", 0)
        .await?;
    world.reserve("bad", "eve")?;
    world
        .until(
            &format!("SELECT taken FROM {halls} WHERE version = 5 AND incomplete"),
            3,
        )
        .await?;
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgres_refuses_is_found_by_halving_and_parks_its_aggregate_only() -> Result<()> {
    let mut world = World::new(Servers::shared(), 1).await?;
    let view = world.view(fold(Halls));
    let totals = world.view(tally(GuestTotals));
    for n in 0..50 {
        world.reserve(&format!("h{n}"), if n == 31 { "nul\0" } else { "ada" })?;
    }
    world.flush()?;
    let sinks = [world.sink(&view).await?, world.sink(&totals).await?];
    world
        .until(
            &format!("SELECT count(*) FROM views.{}", view.view_name()),
            49,
        )
        .await?;
    world
        .until(
            &format!("SELECT reservations FROM views.{}", totals.view_name()),
            49,
        )
        .await?;
    world
        .until(
            "SELECT count(*) FROM millrace_views.parked WHERE aggregate_id = 'h31'",
            2,
        )
        .await?;
    for sink in sinks {
        sink.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_no_event_is_parked_alone_and_blocks_nobody() -> Result<()> {
    let mut world = World::new(Servers::shared(), 1).await?;
    let view = world.view(fold(Halls));
    let halls = format!("views.{}", view.view_name());
    let sink = world.sink(&view).await?;
    world.reserve("h", "ada")?;
    world.produce_foreign("h", b"{\"not\": \"avro\"}")?;
    world.reserve("h", "bob")?;
    // Our headers, but a schema that nobody knows: that is the aggregate's own event.
    world.produce_raw("strange", 1, &[0, 0, 0, 99, 99, 2])?;
    world
        .until(&format!("SELECT taken FROM {halls} WHERE hall = 'h'"), 2)
        .await?;
    world
        .until(
            "SELECT count(*) FROM millrace_views.parked WHERE aggregate_id IN ('@0/1', 'strange')",
            2,
        )
        .await?;
    ops::request(&world.pool, view.name(), "@0/1", Request::Skip).await?;
    world
        .until(
            "SELECT count(*) FROM millrace_views.parked WHERE aggregate_id = '@0/1'",
            0,
        )
        .await?;
    assert!(sink.health().healthy);
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgres_cannot_index_or_store_is_parked_and_blocks_nobody() -> Result<()> {
    let mut world = World::new(Servers::shared(), 1).await?;
    let totals = world.view(tally(GuestTotals));
    let sink = world.sink(&totals).await?;
    // An index entry holds at most a third of a page, compressed: this name cannot be.
    let long: String = (0..600)
        .map(|n| format!("{:x}", n * 7_919_i64 * 104_729))
        .collect();
    world.reserve("too-long", &long)?;
    // No key of ours: nothing can be parked under it.
    world.reserve("nul\0", "ada")?;
    world.reserve(&"k".repeat(3_000), "ada")?;
    world.reserve("sound", "ada")?;
    world
        .until(
            &format!("SELECT reservations FROM views.{}", totals.view_name()),
            1,
        )
        .await?;
    world
        .until(
            "SELECT count(*) FROM millrace_views.parked
             WHERE aggregate_id IN ('too-long', '@0/1', '@0/2')",
            3,
        )
        .await?;
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_away_is_waited_for_and_parks_nobody() -> Result<()> {
    let mut world = World::new(Servers::shared(), 1).await?;
    let view = world.view(fold(Halls));
    world.schemas.away.store(true, Ordering::SeqCst);
    let sink = world.sink(&view).await?;
    world.reserve("h", "ada")?;
    world.produce_raw("strange", 1, &[0, 0, 0, 99, 99, 2])?;
    world
        .until(
            "SELECT count(*) FROM millrace_views.checkpoints WHERE error LIKE '%registry is away%'",
            1,
        )
        .await?;
    assert_eq!(
        world
            .count("SELECT count(*) FROM millrace_views.parked")
            .await,
        0
    );
    world.schemas.away.store(false, Ordering::SeqCst);
    world
        .until(
            "SELECT count(*) FROM millrace_views.parked WHERE aggregate_id = 'strange'",
            1,
        )
        .await?;
    world
        .until(&format!("SELECT taken FROM views.{}", view.view_name()), 1)
        .await?;
    world
        .until(
            "SELECT count(*) FROM millrace_views.checkpoints WHERE error IS NULL",
            1,
        )
        .await?;
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn more_parked_aggregates_than_the_cap_stop_the_partition_until_there_is_room() -> Result<()>
{
    let mut world = World::new(Servers::shared(), 1).await?;
    world.options.view_parked_max = 2;
    let corrected = Arc::new(AtomicBool::new(false));
    let view = world.view(fold(Picky {
        corrected: corrected.clone(),
    }));
    let sink = world.sink(&view).await?;
    for hall in ["a", "b"] {
        world.reserve(hall, "mallory")?;
    }
    world
        .until("SELECT count(*) FROM millrace_views.parked", 2)
        .await?;
    world.reserve("c", "mallory")?;
    world.until("SELECT count(*) FROM millrace_views.checkpoints WHERE error LIKE '%the cap is 2%' AND next = 2", 1).await?;
    assert!(!sink.health().healthy);
    corrected.store(true, Ordering::SeqCst);
    // As a swap does: the stopped partition is claimed anew, or nobody would hear the request.
    sqlx::query("UPDATE millrace_views.checkpoints SET epoch = epoch + 1")
        .execute(&world.pool)
        .await?;
    ops::request(&world.pool, view.name(), "a", Request::Retry).await?;
    world
        .until(
            "SELECT count(*) FROM millrace_views.checkpoints WHERE error IS NULL AND next = 3",
            1,
        )
        .await?;
    world
        .until(
            &format!("SELECT count(*) FROM views.{}", view.view_name()),
            2,
        )
        .await?;
    assert!(sink.health().healthy, "{:?}", sink.health());
    sink.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_too_much_poison_is_written_up_to_the_aggregate_that_exceeds_the_cap()
-> Result<()> {
    let mut world = World::new(Servers::shared(), 1).await?;
    world.options.view_parked_max = 2;
    let view = world.view(fold(Halls));
    world.reserve("good", "ada")?;
    for n in 0..40 {
        world.reserve(&format!("bad{n}"), "nul\0")?;
    }
    world.flush()?;
    let sink = world.sink(&view).await?;
    world
        .until(
            "SELECT count(*) FROM millrace_views.checkpoints
             WHERE next = 3 AND error LIKE 'offset 3, checkpoint 3: %the cap is 2%'",
            1,
        )
        .await?;
    world
        .until("SELECT count(*) FROM millrace_views.parked", 2)
        .await?;
    assert_eq!(
        world
            .count(&format!("SELECT taken FROM views.{}", view.view_name()))
            .await,
        1
    );
    sink.stop().await?;
    Ok(())
}
