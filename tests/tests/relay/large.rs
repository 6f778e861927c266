//! Large events: what crosses the wire at once, and what no topic takes.

use anyhow::Result;
use millrace::position::JournalPosition;
use millrace::relay::gate::GateRule;
use millrace::relay::read::{self, BatchLimits, ROWS, Reader};

use super::Rig;

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
        let batch = reader.next().await?;
        assert!(!batch.events.is_empty(), "the reader stopped short");
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
        let batch = reader.next().await?;
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
        sizes.push(reader.next().await?.events.len());
    }
    assert_eq!(sizes, [6, 12, 24, 49, 99, 10]);
    Ok(())
}
