//! The producer killed at each point between two durable steps of a command from Kafka.

use std::collections::BTreeMap;
use std::fs::{File, read_to_string};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millrace::codec::{DatumReader, unframe};
use millrace::command::inbox::{CommandOutcome, CommandReply, reply_id};
use millrace::config::{Registration, RegistryConfig};
use millrace::log::headers;
use millrace::registry::{Registry, SchemaSet};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use schemas::order::{DraftOrder, OrderCommand};
use sqlx::{Connection, PgConnection};
use tests::servers::Servers;

use super::rig::{DEADLINE, read_topic, unique};

/// A producer process that a point ends; dropping it kills it.
struct Process {
    child: Child,
    url: String,
}

impl Process {
    fn start(servers: &Servers, dir: &std::path::Path, failpoints: &str) -> Result<Self> {
        let program = std::env::var_os("MILLRACE_BIN").map_or_else(
            || {
                let test = std::env::current_exe().unwrap();
                test.parent().unwrap().parent().unwrap().join("millrace")
            },
            PathBuf::from,
        );
        let at = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let printed = File::options()
            .create(true)
            .append(true)
            .open(dir.join("producer.log"))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .arg("producer")
            .env("LISTEN", &at)
            .env("KAFKA_BOOTSTRAP", servers.kafka())
            .env("SCHEMA_REGISTRY_URL", servers.registry())
            .env("DATABASE_URL", servers.database_url())
            .env("VIEWS_DATABASE_URL", servers.views_database_url())
            .env("MILLRACE_FAILPOINTS", failpoints)
            .env("MILLRACE_FAILPOINT_LOG", dir.join("fired"))
            .env("NO_COLOR", "1")
            .env("TOPIC_PARTITIONS", "5")
            .stdin(Stdio::null())
            .stdout(printed.try_clone()?)
            .stderr(printed)
            .spawn()
            .context("setpriv or the program cannot be run")?;
        Ok(Self {
            child,
            url: format!("http://{at}"),
        })
    }

    async fn until_ready(&self) -> Result<()> {
        let http = reqwest::Client::new();
        let begun = Instant::now();
        loop {
            let answer = http.get(format!("{}/health/ready", self.url)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            ensure!(begun.elapsed() < DEADLINE, "the producer is not ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until it has ended by itself.
    async fn until_ended(&mut self, dir: &std::path::Path) -> Result<()> {
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(
                begun.elapsed() < DEADLINE,
                "the point did not fire:\n{}",
                read_to_string(dir.join("producer.log")).unwrap_or_default()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the test has of the world.
struct Stack {
    servers: Servers,
    dir: tempfile::TempDir,
    registry: Registry,
    producer: BaseProducer,
}

impl Stack {
    /// Sends commands that begin an order, and one record that is none; returns the command's ids by order.
    fn send(&self, count: usize) -> Result<BTreeMap<String, String>> {
        let command = DraftOrder {
            customer_id: "ada".to_owned(),
            currency: "EUR".to_owned(),
        };
        let (_, payload) = self.registry.codec().encode_command(&command)?;
        let mut sent = BTreeMap::new();
        for number in 0..count {
            let (order, id) = (unique("o"), uuid::Uuid::now_v7().to_string());
            let value = match number % 10 {
                5 => b"no command".as_slice(),
                _ => &payload,
            };
            let headers = OwnedHeaders::new().insert(Header {
                key: headers::ID,
                value: Some(&id),
            });
            let record = BaseRecord::to("order.commands")
                .key(&order)
                .payload(value)
                .headers(headers);
            self.producer.send(record).map_err(|(error, _)| error)?;
            if number % 10 != 5 {
                sent.insert(order, id);
            }
        }
        self.producer.flush(Duration::from_secs(20))?;
        Ok(sent)
    }

    /// Every command has an event, exactly one, and replies that all say the same under one id.
    async fn check(&self, sent: &BTreeMap<String, String>) -> Result<()> {
        let schema = SchemaSet::of_replies::<OrderCommand>().schemas[0].json;
        let reader = DatumReader::parse(schema)?;
        let mut replies: BTreeMap<String, Vec<(String, CommandReply)>> = BTreeMap::new();
        read_topic(self.servers.kafka(), "order.replies", |seen| {
            let (_, body) = unframe(seen.payload.as_deref().context("an empty reply")?)?;
            let reply: CommandReply = reader.read(body)?;
            let id = seen.header(headers::ID).to_owned();
            replies
                .entry(reply.command_id.clone())
                .or_default()
                .push((id, reply));
            Ok(sent.values().all(|id| replies.contains_key(id)))
        })?;
        let mut journal = PgConnection::connect(self.servers.database_url()).await?;
        for (order, id) in sent {
            let events: Vec<String> = sqlx::query_scalar(
                "SELECT event_id::text FROM millrace.events WHERE aggregate_id = $1",
            )
            .bind(order)
            .fetch_all(&mut journal)
            .await?;
            assert_eq!(events.len(), 1, "events of {order}");
            for (reply_header, reply) in &replies[id] {
                assert_eq!(reply.outcome, CommandOutcome::Accepted);
                assert_eq!(reply.event_ids, events);
                assert_eq!(*reply_header, reply_id(id).to_string());
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_killed_between_any_two_steps_loses_no_command_and_repeats_none() -> Result<()> {
    let servers = Servers::start()?;
    let registry = Registry::open(
        &RegistryConfig {
            schema_registry_url: servers.registry().to_owned(),
            schema_registration: Registration::Register,
        },
        schemas::all(),
        None,
    )
    .await?;
    let stack = Stack {
        producer: ClientConfig::new()
            .set("bootstrap.servers", servers.kafka())
            .set("partitioner", "murmur2_random")
            .create()?,
        dir: tempfile::tempdir()?,
        servers,
        registry,
    };
    let first = Process::start(&stack.servers, stack.dir.path(), "")?;
    first.until_ready().await?; // the topics are there
    drop(first);
    let mut sent = BTreeMap::new();
    for point in [
        // Decided and durable, nothing said.
        "inbox.after-handle=kill*20",
        // The broker has the reply, the group does not know.
        "inbox.after-reply=kill*20",
        "inbox.before-dead-letter=kill*3",
        // `inbox.after-commit` fires in a rebalance: the crash test provokes it.
        "inbox.before-commit=kill*1",
    ] {
        sent.extend(stack.send(60)?);
        let mut process = Process::start(&stack.servers, stack.dir.path(), point)?;
        process.until_ended(stack.dir.path()).await?;
        let name = point.split('=').next().unwrap_or_default();
        let fired = read_to_string(stack.dir.path().join("fired"))?;
        let last = fired.lines().last().unwrap_or_default();
        assert!(last.starts_with(name), "{last} fired, not {name}");
    }
    let _last = Process::start(&stack.servers, stack.dir.path(), "")?;
    stack.check(&sent).await?;
    let mut letters = std::collections::BTreeSet::new();
    read_topic(
        stack.servers.kafka(),
        "millrace.commands.order.dlq",
        |letter| {
            let offset = letter.header("millrace_dlq_offset").to_owned();
            letters.insert((letter.partition, offset));
            Ok(letters.len() == 24)
        },
    )
}
