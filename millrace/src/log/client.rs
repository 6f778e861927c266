//! librdkafka clients: the settings that correctness rests on, each with its reason.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::AdminClient;
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use uuid::Uuid;

use crate::config::KafkaConfig;

/// Longest a Kafka transaction may stay open; a crashed producer blocks read-committed readers this long.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);

/// What every client needs: brokers, a client id of its own, the operator's settings last.
fn base(config: &KafkaConfig, role: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &config.kafka_bootstrap)
        // Equal client ids once sent cooperative rebalancing into a loop (librdkafka#4783).
        .set(
            "client.id",
            format!("millrace-{role}-{}", Uuid::now_v7().simple()),
        )
        .set("socket.keepalive.enable", "true")
        // A broker that was restarted is found again within a second, not ten.
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000");
    client
}

fn with_properties(mut client: ClientConfig, config: &KafkaConfig) -> ClientConfig {
    for (name, value) in &config.kafka_properties.0 {
        client.set(name, value);
    }
    client
}

/// A transactional producer; `transactional_id` must be stable, because it fences its predecessor.
pub fn transactional_producer(config: &KafkaConfig, transactional_id: &str) -> ClientConfig {
    let mut client = base(config, transactional_id);
    client
        .set("transactional.id", transactional_id)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set(
            "transaction.timeout.ms",
            TRANSACTION_TIMEOUT.as_millis().to_string(),
        )
        // Below the transaction's timeout, so that a lost message shows before the broker aborts.
        .set("message.timeout.ms", "8000")
        // AddOffsetsToTxn and friends wait this long between tries; the default is 100 ms.
        .set("retry.backoff.ms", "5")
        // The JVM clients' partitioner: the same key must land on the same partition for everyone.
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "0")
        .set("batch.num.messages", "10000")
        .set("batch.size", "1000000")
        // The broker's default; the client's own, 1000000, leaves a large event little room for its headers.
        .set("message.max.bytes", "1048588")
        .set("queue.buffering.max.messages", "200000")
        .set("compression.type", "zstd");
    with_properties(client, config)
}

/// An idempotent producer without transactions: each record is acknowledged by itself, in order, and may be repeated under
/// the same id.
pub fn producer(config: &KafkaConfig, role: &str) -> ClientConfig {
    let mut client = base(config, role);
    client
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // Whoever waits for the report holds nothing open meanwhile.
        .set("message.timeout.ms", "30000")
        .set("retry.backoff.ms", "50")
        // The JVM clients' partitioner: the same key must land on the same partition for everyone.
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "1")
        // A dead letter is a little larger than what it is made of.
        .set("message.max.bytes", "2097152")
        .set("queue.buffering.max.messages", "20000")
        .set("compression.type", "zstd");
    with_properties(client, config)
}

/// A read-committed consumer; `out_of_range` is `earliest` or `error`, never the default `latest`.
pub fn consumer(config: &KafkaConfig, group: &str, out_of_range: &str) -> ClientConfig {
    let mut client = base(config, group);
    client
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", out_of_range)
        .set("enable.partition.eof", "true")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "1000")
        // An answer that has something does not wait. Sixty consumers that ask ten times a second for nothing take a third of a core.
        .set("fetch.wait.max.ms", "500")
        // With bounded queues the default waits a whole second before it fetches again.
        .set("fetch.queue.backoff.ms", "20")
        .set("queued.min.messages", "50000")
        .set("queued.max.messages.kbytes", "32768")
        .set("topic.metadata.refresh.interval.ms", "30000");
    with_properties(client, config)
}

/// A consumer that is assigned its partitions by hand and joins no group.
pub fn reader(config: &KafkaConfig, role: &str) -> ClientConfig {
    let mut client = consumer(config, &format!("millrace.reader.{role}"), "error");
    client.remove("partition.assignment.strategy");
    client
}

/// A client for topics, groups and offsets.
pub fn admin(config: &KafkaConfig) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
    with_properties(base(config, "admin"), config).create()
}
