//! From a command's acknowledgement over HTTP to its event in Kafka and to its row in the view `orders`.
//!
//! Commands are sent at a fixed pace to a producer, each on a new order; the projections keep all views, no processor runs. A read-committed consumer sees the events arrive; one
//! connection asks the view for the rows that are still missing, about every millisecond, so what it sees is up to that much late.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use millrace::config::KafkaConfig;
use millrace::log::client;
use rdkafka::error::KafkaError;
use rdkafka::message::{Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::{Offset, consumer::BaseConsumer};
use sqlx::{Connection, PgConnection};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::figure::{Figure, percentile};
use crate::http::Client;
use crate::raw::{self, Prepared};
use crate::role::Role;
use crate::world::World;

const CONNECTIONS: usize = 32;
const LATE: Duration = Duration::from_secs(30);
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);
/// Sent before anything is counted.
const WARM_UP: Duration = Duration::from_secs(1);

/// When something was seen, by order.
type Seen = HashMap<String, Instant>;

pub(crate) async fn run(world: &World, rate: u32) -> Result<Vec<Figure>> {
    let count = (world.scale.paced_time + WARM_UP).as_secs_f64() * f64::from(rate);
    let warm = WARM_UP.as_secs() as usize * rate as usize;
    let pace = Pace {
        prefix: Uuid::now_v7().simple().to_string(),
        count: count as usize,
        every: Duration::from_secs(1) / rate,
    };
    world.warm_broker().await?;
    let (raw_in_kafka, raw_stored) = ceiling(world, &pace).await?;
    let producer = Role::start(world, "producer").await?;
    let projections = Role::start(world, "projections").await?;
    first_is_visible(world, &producer, &pace).await?;
    let meter = world.meter(&[producer.pid(), projections.pid()]);
    let (acknowledged, arrived, visible) = ours(world, &producer, &pace).await?;
    let cpu = meter.per_event(pace.count as u64);
    let mut figures = Vec::new();
    for (name, seen, raw) in [
        ("in-kafka", arrived, raw_in_kafka),
        ("visible", visible, raw_stored),
    ] {
        let took = millis(&pace, warm, &acknowledged, &seen)?;
        for (percent, share) in [("p50", 0.5), ("p99", 0.99)] {
            let name = format!("{name}-{rate}-{percent}");
            let figure =
                Figure::new(name, "ms", percentile(&took, share)).beside(percentile(&raw, share));
            figures.push(figure.costing(cpu));
        }
    }
    projections.stop().await?;
    producer.stop().await?;
    Ok(figures)
}

