//! What stands on the topic.

use anyhow::{Context, Result};
use millrace::relay::RelayRole;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use sqlx::Connection;

use super::gate::writers;
use super::{DEADLINE, Rig, append, header};

#[tokio::test(flavor = "multi_thread")]
async fn beside_slow_writers_the_topic_holds_what_the_journal_holds_once_and_in_order() -> Result<()>
{
    let rig = Rig::new("hammer").await?;
    let mut relay = rig.start();
    let mut writers = writers(&rig, 60, false);
    while let Some(result) = writers.join_next().await {
        result??;
        relay.wake.notify_one();
    }
    relay.until_published(&rig).await?;
    let published = rig.assert_published().await?;
    assert!(published > 700, "only {published} events");
    relay.stop().await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_that_rolled_back_transactions_leave_are_passed() -> Result<()> {
    let rig = Rig::new("gaps").await?;
    let mut relay = rig.start();
    let mut connection = rig.connect().await?;
    for round in 0..20 {
        let mut transaction = connection.begin().await?;
        append(
            &mut transaction,
            &rig.aggregate,
            &[("gone", 1), ("gone", 2)],
        )
        .await?;
        transaction.rollback().await?;
        rig.append(&[("kept", round + 1)]).await?;
    }
    relay.until_published(&rig).await?;
    assert_eq!(rig.assert_published().await?, 20);
    relay.stop().await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_carries_its_key_the_stored_bytes_and_the_headers_of_the_contract() -> Result<()> {
    let rig = Rig::new("headers").await?;
    rig.append(&[("id-1", 1)]).await?;
    rig.execute(
        "UPDATE millrace.events SET occurred_at = '2026-05-04 03:02:01.5+00', headers = '{\"correlationid\": \"c1\", \
         \"causationid\": \"c2\", \"tenantid\": \"t\", \"traceparent\": \"00-aa-bb-01\"}'",
    )
    .await?;
    let mut relay = rig.start();
    relay.until_published(&rig).await?;
    let stored = rig.journal_events().await?;
    let journal: uuid::Uuid = sqlx::query_scalar("SELECT uuid FROM millrace.journal")
        .fetch_one(&mut rig.connect().await?)
        .await?;

    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &rig.kafka.kafka_bootstrap)
        .set("group.id", format!("{}-headers", rig.aggregate))
        .set("auto.offset.reset", "earliest")
        .create()?;
    consumer.subscribe(&[&rig.topic()])?;
    let message = consumer.poll(DEADLINE).context("no record")??;
    assert_eq!(message.key(), Some(&b"id-1"[..]));
    assert_eq!(message.payload(), Some(&b"\0\0\0\0\x07id-1"[..]));
    assert_eq!(
        message.partition(),
        millrace::position::partition_of("id-1", rig.kafka.topic_partitions)
    );
    let expected = [
        ("ce_specversion", "1.0".to_owned()),
        ("ce_id", stored[0].event_id.clone()),
        ("ce_source", format!("/millrace/{journal}")),
        ("ce_type", format!("{}.happened", rig.aggregate)),
        ("ce_subject", "id-1".to_owned()),
        ("ce_time", "2026-05-04T03:02:01.500000Z".to_owned()),
        ("content-type", "application/avro".to_owned()),
        ("ce_sequence", "1".to_owned()),
        ("ce_schemaversion", "3".to_owned()),
        ("millrace_position", stored[0].position.clone()),
        ("ce_correlationid", "c1".to_owned()),
        ("ce_causationid", "c2".to_owned()),
        ("ce_tenantid", "t".to_owned()),
        ("traceparent", "00-aa-bb-01".to_owned()),
    ];
    for (name, value) in expected {
        assert_eq!(header(&message, name)?, value, "{name}");
    }
    assert!(millrace::log::headers::read(&message).is_ok());
    relay.stop().await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_type_that_appears_while_the_relay_runs_gets_its_topic() -> Result<()> {
    let rig = Rig::new("late").await?;
    let mut relay = rig.start();
    relay
        .until("active", |status| status.role == RelayRole::Active)
        .await?;
    let late = format!("{}_more", rig.aggregate);
    millrace::journal::Journal::open(&rig.journal, &[late.as_str()]).await?;
    rig.add_schema(&late).await?;
    append(&mut rig.connect().await?, &late, &[("a", 1)]).await?;
    relay.until_published(&rig).await?;
    assert_eq!(rig.topic_events(&format!("{late}.events"))?.len(), 1);
    relay.stop().await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_cut_by_bytes_and_nothing_of_it_is_lost() -> Result<()> {
    let mut rig = Rig::new("bytes").await?;
    rig.config.relay_batch_bytes_max = 100;
    for number in 1..=40 {
        rig.append(&[("a", number), ("b", number)]).await?;
    }
    let mut relay = rig.start();
    relay.until_published(&rig).await?;
    assert_eq!(rig.assert_published().await?, 80);
    relay.stop().await??;
    Ok(())
}
