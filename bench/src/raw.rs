//! The ceilings: what Kafka's client and Postgres do with nothing of ours between.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use millrace::config::KafkaConfig;
use millrace::log::client;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use sqlx::{Connection, Executor, PgConnection};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Sessions that Postgres gives out, with room for the roles: above it, several callers share one.
const CONNECTIONS_MAX: usize = 160;

/// A record before it is handed to the client.
#[derive(Clone)]
pub(crate) struct Prepared {
    pub(crate) key: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) headers: OwnedHeaders,
}

/// Opens a transaction; the first on a producer also fences its predecessors.
pub(crate) fn begin(producer: &BaseProducer) -> Result<()> {
    match producer.begin_transaction() {
        Err(KafkaError::Transaction(error)) if error.code() == RDKafkaErrorCode::State => {
            producer.init_transactions(ANSWER_TIMEOUT)?;
            Ok(producer.begin_transaction()?)
        }
        other => Ok(other?),
    }
}

/// Hands over a record, waiting where the client's queue is full.
pub(crate) fn send(producer: &BaseProducer, topic: &str, record: Prepared) -> Result<()> {
    let mut record = BaseRecord::to(topic)
        .key(&record.key)
        .payload(&record.payload)
        .headers(record.headers);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                look(producer);
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

/// Serves the client after a moment. A short wait of its own is a loop that takes a core from the broker.
fn look(producer: &BaseProducer) {
    thread::sleep(Duration::from_micros(100));
    producer.poll(Duration::ZERO);
}

/// Waits for the deliveries, then commits: the other way round costs 100 ms a transaction.
pub(crate) fn commit(producer: &BaseProducer) -> Result<()> {
    while producer.in_flight_count() > 0 {
        look(producer);
    }
    Ok(producer.commit_transaction(ANSWER_TIMEOUT)?)
}

/// Records a second in transactions of this size, from memory.
pub(crate) fn produce(
    kafka: &KafkaConfig,
    topic: &str,
    records: Vec<Prepared>,
    per_transaction: usize,
) -> Result<f64> {
    let producer: BaseProducer = client::transactional_producer(kafka, topic).create()?;
    producer.init_transactions(ANSWER_TIMEOUT)?;
    let count = records.len();
    let mut records = records.into_iter();
    let started = Instant::now();
    while records.len() > 0 {
        producer.begin_transaction()?;
        for record in records.by_ref().take(per_transaction) {
            send(&producer, topic, record)?;
        }
        commit(&producer)?;
    }
    Ok(count as f64 / started.elapsed().as_secs_f64())
}

/// A read-committed consumer of a topic, with the client's settings as they come.
pub(crate) fn consumer(kafka: &KafkaConfig, topic: &str, from: Offset) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &kafka.kafka_bootstrap)
        .set("group.id", "bench")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "100")
        .create()?;
    let mut partitions = TopicPartitionList::new();
    for partition in 0..kafka.topic_partitions {
        partitions.add_partition_offset(topic, partition, from)?;
    }
    consumer.assign(&partitions)?;
    Ok(consumer)
}

/// Reads a topic from its start to its end: how many records it holds and how many a second were read.
pub(crate) fn consume(kafka: &KafkaConfig, topic: &str) -> Result<(usize, f64)> {
    let consumer = consumer(kafka, topic, Offset::Beginning)?;
    let (mut count, mut open) = (0_usize, kafka.topic_partitions);
    let mut first: Option<Instant> = None;
    let mut heard = Instant::now();
    while open > 0 {
        match consumer.poll(Duration::from_millis(100)) {
            None => ensure!(
                heard.elapsed() < ANSWER_TIMEOUT,
                "{topic}: its end was not reached"
            ),
            Some(Ok(_)) => {
                first.get_or_insert_with(Instant::now);
                count += 1;
                heard = Instant::now();
            }
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => return Err(error.into()),
        }
    }
    let elapsed = first.context("the topic is empty")?.elapsed();
    Ok((count, count as f64 / elapsed.as_secs_f64()))
}

