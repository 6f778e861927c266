//! `millrace tail`: events as JSON lines, live. Reads without a group, so it moves nobody's offsets.

use std::collections::{HashMap, HashSet};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use millrace::codec::CodecError;
use millrace::config::{KafkaConfig, RegistryConfig};
use millrace::log::contact::{self, Contact};
use millrace::registry::Registry;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message, OwnedMessage};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use tokio::sync::mpsc;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Print events as JSON lines, live, until Ctrl-C.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Topics, such as order.events.
    #[arg(required = true)]
    topics: Vec<String>,
    /// Where to start in each partition: earliest, latest, an offset or an RFC 3339 time.
    #[arg(long, default_value = "latest")]
    from: From,
    /// Stop after so many records.
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// Stop at the end of every partition.
    #[arg(long)]
    to_end: bool,
    /// Taken for the sake of scripts: the output is always JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    kafka: KafkaConfig,
    #[command(flatten)]
    registry: RegistryConfig,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum From {
    Earliest,
    Latest,
    Offset(i64),
    Time(DateTime<Utc>),
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Some(offset) = text.parse().ok().filter(|offset| *offset >= 0) {
            return Ok(Self::Offset(offset));
        }
        text.parse()
            .map(Self::Time)
            .map_err(|_| "write earliest, latest, an offset or a time as in RFC 3339".to_owned())
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let registry = Registry::unchecked(&args.registry, schemas::all(), None)?;
    let mut decoder = Decoder {
        registry,
        hopeless: HashMap::new(),
    };
    let (sender, mut records) = mpsc::channel(256);
    for topic in &args.topics {
        // One consumer a topic: librdkafka names only the partition of an end that was reached.
        let reader = Reader {
            topic: topic.clone(),
            config: args.kafka.clone(),
            from: args.from,
            to_end: args.to_end,
        };
        let sender = sender.clone();
        std::thread::Builder::new()
            .name(format!("tail {topic}"))
            .spawn(move || {
                if let Err(error) = reader.run(&sender) {
                    let _ = sender.blocking_send(Err(error));
                }
            })?;
    }
    drop(sender);
    let mut left = args.max.unwrap_or(u64::MAX);
    while left > 0 {
        let record = tokio::select! {
            record = records.recv() => record,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(record) = record else { break };
        let line = decoder.show(&record?).await;
        crate::output::line(&line.to_string())?;
        left -= 1;
    }
    Ok(ExitCode::SUCCESS)
}

struct Reader {
    topic: String,
    config: KafkaConfig,
    from: From,
    to_end: bool,
}

impl Reader {
    fn run(self, records: &mpsc::Sender<anyhow::Result<OwnedMessage>>) -> anyhow::Result<()> {
        let consumer = contact::reader(&self.config, "tail")?;
        let start = self.start(&consumer)?;
        consumer.assign(&start)?;
        let mut open: HashSet<i32> = start.elements().iter().map(|one| one.partition()).collect();
        while !(self.to_end && open.is_empty()) {
            match consumer.poll(Duration::from_millis(200)) {
                None if records.is_closed() => return Ok(()),
                None => consumer.context().check()?,
                // The printer went away: nobody wants more.
                Some(Ok(message)) if records.blocking_send(Ok(message.detach())).is_err() => {
                    return Ok(());
                }
                Some(Ok(_)) => {}
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.remove(&partition);
                }
                // Brokers come and go; librdkafka connects again by itself.
                Some(Err(KafkaError::MessageConsumption(code))) => {
                    tracing::warn!(topic = self.topic, error = %code, "kafka");
                }
                Some(Err(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn start(&self, consumer: &BaseConsumer<Contact>) -> anyhow::Result<TopicPartitionList> {
        let topic = &self.topic;
        let asked = || format!("kafka at {}", self.config.kafka_bootstrap);
        let metadata = consumer
            .fetch_metadata(Some(topic), TIMEOUT)
            .with_context(asked)?;
        let found = metadata.topics().first();
        let partitions = found.map_or(&[][..], |found| found.partitions());
        if partitions.is_empty() {
            bail!("there is no topic {topic}; millrace topics lists what there is");
        }
        let mut start = TopicPartitionList::new();
        for partition in partitions.iter().map(|partition| partition.id()) {
            let (low, high) = consumer
                .fetch_watermarks(topic, partition, TIMEOUT)
                .with_context(asked)?;
            let offset = match self.from {
                From::Earliest => low,
                From::Latest => high,
                From::Offset(offset) => offset.clamp(low, high),
                From::Time(time) => self
                    .offset_at(consumer, partition, time)
                    .with_context(asked)?
                    .unwrap_or(high),
            };
            start.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        }
        Ok(start)
    }

    /// The first record at or after a time; none where all are older.
    fn offset_at(
        &self,
        consumer: &BaseConsumer<Contact>,
        partition: i32,
        time: DateTime<Utc>,
    ) -> Result<Option<i64>, KafkaError> {
        let mut asked = TopicPartitionList::new();
        let time = Offset::Offset(time.timestamp_millis());
        asked.add_partition_offset(&self.topic, partition, time)?;
        let found = consumer.offsets_for_times(asked, TIMEOUT)?;
        Ok(found.elements().first().and_then(|one| match one.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }))
    }
}

struct Decoder {
    registry: Registry,
    /// Schema ids that will never be known, and why, so that each is asked for once.
    hopeless: HashMap<u32, String>,
}

impl Decoder {
    async fn show(&mut self, record: &OwnedMessage) -> Value {
        let (record_type, data, error) = match self.decode(record.payload()).await {
            Ok((record_type, data)) => (json!(record_type), data, None),
            Err(error) => (Value::Null, Value::Null, Some(error)),
        };
        let mut shown = json!({
            "topic": record.topic(),
            "partition": record.partition(),
            "offset": record.offset(),
            "key": record.key().map(String::from_utf8_lossy),
            "headers": headers(record),
            "type": record_type,
            "data": data,
        });
        if let Some(error) = error {
            shown["error"] = error.into();
        }
        shown
    }

    async fn decode(&mut self, payload: Option<&[u8]>) -> Result<(String, Value), String> {
        let payload = payload.ok_or("the record has no value")?;
        let id = match self.registry.codec().decode_json(payload) {
            Err(CodecError::UnknownSchema(id)) => id,
            other => return other.map_err(|error| error.to_string()),
        };
        if let Some(known) = self.hopeless.get(&id) {
            return Err(known.clone());
        }
        if let Err(error) = self.registry.learn(id).await {
            let text = error.to_string();
            if !error.is_transient() {
                self.hopeless.insert(id, text.clone());
            }
            return Err(text);
        }
        let decoded = self.registry.codec().decode_json(payload);
        decoded.map_err(|error| error.to_string())
    }
}

fn headers(record: &OwnedMessage) -> Value {
    let mut shown = serde_json::Map::new();
    for header in record
        .headers()
        .into_iter()
        .flat_map(|headers| headers.iter())
    {
        let value = header.value.map(String::from_utf8_lossy);
        shown.insert(header.key.to_owned(), json!(value));
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_word_an_offset_or_a_time() {
        assert_eq!("earliest".parse(), Ok(From::Earliest));
        assert_eq!("12".parse(), Ok(From::Offset(12)));
        let time = "2026-01-02T03:04:05Z";
        assert_eq!(time.parse(), Ok(From::Time(time.parse().unwrap())));
        assert!("-1".parse::<From>().is_err());
        assert!("yesterday".parse::<From>().is_err());
    }
}
