//! Members of a group that lose partitions, or have nothing to do, while something is wrong.

use std::time::Instant;

use anyhow::Result;
use millrace::projection::tally;
use tests::servers::Servers;
use tests::stock;
use tests::wait::{LONGEST, eventually};

use super::rows::GuestTotals;
use super::world::World;

const AWAY: &str = "ALTER TABLE millrace_views.checkpoints RENAME TO checkpoints_away";
const BACK: &str = "ALTER TABLE millrace_views.checkpoints_away RENAME TO checkpoints";

/// The schedule: a member is assigned partitions and cannot claim them, so it rests them; it loses half of them to a second
/// member; the trouble ends; the second one leaves, and the first gets them back, can claim them at once, and must read them.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_lost_at_rest_comes_back_awake() -> Result<()> {
    let mut world = World::new(Servers::shared(), 4).await?;
    let view = world.view(tally(GuestTotals));
    let totals = format!(
        "SELECT coalesce(sum(reservations), 0)::bigint FROM views.{}",
        view.view_name()
    );
    let first = world.sink(&view).await?;
    for n in 0..40 {
        world.reserve(&format!("h{n}"), "ada")?;
    }
    world.until(&totals, 40).await?;
    first.stop().await?;

    sqlx::query(AWAY).execute(&world.pool).await?;
    let first = world.sink(&view).await?;
    eventually("the first member rests all partitions", || async {
        first.health().partitions == 4 && !first.health().errors.is_empty()
    })
    .await?;
    let second = world.sink(&view).await?;
    eventually("they share them", || async {
        first.health().partitions == 2 && second.health().partitions == 2
    })
    .await?;
    sqlx::query(BACK).execute(&world.pool).await?;
    for n in 0..40 {
        world.reserve(&format!("h{n}"), "ada")?;
    }
    world.until(&totals, 80).await?;
    second.stop().await?;
    eventually("the first member has them all again", || async {
        first.health().partitions == 4
    })
    .await?;
    for n in 0..40 {
        world.reserve(&format!("h{n}"), "ada")?;
    }
    world.until(&totals, 120).await?;
    first.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_view_is_healthy_again_when_its_servers_answer() -> Result<()> {
    let world = World::new(Servers::shared(), 1).await?;
    let view = world.view(tally(GuestTotals));
    let sink = world.sink(&view).await?;
    eventually("it holds its partition", || async {
        sink.health().partitions == 1
    })
    .await?;
    sqlx::query("ALTER TABLE millrace_views.views RENAME TO views_away")
        .execute(&world.pool)
        .await?;
    eventually("it says what fails", || async {
        !sink.health().errors.is_empty()
    })
    .await?;
    sqlx::query("ALTER TABLE millrace_views.views_away RENAME TO views")
        .execute(&world.pool)
        .await?;
    eventually("nothing fails any more", || async {
        sink.health().errors.is_empty()
    })
    .await?;
    sink.stop().await?;
    Ok(())
}

/// The schedule: checkpoints move without us (a swap raises their epochs), we put our assignment to the proof while a rebalance
/// is under way, and the coordinator refuses it for its old generation; the partition stays ours through that rebalance.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_in_doubt_during_a_rebalance_goes_on() -> Result<()> {
    let mut world = World::new(Servers::shared(), 6).await?;
    let view = world.view(tally(GuestTotals));
    let totals = format!(
        "SELECT coalesce(sum(reservations), 0)::bigint FROM views.{}",
        view.view_name()
    );
    let first = world.sink(&view).await?;
    let mut expected = 0;
    for _ in 0..4 {
        let second = world.sink(&view).await?;
        let deadline = Instant::now() + LONGEST;
        while second.health().partitions < 3 || first.health().partitions > 3 {
            assert!(Instant::now() < deadline, "no rebalance");
            sqlx::query("UPDATE millrace_views.checkpoints SET epoch = epoch + 1")
                .execute(&world.pool)
                .await?;
            for n in 0..12 {
                world.reserve(&format!("h{n}"), "ada")?;
            }
            world.flush()?;
            expected += 12;
        }
        world.until(&totals, expected).await?;
        second.stop().await?;
    }
    for n in 0..12 {
        world.reserve(&format!("h{n}"), "ada")?;
    }
    world.until(&totals, expected + 12).await?;
    first.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stock_tool_does_not_reset_a_group_that_has_members_and_the_test_sees_it() -> Result<()>
{
    let world = World::new(Servers::shared(), 1).await?;
    let view = world.view(tally(GuestTotals));
    let sink = world.sink(&view).await?;
    eventually("it holds its partition", || async {
        sink.health().partitions == 1
    })
    .await?;
    let to = &["--to-earliest"];
    let reset = stock::reset_offsets(world.servers, &view.group(), &world.topic, to);
    let refused = reset.expect_err("the group has a member").to_string();
    assert!(refused.contains("inactive"), "{refused}");
    sink.stop().await?;
    Ok(())
}
