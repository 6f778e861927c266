//! A journal that is not the one that was published: the relay stops and names the runbook.

use anyhow::Result;
use millrace::relay::{RUNBOOK, RelayRole};

use super::{Rig, append};

async fn published(name: &str) -> Result<Rig> {
    let rig = Rig::new(name).await?;
    rig.append(&[("a", 1), ("a", 2), ("b", 1)]).await?;
    rig.append(&[("b", 2)]).await?;
    let mut relay = rig.start();
    relay.until_published(&rig).await?;
    relay.stop().await??;
    Ok(rig)
}

/// Starts a relay and expects it to stop with a reason that holds these words, having published nothing.
async fn refused(rig: &Rig, words: &[&str]) -> Result<()> {
    let before = rig.topic_events(&rig.topic())?;
    let mut relay = rig.start();
    let reason = relay.until_stopped().await?;
    for word in words.iter().chain([&RUNBOOK]) {
        assert!(reason.contains(word), "{word:?} is not in {reason:?}");
    }
    // It stays stopped, with its lease free for others.
    let free: bool =
        sqlx::query_scalar("SELECT expires_at <= clock_timestamp() FROM millrace.leases")
            .fetch_one(&mut rig.connect().await?)
            .await?;
    assert!(free, "a stopped relay keeps its lease");
    assert!(!relay.task.is_finished());
    assert!(relay.stop().await?.is_err());
    assert_eq!(before, rig.topic_events(&rig.topic())?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_journal_under_the_same_topics_stops_the_relay() -> Result<()> {
    let rig = published("exchanged").await?;
    rig.execute("UPDATE millrace.journal SET uuid = gen_random_uuid()")
        .await?;
    refused(&rig, &["is that of journal"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_dump_restored_in_place_stops_the_relay() -> Result<()> {
    let rig = published("older").await?;
    rig.execute("DELETE FROM millrace.events WHERE aggregate_id = 'b' AND sequence = 2")
        .await?;
    refused(&rig, &["is not in the journal"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_ids_that_went_backwards_stop_the_relay() -> Result<()> {
    let rig = published("backwards").await?;
    // As rows stand after a dump was restored into a cluster that has run fewer transactions.
    rig.execute("UPDATE millrace.events SET xid = (xid::text::bigint + 1000000)::text::xid8")
        .await?;
    refused(&rig, &["next transaction is only"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_position_beside_published_events_stops_the_relay() -> Result<()> {
    let mut rig = published("positionless").await?;
    rig.config.relay_position_topic = format!("{}.other", rig.config.relay_position_topic);
    refused(&rig, &["holds no position", &rig.topic()]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_in_an_aggregates_sequence_stops_the_relay_before_it() -> Result<()> {
    let rig = published("gap").await?;
    rig.append(&[("a", 4)]).await?;
    refused(&rig, &["expected sequence 3", "found 4"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_that_opens_while_the_relay_runs_stops_it_too() -> Result<()> {
    let rig = Rig::new("running_gap").await?;
    let mut relay = rig.start();
    rig.append(&[("a", 1)]).await?;
    relay.until_published(&rig).await?;
    rig.append(&[("a", 3)]).await?;
    let reason = relay.until_stopped().await?;
    assert!(reason.contains("expected 2, found 3"), "{reason}");
    assert!(relay.stop().await?.is_err());
    assert_eq!(rig.topic_events(&rig.topic())?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_schema_the_journal_does_not_know_stops_the_relay() -> Result<()> {
    let rig = Rig::new("schemaless").await?;
    rig.execute("DELETE FROM millrace.schemas").await?;
    append(&mut rig.connect().await?, &rig.aggregate, &[("a", 1)]).await?;
    let mut relay = rig.start();
    let reason = relay.until_stopped().await?;
    assert!(
        reason.contains("schema id 7") && reason.contains("Happened"),
        "{reason}"
    );
    assert_eq!(relay.status.borrow().role, RelayRole::Stopped);
    assert!(relay.stop().await?.is_err());
    Ok(())
}
