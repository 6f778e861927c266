//! What only a broker can show: members that die, sleep or are fenced.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use millrace::processor::{
    ProcessorError, ProcessorReport, RunningProcessor, Topology, command_id,
};
use tests::wait::LONGEST;
use uuid::Uuid;

use super::conformance::reserved;
use super::kafka::World;
use super::seats::{Mirror, Weather};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_becomes_a_command_and_its_offset_is_committed_with_it() -> Result<()> {
    let weather = Arc::new(Weather::default());
    let mut world = World::new(&Topology::new().processor(Mirror(weather.clone())), 1).await?;
    let event = world.produce("h", &reserved("couple"))?;
    let running = world.start();
    let commands = world.until_commands(2).await?;
    assert_eq!(commands.len(), 2);
    for (ordinal, one) in commands.iter().enumerate() {
        assert_eq!(one.aggregate_id, "h-annex");
        assert_eq!(one.guest(), "couple");
        assert_eq!(
            one.id,
            command_id(event, "mirror", ("hall", "h-annex"), "ReserveSeat", ordinal)
        );
        let header = |name: &str| one.headers.get(name).map(String::as_str);
        assert_eq!(header("ce_type"), Some("hall.reserve_seat"));
        assert_eq!(header("ce_source"), Some("/millrace/processor/mirror"));
        assert_eq!(header("ce_subject"), Some("h-annex"));
        assert_eq!(header("ce_time"), Some("2026-01-02T03:04:05.678901Z"));
        assert_eq!(header("ce_correlationid"), Some("corr-h"));
        assert_eq!(header("ce_causationid"), Some(event.to_string().as_str()));
        assert_eq!(header("ce_tenantid"), Some("acme"));
    }
    running.stop().await?;
    let (next, metadata) = world.committed(0)?.context("nothing is committed")?;
    assert_eq!(next, 1);
    let handled = metadata.strip_prefix("v1;1;1;").context(metadata.clone())?;
    let handled: serde_json::Value = serde_json::from_str(handled)?;
    assert_eq!(handled["events"], 1);
    assert_eq!(handled["event_id"], event.to_string());
    Ok(())
}

