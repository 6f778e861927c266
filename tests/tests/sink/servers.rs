//! Servers that go away under the sink. Each test starts its own.

use anyhow::Result;
use millrace::projection::{fold, tally};
use tests::servers::{Server, Servers};
use tests::wait::eventually;

use super::rows::{GuestTotals, Halls};
use super::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn killed_servers_cost_no_event_and_repeat_none() -> Result<()> {
    let servers = Servers::start()?;
    let mut world = World::new(&servers, 3).await?;
    let view = world.view(tally(GuestTotals));
    let halls = world.view(fold(Halls));
    let totals = format!(
        "SELECT coalesce(sum(reservations), 0)::bigint FROM views.{}",
        view.view_name()
    );
    let sinks = [world.sink(&view).await?, world.sink(&halls).await?];
    for n in 0..500 {
        world.reserve(&format!("h{n}"), "ada")?;
    }
    world.until(&totals, 500).await?;
    servers.kill(Server::Postgres)?;
    for n in 0..500 {
        world.reserve(&format!("h{n}"), "ada")?;
    }
    world.flush()?;
    eventually("the sinks say that postgres is away", || async {
        sinks.iter().all(|sink| !sink.health().errors.is_empty())
    })
    .await?;
    servers.restart()?;
    world.until(&totals, 1_000).await?;
    servers.kill(Server::Kafka)?;
    servers.restart()?;
    for n in 0..500 {
        world.reserve(&format!("h{n}"), "ada")?;
    }
    world.until(&totals, 1_500).await?;
    world
        .until(
            &format!(
                "SELECT count(*) FROM views.{} WHERE taken = 3",
                halls.view_name()
            ),
            500,
        )
        .await?;
    for sink in sinks {
        assert!(sink.health().healthy, "{:?}", sink.health());
        sink.stop().await?;
    }
    Ok(())
}
