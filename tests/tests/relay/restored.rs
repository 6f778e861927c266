//! A journal that is not the one that was published: the relay stops and names the runbook.

use std::time::Duration;

use anyhow::{Context, Result};
use millrace::relay::gate::GateRule;
use millrace::relay::position::PositionRecord;
use millrace::relay::publish::Publisher;
use millrace::relay::read::{self, Reader};
use millrace::relay::runbook::{self, Recovery, RunbookError};
use millrace::relay::{RUNBOOK, RelayRole, seat};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::{Rig, append, next_batch};

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

async fn recover(rig: &Rig) -> Result<Recovery, RunbookError> {
    runbook::recover(&rig.config, &rig.kafka, &rig.journal).await
}

/// Appends further events and expects the relay to publish them after those of before.
async fn goes_on(rig: &Rig, events: &[(&str, i64)], all: usize) -> Result<()> {
    rig.append(events).await?;
    let mut relay = rig.start();
    relay.until_published(rig).await?;
    assert_eq!(rig.assert_published().await?, all);
    relay.stop().await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_older_dump_the_published_events_are_read_back_and_the_relay_goes_on() -> Result<()>
{
    let rig = published("read_back").await?;
    rig.execute(
        "DELETE FROM millrace.events WHERE aggregate_id = 'b' AND sequence = 2;
         UPDATE millrace.streams SET version = 1 WHERE aggregate_id = 'b';
         SELECT setval('millrace.events_position', 1)",
    )
    .await?;
    refused(&rig, &["is not in the journal"]).await?;
    let compared = runbook::compare(&rig.config, &rig.kafka, &rig.journal).await?;
    assert_eq!(
        (compared.published, compared.only_in_topics, compared.forked),
        (4, 1, 0)
    );

    let done = recover(&rig).await?;
    assert_eq!(
        (done.found, done.imported, done.moved, done.generation),
        (compared, 1, 0, 2)
    );
    let version: i64 =
        sqlx::query_scalar("SELECT version FROM millrace.streams WHERE aggregate_id = 'b'")
            .fetch_one(&mut rig.connect().await?)
            .await?;
    assert_eq!(version, 2);
    goes_on(&rig, &[("b", 3), ("a", 3)], 6).await
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_others_wrote_to_the_topics_are_counted_and_hinder_no_comparison() -> Result<()>
{
    let rig = published("foreign").await?;
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &rig.kafka.kafka_bootstrap)
        .create()?;
    let elsewhere = OwnedHeaders::new().insert(Header {
        key: "ce_source",
        value: Some("/elsewhere"),
    });
    let topic = rig.topic();
    let record = BaseRecord::to(&topic).key("a").payload("not Avro");
    producer.send(record).map_err(|(error, _)| error)?;
    let record = BaseRecord::to(&topic).key("a").payload("not Avro");
    producer
        .send(record.headers(elsewhere))
        .map_err(|(error, _)| error)?;
    producer.flush(Duration::from_secs(10))?;
    let compared = runbook::compare(&rig.config, &rig.kafka, &rig.journal).await?;
    assert_eq!(
        (
            compared.published,
            compared.only_in_topics,
            compared.foreign
        ),
        (4, 0, 2)
    );
    Ok(())
}

/// Publishes the journal as a cluster would whose transaction ids are a million higher, which is what the topics
/// look like to a new cluster into which a dump was restored.
async fn published_from_a_cluster_with_higher_ids(rig: &Rig) -> Result<()> {
    const HIGHER: i64 = 1_000_000;
    let mut relay = rig.start();
    // Makes the topics; there is nothing to publish yet.
    relay
        .until("active", |status| status.role == RelayRole::Active)
        .await?;
    relay.stop().await??;
    rig.append(&[("a", 1), ("b", 1)]).await?;
    let mut connection = read::connect(&rig.url).await?;
    let identity = seat::verify(&mut connection, None).await?;
    let mut reader = Reader::new(
        connection,
        Default::default(),
        rig.config.limits(),
        GateRule::JournalWriters,
    );
    let mut batch = next_batch(&mut reader).await?;
    for event in &mut batch.events {
        event.position.xid += HIGHER;
    }
    let last = batch.events.last().context("an event")?;
    let record = PositionRecord {
        journal: identity.journal,
        generation: last.position.generation,
        xid: last.position.xid,
        position: last.position.position,
        event_id: last.event_id,
        system: "1".to_owned(),
        timeline: batch.gate.timeline,
        wal_bytes: i64::MAX,
    };
    let (kafka, config) = (rig.kafka.clone(), rig.config.publisher());
    tokio::task::spawn_blocking(move || {
        let mut publisher = Publisher::start(&kafka, config)?;
        publisher.stage(&batch.events, &record)?;
        publisher.commit(&record)
    })
    .await??;
    rig.execute(&format!(
        "UPDATE millrace.events SET xid = (xid::text::bigint + {HIGHER})::text::xid8"
    ))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_into_a_new_cluster_what_was_accepted_there_is_published_too() -> Result<()>
{
    let rig = Rig::new("new_cluster").await?;
    published_from_a_cluster_with_higher_ids(&rig).await?;
    // Accepted before anybody looked: its transaction id is below the position.
    rig.append(&[("b", 2)]).await?;
    refused(&rig, &["next transaction is only"]).await?;
    let done = recover(&rig).await?;
    assert_eq!(
        (
            done.found.stranded,
            done.imported,
            done.moved,
            done.generation
        ),
        (1, 0, 1, 2)
    );
    goes_on(&rig, &[("b", 3), ("a", 2)], 5).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_position_is_written_anew_from_the_topics() -> Result<()> {
    let mut rig = published("reseated").await?;
    rig.config.relay_position_topic = format!("{}.other", rig.config.relay_position_topic);
    refused(&rig, &["holds no position"]).await?;
    assert_eq!(recover(&rig).await?.imported, 0);
    goes_on(&rig, &[("b", 3)], 5).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_histories_of_one_aggregate_are_refused_and_nothing_is_changed() -> Result<()> {
    let rig = published("forked").await?;
    rig.execute("DELETE FROM millrace.events WHERE aggregate_id = 'b' AND sequence = 2")
        .await?;
    rig.append(&[("b", 2)]).await?;
    let before = rig.journal_events().await?;
    let error = recover(&rig).await.expect_err("two histories");
    assert!(error.to_string().contains("b, sequence 2"), "{error}");
    assert_eq!(before, rig.journal_events().await?);
    refused(&rig, &["is not in the journal"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_recovered_beside_a_running_relay() -> Result<()> {
    let rig = published("beside").await?;
    let mut relay = rig.start();
    relay
        .until("active", |status| status.role == RelayRole::Active)
        .await?;
    assert!(matches!(
        recover(&rig).await,
        Err(RunbookError::RelayActive(_))
    ));
    relay.stop().await??;
    Ok(())
}