/// Waits until a member says so of itself.
async fn until(running: &RunningProcessor, check: impl Fn(&ProcessorReport) -> bool) -> Result<()> {
    let deadline = Instant::now() + LONGEST;
    while !check(&running.health()) {
        if Instant::now() > deadline {
            bail!("not within {LONGEST:?}: {:?}", running.health());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The schedule: a member polls an event and stands still in its handler until the group has given its partition away; the new
/// owner handles the event and commits; then the first one wakes up and wants to commit the same event.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_slept_through_a_rebalance_commits_nothing() -> Result<()> {
    let weather = Arc::new(Weather::default());
    let mut world = World::new(&Topology::new().processor(Mirror(weather.clone())), 1).await?;
    let (wake, asleep) = mpsc::channel();
    *weather.sleep.lock().unwrap() = Some(asleep);
    let first = world.start_with(&[("max.poll.interval.ms", "6000")]);
    until(&first, |report| report.partitions == 1).await?;
    world.produce("h", &reserved("sleeper"))?;
    let deadline = Instant::now() + LONGEST;
    while weather.sleep.lock().unwrap().is_some() {
        assert!(Instant::now() < deadline, "it never fell asleep");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let second = world.start();
    world.until_commands(1).await?;
    // It counts after the commit that made the command visible.
    until(&second, |report| report.handled == 1).await?;
    wake.send(())?;
    until(&first, |report| report.last_error.is_some()).await?;
    world.produce("h", &reserved("bob"))?;
    let commands = world.until_commands(2).await?;
    assert_eq!(commands.len(), 2, "{commands:?}");
    assert_eq!(
        (commands[0].guest(), commands[1].guest()),
        ("sleeper", "bob")
    );
    assert_eq!(first.health().handled + second.health().handled, 2);
    first.stop().await?;
    second.stop().await?;
    Ok(())
}

/// Ends the thread of one processor where it stands: the fail points are shared by all tests of the process.
fn crash_at(point: &str, world: &World) -> Result<()> {
    let thread = format!(
        "processor {}",
        millrace::processor::Handler::name(&*world.own)
    );
    fail::cfg_callback(point, move || {
        if std::thread::current().name() == Some(&thread) {
            panic!("the process ends here, as the test wants it");
        }
    })
    .map_err(|error| anyhow::anyhow!(error))
}

/// The schedule: a member dies at each point between opening and having committed a transaction, and another one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_leaves_uncommitted_is_never_seen() -> Result<()> {
    let weather = Arc::new(Weather::default());
    let mut world = World::new(&Topology::new().processor(Mirror(weather.clone())), 1).await?;
    // `processor.after-take` stands inside the client's callback, which a thread cannot leave by a panic: the crash test ends the
    // process there.
    let points = [
        "processor.after-init",
        "processor.before-begin",
        "processor.after-produce",
        "processor.after-offsets",
        "processor.after-commit",
    ];
    for (number, point) in points.iter().enumerate() {
        // A name of its own ends at once what its predecessor left open; without one, it is waited for.
        world.options.processor_member = (number % 2 == 0).then(|| "one".to_owned());
        crash_at(point, &world)?;
        let mut crashed = world.start();
        world.produce("h", &reserved(&format!("guest {number}")))?;
        let ended = crashed.ended().await;
        assert!(
            matches!(ended, Err(ProcessorError::Panicked(_))),
            "{point}: {ended:?}"
        );
        fail::remove(point);
        let running = world.start();
        let commands = world.until_commands(number + 1).await?;
        assert_eq!(commands.len(), number + 1, "{point}");
        running.stop().await?;
    }
    let commands = world.commands()?;
    let ids: BTreeSet<Uuid> = commands.iter().map(|one| one.id).collect();
    assert_eq!((commands.len(), ids.len()), (points.len(), points.len()));
    Ok(())
}

/// The schedule: members join and leave while events keep coming, so that transactions meet rebalances.
#[tokio::test(flavor = "multi_thread")]
async fn members_that_come_and_go_emit_every_command_once_and_in_order() -> Result<()> {
    let weather = Arc::new(Weather::default());
    let mut world = World::new(&Topology::new().processor(Mirror(weather.clone())), 4).await?;
    let first = world.start();
    let mut piped = 0;
    for _ in 0..3 {
        let second = world.start();
        let deadline = Instant::now() + LONGEST;
        while first.health().partitions != 2 || second.health().partitions != 2 {
            assert!(Instant::now() < deadline, "no rebalance");
            for hall in 0..8 {
                world.produce(&format!("h{hall}"), &reserved(&format!("{piped}")))?;
                piped += 1;
            }
        }
        second.stop().await?;
    }
    let commands = world.until_commands(piped).await?;
    let ids: BTreeSet<Uuid> = commands.iter().map(|one| one.id).collect();
    assert_eq!((commands.len(), ids.len()), (piped, piped));
    for hall in 0..8 {
        let annex = format!("h{hall}-annex");
        let order: Vec<usize> = commands
            .iter()
            .filter(|one| one.aggregate_id == annex)
            .map(|one| one.guest().parse().unwrap())
            .collect();
        assert!(order.is_sorted(), "{order:?}");
    }
    first.stop().await?;
    Ok(())
}

/// The schedule: somebody's transaction holds offsets of the group and does not end, as after a kill of the broker in the middle of
/// one; whoever asks for the group's offsets is told to wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_in_a_transaction_that_hangs_are_waited_for_no_longer_than_one_may_last()
-> Result<()> {
    let weather = Arc::new(Weather::default());
    let mut world = World::new(&Topology::new().processor(Mirror(weather.clone())), 1).await?;
    let hanging = world.hold_offsets("120000")?;
    world.produce("h", &reserved("couple"))?;
    let running = world.start();
    until(&running, |report| report.last_error.is_some()).await?;
    let waits = running.health().last_error.unwrap_or_default();
    assert!(waits.contains("partitions could not be taken"), "{waits}");
    assert!(waits.contains("OperationTimedOut"), "{waits}");
    assert_eq!(world.until_commands(2).await?.len(), 2);
    running.stop().await?;
    drop(hanging);
    Ok(())
}
