//! One relay at a time: what happens when it dies, freezes or comes back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use millrace::lease::{self, Attempt, Lease};
use millrace::relay::RelayRole;
use millrace::relay::gate::GateRule;
use millrace::relay::position::{self, PositionRecord};
use millrace::relay::publish::Publisher;
use millrace::relay::read::{self, Reader};
use millrace::relay::seat;

use super::{Rig, next_batch};

/// A leader that has staged a batch and not committed it: as a process that was stopped there.
struct Frozen {
    lease: Lease,
    publisher: Publisher,
    position: PositionRecord,
}

async fn hold(rig: &Rig) -> Result<Lease> {
    match lease::try_acquire(&rig.url.parse()?, &rig.config.lease()).await? {
        Attempt::Held(lease) => Ok(lease),
        Attempt::Taken(holder) => anyhow::bail!("taken by {}", holder.info),
    }
}

async fn freeze_before_commit(rig: &Rig) -> Result<Frozen> {
    let wanted: Vec<millrace::log::topics::Topic> = [
        (rig.topic(), millrace::log::topics::Kind::Events),
        (
            rig.config.relay_position_topic.clone(),
            millrace::log::topics::Kind::Position,
        ),
    ]
    .map(|(name, kind)| millrace::log::topics::Topic { name, kind })
    .into();
    millrace::log::topics::ensure(&rig.kafka, &wanted).await?;
    let lease = hold(rig).await?;
    let mut connection = read::connect(&rig.url).await?;
    let identity = seat::verify(&mut connection, None).await?;
    let limits = rig.config.limits();
    let mut reader = Reader::new(
        connection,
        Default::default(),
        limits,
        GateRule::JournalWriters,
    );
    let batch = next_batch(&mut reader).await?;
    let last = batch.events.last().context("nothing to stage")?;
    let position = PositionRecord {
        journal: identity.journal,
        generation: last.position.generation,
        xid: last.position.xid,
        position: last.position.position,
        event_id: last.event_id,
        system: identity.system,
        timeline: batch.gate.timeline,
        wal_bytes: batch.gate.wal_bytes,
    };
    let (kafka, config) = (rig.kafka.clone(), rig.config.publisher());
    let staged = position.clone();
    let publisher = tokio::task::spawn_blocking(move || {
        let mut publisher = Publisher::start(&kafka, config)?;
        publisher.stage(&batch.events, &staged)?;
        Ok::<_, millrace::relay::RelayError>(publisher)
    })
    .await??;
    // From here on nothing renews the lease, and nothing frees it.
    lease.abandon();
    Ok(Frozen {
        lease,
        publisher,
        position,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_from_a_frozen_leader_whose_late_commit_is_fenced() -> Result<()> {
    let rig = Rig::new("frozen").await?;
    rig.append(&[("a", 1), ("a", 2), ("b", 1)]).await?;
    let Frozen {
        lease,
        mut publisher,
        position,
    } = freeze_before_commit(&rig).await?;
    let frozen_at = Instant::now();
    assert!(lease.is_held());

    let mut standby = rig.start();
    standby
        .until("standing by", |status| status.role == RelayRole::StandingBy)
        .await?;
    standby.until_published(&rig).await?;
    let took = frozen_at.elapsed();
    eprintln!("took over and published after {took:?}");
    assert!(took < Duration::from_secs(40), "{took:?}");
    assert!(
        !lease.is_held(),
        "the frozen leader still believes in its lease"
    );

    // Had it passed the check of its lease just before it froze, this is what it would do now.
    let late = tokio::task::spawn_blocking(move || publisher.commit(&position)).await?;
    assert!(late.is_err(), "a fenced leader committed");
    rig.append(&[("b", 2)]).await?;
    standby.until_published(&rig).await?;
    assert_eq!(rig.assert_published().await?, 4);
    standby.stop().await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_between_produce_and_commit_leaves_no_duplicate() -> Result<()> {
    let rig = Rig::new("killed").await?;
    rig.append(&[("a", 1), ("a", 2), ("b", 1)]).await?;
    let frozen = freeze_before_commit(&rig).await?;
    // A killed process aborts nothing: the producer is leaked, its transaction stays open at the broker.
    std::mem::forget(frozen.publisher);
    frozen.lease.release().await?;
    let mut next = rig.start();
    next.until_published(&rig).await?;
    assert_eq!(rig.assert_published().await?, 3);
    next.stop().await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_after_its_commit_publishes_nothing_twice() -> Result<()> {
    let rig = Rig::new("committed").await?;
    rig.append(&[("a", 1), ("a", 2), ("b", 1)]).await?;
    let Frozen {
        lease,
        mut publisher,
        position,
    } = freeze_before_commit(&rig).await?;
    tokio::task::spawn_blocking(move || publisher.commit(&position)).await??;
    lease.release().await?;
    let mut next = rig.start();
    rig.append(&[("b", 2)]).await?;
    next.until_published(&rig).await?;
    assert_eq!(rig.assert_published().await?, 4);
    next.stop().await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_relays_one_publishes_and_the_other_follows_when_it_ends() -> Result<()> {
    let rig = Rig::new("pair").await?;
    let mut first = rig.start();
    first
        .until("active", |status| status.role == RelayRole::Active)
        .await?;
    let mut second = rig.start();
    second
        .until("standing by", |status| status.role == RelayRole::StandingBy)
        .await?;
    rig.append(&[("a", 1)]).await?;
    first.until_published(&rig).await?;
    first.stop().await??;
    second
        .until("active", |status| status.role == RelayRole::Active)
        .await?;
    rig.append(&[("a", 2)]).await?;
    second.until_published(&rig).await?;
    assert_eq!(rig.assert_published().await?, 2);
    second.stop().await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_reaches_the_journal_but_not_kafka_leaves_the_lead_to_one_that_does()
-> Result<()> {
    let mut rig = Rig::new("unreachable").await?;
    rig.append(&[("a", 1), ("b", 1)]).await?;
    let bootstrap = rig.kafka.kafka_bootstrap.clone();
    // Nothing listens on port 1.
    rig.kafka.kafka_bootstrap = "127.0.0.1:1".to_owned();
    let cut_off = rig.start();
    let mut connection = rig.connect().await?;
    let deadline = Instant::now() + super::DEADLINE;
    loop {
        let leads: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM millrace.leases)")
            .fetch_one(&mut connection)
            .await?;
        if leads {
            break;
        }
        assert!(Instant::now() < deadline, "nobody took the lease");
    }
    rig.kafka.kafka_bootstrap = bootstrap;
    let mut healthy = rig.start();
    healthy
        .until("standing by", |status| status.role == RelayRole::StandingBy)
        .await?;
    let waits_since = Instant::now();
    healthy.until_published(&rig).await?;
    let took = waits_since.elapsed();
    eprintln!("took over from a leader without kafka after {took:?}");
    assert!(took < Duration::from_secs(60), "{took:?}");

    // The lease stays where it can be used.
    rig.append(&[("a", 2)]).await?;
    healthy.until_published(&rig).await?;
    assert_eq!(rig.assert_published().await?, 3);
    cut_off.stop().await??;
    healthy.stop().await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_sessions_are_terminated_goes_on_where_it_was() -> Result<()> {
    let rig = Rig::new("terminated").await?;
    let mut relay = rig.start();
    for round in 1..=5 {
        rig.append(&[("a", round)]).await?;
        relay.until_published(&rig).await?;
        rig.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE application_name LIKE 'millrace-relay%' AND datname = current_database()",
        )
        .await?;
    }
    rig.append(&[("a", 6)]).await?;
    relay.until_published(&rig).await?;
    assert_eq!(rig.assert_published().await?, 6);
    relay.stop().await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_position_is_found_at_the_end_of_a_long_topic() -> Result<()> {
    let mut rig = Rig::new("long").await?;
    rig.config.relay_batch_events_max = 1;
    for number in 1..=200 {
        rig.append(&[("a", number)]).await?;
    }
    let mut relay = rig.start();
    relay.until_published(&rig).await?;
    relay.stop().await??;
    let (kafka, topic) = (rig.kafka.clone(), rig.config.relay_position_topic.clone());
    let found =
        tokio::task::spawn_blocking(move || position::read_latest(&kafka, &topic)).await??;
    let last = rig.journal_events().await?.pop().context("an event")?;
    assert_eq!(
        found.context("a position")?.cursor().to_string(),
        last.position
    );
    Ok(())
}