/// Waits until one order went all the way: a producer is ready as soon as some relay is at work, which may be one that just ended
/// and whose lease its own waits for; and the views' partitions are claimed.
async fn first_is_visible(world: &World, producer: &Role, pace: &Pace) -> Result<()> {
    let id = format!("{}-first", pace.prefix);
    Client::connect(&producer.listen)
        .await?
        .command(&id, 0, 0)
        .await?;
    let mut connection = PgConnection::connect(world.servers.views_database_url()).await?;
    let begun = Instant::now();
    loop {
        let seen = sqlx::query("SELECT FROM views.orders WHERE order_id = $1")
            .bind(&id)
            .fetch_optional(&mut connection)
            .await?;
        if seen.is_some() {
            return Ok(());
        }
        ensure!(begun.elapsed() < LATE, "order {id} did not become visible");
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// When to send which order.
#[derive(Clone)]
struct Pace {
    prefix: String,
    count: usize,
    every: Duration,
}

impl Pace {
    fn id(&self, number: usize) -> String {
        format!("{}-{number}", self.prefix)
    }
}

/// Sorted times between two moments of each order behind the warm-up; all of them must have been seen.
fn millis(pace: &Pace, warm: usize, from: &Seen, to: &Seen) -> Result<Vec<f64>> {
    let mut took = Vec::with_capacity(pace.count);
    for number in warm..pace.count {
        let id = pace.id(number);
        let (Some(from), Some(to)) = (from.get(&id), to.get(&id)) else {
            bail!("order {id} was acknowledged and not seen");
        };
        took.push(to.saturating_duration_since(*from).as_secs_f64() * 1000.0);
    }
    took.sort_by(f64::total_cmp);
    Ok(took)
}

async fn ours(world: &World, producer: &Role, pace: &Pace) -> Result<(Seen, Seen, Seen)> {
    let topic = "order.events".to_owned();
    let arrivals = Arrivals::watch(world.kafka.clone(), topic, pace, None)?;
    let (acknowledge, acknowledged) = mpsc::unbounded_channel();
    let visible = tokio::spawn(watch_rows(
        world.servers.views_database_url().to_owned(),
        pace.count,
        acknowledged,
    ));
    let begun = Instant::now();
    let mut senders = Vec::new();
    for connection in 0..CONNECTIONS {
        let mut client = Client::connect(&producer.listen).await?;
        let (pace, acknowledge) = (pace.clone(), acknowledge.clone());
        senders.push(tokio::spawn(async move {
            for number in (connection..pace.count).step_by(CONNECTIONS) {
                let due = begun + pace.every * number as u32;
                tokio::time::sleep_until(due.into()).await;
                let id = pace.id(number);
                client.command(&id, 0, number).await?;
                // Its receiver is gone only after an error, which is the one to report.
                let _ = acknowledge.send((id, Instant::now()));
            }
            Ok::<(), anyhow::Error>(())
        }));
    }
    for sender in senders {
        sender.await??;
    }
    let arrived = arrivals.all().await?;
    let (acknowledged, visible) = visible.await??;
    Ok((acknowledged, arrived, visible))
}

/// Asks for the rows of acknowledged orders until all were seen; when each was acknowledged, and when it was seen.
async fn watch_rows(
    url: String,
    count: usize,
    mut arriving: mpsc::UnboundedReceiver<(String, Instant)>,
) -> Result<(Seen, Seen)> {
    let mut connection = PgConnection::connect(&url).await?;
    // Looks are cheap only by key and with one plan for all of them.
    sqlx::raw_sql("SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off")
        .execute(&mut connection)
        .await?;
    let (mut acknowledged, mut seen) = (Seen::with_capacity(count), Seen::with_capacity(count));
    let mut missing: HashSet<String> = HashSet::new();
    let mut heard = Instant::now();
    while seen.len() < count {
        while let Ok((id, at)) = arriving.try_recv() {
            missing.insert(id.clone());
            acknowledged.insert(id, at);
        }
        if !missing.is_empty() {
            let rows: Vec<String> =
                sqlx::query_scalar("SELECT order_id FROM views.orders WHERE order_id = ANY ($1)")
                    .bind(missing.iter().map(String::as_str).collect::<Vec<_>>())
                    .fetch_all(&mut connection)
                    .await?;
            let now = Instant::now();
            if !rows.is_empty() {
                heard = now;
            }
            for id in rows {
                missing.remove(&id);
                seen.insert(id, now);
            }
        }
        ensure!(
            heard.elapsed() < LATE,
            "{} of {count} orders became visible",
            seen.len()
        );
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    Ok((acknowledged, seen))
}

/// A consumer on a thread of its own.
struct Arrivals {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<Seen>>,
}

impl Arrivals {
    /// Watches from the topic's end on; with `store`, the moment is that at which the record's row was committed there.
    fn watch(
        kafka: KafkaConfig,
        topic: String,
        pace: &Pace,
        mut store: Option<(Handle, PgConnection)>,
    ) -> Result<Self> {
        let consumer = raw::consumer(&kafka, &topic, Offset::End)?;
        // The end is where the consumer says that it is: what comes after belongs to us.
        let mut open = kafka.topic_partitions;
        let begun = Instant::now();
        while open > 0 {
            ensure!(begun.elapsed() < LATE, "{topic}: its end was not reached");
            if let Some(Err(KafkaError::PartitionEOF(_))) = consumer.poll(BETWEEN_LOOKS) {
                open -= 1;
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (pace, stopped) = (pace.clone(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::with_capacity(pace.count);
            let mut heard = Instant::now();
            while seen.len() < pace.count && !stopped.load(Ordering::Relaxed) {
                ensure!(
                    heard.elapsed() < LATE,
                    "{} of {} orders arrived",
                    seen.len(),
                    pace.count
                );
                if let Some(id) = next_key(&consumer)? {
                    if let Some((runtime, connection)) = &mut store {
                        let insert = sqlx::query("INSERT INTO raw_rows VALUES ($1)").bind(&id);
                        runtime.block_on(insert.execute(connection))?;
                    }
                    heard = Instant::now();
                    seen.insert(id, heard);
                }
            }
            Ok(seen)
        });
        Ok(Self { stop, thread })
    }

    async fn all(self) -> Result<Seen> {
        let joined = tokio::task::spawn_blocking(|| self.thread.join()).await?;
        self.stop.store(true, Ordering::Relaxed);
        joined.unwrap_or_else(|_| bail!("the consumer panicked"))
    }
}

fn next_key(consumer: &BaseConsumer) -> Result<Option<String>> {
    match consumer.poll(Duration::from_millis(100)) {
        None | Some(Err(KafkaError::PartitionEOF(_))) => Ok(None),
        Some(Err(error)) => Err(error.into()),
        Some(Ok(message)) => {
            let key = message.key().context("a record without a key")?;
            Ok(Some(String::from_utf8(key.to_vec())?))
        }
    }
}

/// The same pace with Kafka's client alone: from before the transaction's begin to the record's arrival, and to its row's commit.
async fn ceiling(world: &World, pace: &Pace) -> Result<(Vec<f64>, Vec<f64>)> {
    let url = world.servers.fresh_database("raw").await?;
    let mut connection = PgConnection::connect(&url).await?;
    sqlx::raw_sql("CREATE TABLE raw_rows (id text PRIMARY KEY)")
        .execute(&mut connection)
        .await?;
    let topic = world.new_topic("raw-latency").await?;
    let (kafka, runtime) = (world.kafka.clone(), Handle::current());
    let arrivals = Arrivals::watch(kafka.clone(), topic.clone(), pace, None)?;
    let stored = Arrivals::watch(kafka, topic.clone(), pace, Some((runtime, connection)))?;
    let (kafka, sending) = (world.kafka.clone(), pace.clone());
    let sent = tokio::task::spawn_blocking(move || send_paced(&kafka, &topic, &sending)).await??;
    let arrived = arrivals.all().await?;
    let stored = stored.all().await?;
    Ok((
        millis(pace, 0, &sent, &arrived)?,
        millis(pace, 0, &sent, &stored)?,
    ))
}

/// One transaction for whatever is due, as soon as the last one is committed.
fn send_paced(kafka: &KafkaConfig, topic: &str, pace: &Pace) -> Result<Seen> {
    let producer: BaseProducer = client::transactional_producer(kafka, topic).create()?;
    producer.init_transactions(LATE)?;
    let mut sent = Seen::with_capacity(pace.count);
    let begun = Instant::now();
    let mut number = 0;
    while number < pace.count {
        let due = begun + pace.every * number as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let now = Instant::now();
        producer.begin_transaction()?;
        while number < pace.count && begun + pace.every * number as u32 <= now {
            let id = pace.id(number);
            let record = Prepared {
                key: id.clone(),
                payload: vec![7; 100],
                headers: OwnedHeaders::new(),
            };
            raw::send(&producer, topic, record)?;
            sent.insert(id, now);
            number += 1;
        }
        raw::commit(&producer)?;
    }
    Ok(sent)
}