/// Commits a second of one small row each, with this many callers.
pub(crate) async fn insert_commits(url: &str, callers: usize, time: Duration) -> Result<f64> {
    let mut setup = PgConnection::connect(url).await?;
    setup
        .execute(
            "DROP TABLE IF EXISTS raw_journal;
             CREATE TABLE raw_journal (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
                 aggregate_id text COLLATE \"C\" NOT NULL, version bigint NOT NULL, payload bytea NOT NULL,
                 UNIQUE (aggregate_id, version))",
        )
        .await?;
    let connections = callers.min(CONNECTIONS_MAX);
    let connected = (0..connections).map(|_| PgConnection::connect(url));
    let connections = try_join_all(connected).await?;
    let started = Instant::now();
    let callers = connections.into_iter().enumerate().map(|(caller, mut connection)| {
        tokio::spawn(async move {
            let payload = vec![7_u8; 100];
            let mut done = 0_u64;
            while started.elapsed() < time {
                sqlx::query("INSERT INTO raw_journal (aggregate_id, version, payload) VALUES ($1, $2, $3)")
                    .bind(format!("order-{caller}-{}", done / 4))
                    .bind((done % 4 + 1) as i64)
                    .bind(&payload)
                    .execute(&mut connection)
                    .await?;
                done += 1;
            }
            Ok::<u64, sqlx::Error>(done)
        })
    });
    let mut total = 0;
    for caller in callers.collect::<Vec<_>>() {
        total += caller.await??;
    }
    let rate = total as f64 / started.elapsed().as_secs_f64();
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM raw_journal")
        .fetch_one(&mut setup)
        .await?;
    ensure!(
        rows == total as i64,
        "{total} commits, but {rows} rows in raw_journal"
    );
    Ok(rate)
}

/// Rows a second of new orders' rows, inserted by UNNEST in transactions of this many on one connection.
pub(crate) async fn unnest_orders(url: &str, rows: usize, batch: usize) -> Result<f64> {
    let mut connection = PgConnection::connect(url).await?;
    connection
        .execute(
            "CREATE TABLE raw_orders (aggregate_id text COLLATE \"C\" PRIMARY KEY, source text NOT NULL,
                 version bigint NOT NULL, incomplete boolean NOT NULL, customer_id text NOT NULL, status text NOT NULL,
                 currency text NOT NULL, line_count bigint NOT NULL, total_cents bigint NOT NULL,
                 placed_at timestamptz, updated_at timestamptz NOT NULL);
             CREATE INDEX ON raw_orders (customer_id, placed_at DESC)",
        )
        .await?;
    let now = chrono::Utc::now();
    let started = Instant::now();
    for from in (0..rows).step_by(batch) {
        let of = from..(from + batch).min(rows);
        let text = |prefix: &str, modulus: usize| -> Vec<String> {
            of.clone()
                .map(|n| format!("{prefix}{}", n % modulus))
                .collect()
        };
        let number = |value: i64| vec![value; of.len()];
        sqlx::query(
            "INSERT INTO raw_orders SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::boolean[], $5::text[],
                 $6::text[], $7::text[], $8::bigint[], $9::bigint[], $10::timestamptz[], $11::timestamptz[])",
        )
        .bind(text("order-", usize::MAX))
        .bind(text("order.events/", 12))
        .bind(number(1))
        .bind(vec![false; of.len()])
        .bind(text("customer-", 1000))
        .bind(vec!["placed"; of.len()])
        .bind(vec!["EUR"; of.len()])
        .bind(number(2))
        .bind(number(6890))
        .bind(vec![now; of.len()])
        .bind(vec![now; of.len()])
        .execute(&mut connection)
        .await?;
    }
    let rate = rows as f64 / started.elapsed().as_secs_f64();
    let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM raw_orders")
        .fetch_one(&mut connection)
        .await?;
    connection.execute("DROP TABLE raw_orders").await?;
    ensure!(
        stored == rows as i64,
        "{rows} rows inserted, {stored} stored"
    );
    Ok(rate)
}
