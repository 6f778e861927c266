//! Large events: what crosses the wire at once, and what no topic takes.

use anyhow::Result;
use millrace::log::client;
use millrace::position::JournalPosition;
use millrace::relay::gate::GateRule;
use millrace::relay::read::{self, BatchLimits, ROWS, Reader};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;

use super::{PARTITIONS, Rig, next_batch};

const LIMITS: BatchLimits = BatchLimits {
    events_max: 5000,
    bytes_max: 1_000_000,
};

async fn reader(rig: &Rig) -> Result<Reader> {
    Ok(Reader::new(
        read::connect(&rig.url).await?,
        JournalPosition::default(),
        LIMITS,
        GateRule::JournalWriters,
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_rows_are_asked_for_only_so_many_bytes_cross_the_wire() -> Result<()> {
    let rig = Rig::new("wire").await?;
    let events: Vec<(&str, i64)> = (1..=40).map(|sequence| ("big", sequence)).collect();
    rig.append(&events).await?;
    rig.inflate("big", 100_000).await?;
    let mut connection = read::connect(&rig.url).await?;
    let rows = sqlx::query(ROWS)
        .bind(0)
        .bind(0_i64)
        .bind(0_i64)
        .bind(1)
        .bind(i64::MAX)
        .bind(5000_i64)
        .bind(1_000_000_i64)
        .fetch_all(&mut connection)
        .await?;
    // Nine fit, the tenth goes beyond and shows that there is more.
    assert_eq!(rows.len(), 10);

    let mut reader = reader(&rig).await?;
    let mut read = Vec::new();
    while read.len() < 40 {
        let batch = next_batch(&mut reader).await?;
        assert!(batch.full || read.len() + batch.events.len() == 40);
        let bytes: usize = batch.events.iter().map(|event| event.payload.len()).sum();
        assert!(bytes <= LIMITS.bytes_max, "{bytes} bytes in a batch");
        read.extend(batch.events.iter().map(|event| event.sequence));
    }
    assert!(read.into_iter().eq(1..=40));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_beyond_the_bytes_of_a_batch_is_read_alone() -> Result<()> {
    let rig = Rig::new("alone").await?;
    rig.append(&[("a", 1), ("big", 1), ("a", 2)]).await?;
    rig.inflate("big", 1_200_000).await?;
    let mut reader = reader(&rig).await?;
    let mut batches = Vec::new();
    for _ in 0..3 {
        let batch = next_batch(&mut reader).await?;
        let ids = batch.events.into_iter().map(|event| event.aggregate_id);
        batches.push(ids.collect::<Vec<_>>());
    }
    assert_eq!(batches, [["a"], ["big"], ["a"]]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_read_that_took_too_long_batches_begin_small_and_grow() -> Result<()> {
    let rig = Rig::new("careful").await?;
    let events: Vec<(&str, i64)> = (1..=200).map(|sequence| ("a", sequence)).collect();
    rig.append(&events).await?;
    rig.inflate("a", 10_000).await?;
    let mut reader = reader(&rig).await?.careful();
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < 200 {
        sizes.push(next_batch(&mut reader).await?.events.len());
    }
    assert_eq!(sizes, [6, 12, 24, 49, 99, 10]);
    Ok(())
}

/// The rig's topic, made before the relay makes it, taking only small batches.
async fn narrow_topic(rig: &Rig) -> Result<AdminClient<DefaultClientContext>> {
    let admin = client::admin(&rig.kafka)?;
    let topic = rig.topic();
    let new = NewTopic::new(&topic, PARTITIONS, TopicReplication::Fixed(1))
        .set("max.message.bytes", "20000");
    for result in admin.create_topics([&new], &AdminOptions::new()).await? {
        result.map_err(|(name, code)| anyhow::anyhow!("{name}: {code}"))?;
    }
    Ok(admin)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_broker_does_not_take_stops_the_relay_with_its_name_until_it_does()
-> Result<()> {
    let rig = Rig::new("refused").await?;
    let admin = narrow_topic(&rig).await?;
    rig.append(&[("big", 1), ("big", 2), ("a", 1)]).await?;
    rig.inflate("big", 100_000).await?;
    rig.inflate("a", 1_000).await?;
    let mut relay = rig.start();
    let reason = relay.until_stopped().await?;
    assert!(reason.contains("aggregate big, 100005 bytes"), "{reason}");
    assert!(reason.contains("max.message.bytes"), "{reason}");
    let big = rig.journal_events().await?;
    assert!(
        big.iter()
            .any(|event| event.aggregate_id == "big" && reason.contains(&event.event_id)),
        "{reason}"
    );
    assert!(relay.stop().await?.is_err());
    assert!(rig.topic_events(&rig.topic())?.is_empty());

    let topic = rig.topic();
    let raised =
        AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("max.message.bytes", "1048588");
    for result in admin.alter_configs([&raised], &AdminOptions::new()).await? {
        result.map_err(|(_, code)| anyhow::anyhow!("{code}"))?;
    }
    let mut relay = rig.start();
    relay.until_published(&rig).await?;
    assert_eq!(rig.assert_published().await?, 3);
    relay.stop().await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_client_does_not_take_stops_the_relay_too() -> Result<()> {
    let mut rig = Rig::new("client").await?;
    rig.kafka.kafka_properties = "message.max.bytes=20000"
        .parse()
        .map_err(anyhow::Error::msg)?;
    rig.append(&[("a", 1), ("big", 1)]).await?;
    rig.inflate("big", 100_000).await?;
    let mut relay = rig.start();
    let reason = relay.until_stopped().await?;
    assert!(reason.contains("aggregate big, 100005 bytes"), "{reason}");
    assert!(relay.stop().await?.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_event_that_can_be_configured_is_published() -> Result<()> {
    let rig = Rig::new("largest").await?;
    rig.append(&[("big", 1), ("big", 2), ("a", 1)]).await?;
    rig.inflate("big", 950_000).await?;
    rig.execute(&format!(
        "UPDATE millrace.events SET headers = jsonb_build_object('correlationid', repeat('c', 60000)) \
         WHERE aggregate_type = '{}'",
        rig.aggregate
    ))
    .await?;
    let mut relay = rig.start();
    relay.until_published(&rig).await?;
    assert_eq!(rig.assert_published().await?, 3);
    relay.stop().await??;
    Ok(())
}
