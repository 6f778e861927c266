//! A broker that stands still for a while: its controller fences it, and for a moment it tells its clients of no broker at all,
//! not even of itself. librdkafka forgets what it is not told of, so whoever heard that reads and writes nothing any more.

use std::time::Duration;

use anyhow::Result;

use super::input::place;
use super::world::World;

/// Longer than the broker's session with its controller (`broker.session.timeout.ms`).
const STANDSTILL: Duration = Duration::from_secs(14);
/// Whether a client asks in that moment is chance: with all domains there are three hundred, and in nine of thirteen times some
/// of them did.
const TIMES_MAX: i64 = 3;
const ORDERS: i64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stood_still_is_found_again_by_whoever_reads_and_writes() -> Result<()> {
    let world = World::start()?;
    let mut up = world.up()?;
    up.ready().await?;
    place(&world, "before").await?;
    world.until_caught_up().await?;
    for time in 1..=TIMES_MAX {
        tokio::task::block_in_place(|| world.servers.stand_still(STANDSTILL))?;
        for number in 0..ORDERS {
            place(&world, &format!("while-it-comes-back-{time}-{number}")).await?;
        }
        let shown = "SELECT count(*) FROM views.orders";
        world.until_number(shown, 1 + ORDERS * time).await?;
        world.until_caught_up().await?;
        up.ready().await?;
        if up.printed().contains("AllBrokersDown") {
            break;
        }
    }
    up.stop().await
}
