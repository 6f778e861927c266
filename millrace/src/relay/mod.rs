//! The relay: publishes journal rows to Kafka exactly once, in order, to one topic per aggregate type.
//!
//! The stored payload is the Kafka value, so the relay copies bytes and encodes nothing. One relay is active; any
//! number stand by and take over within ten seconds of its death or stop.
//!
//! ```text
//!            lease               init_transactions          position, journal agree
//!  standby ---------> fencing ----------------> seating ------------------> active
//!     ^                  |  any error               |  any error               |  any error, lease lost
//!     +------------------+--------------------------+--------------------------+
//!                                                   |                          |  journal broken
//!                                                   +--> stopped <-------------+  (until restarted)
//! ```
//!
//! Invariants, each with the schedule that breaks it in its module: [`gate`] no row can appear below the cursor;
//! [`position`] the position commits with the events; [`crate::lease`] nobody acts on a lease that ran out. Between
//! the check of the lease and the commit any time may pass; a successor's `init_transactions` fences that commit.

/// A named fail point between two durable steps. Its `return` action ends the process at once, as SIGKILL would.
macro_rules! crash_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| std::process::abort())
    };
}

mod error;
mod feed;
mod lead;
mod sequence;
mod tenure;

pub mod gate;
pub mod position;
pub mod publish;
pub mod read;
pub mod runbook;
pub mod seat;
pub mod status;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use error::{RUNBOOK, RelayError};
pub use status::{RelayRole, RelayStatus};

use crate::config::{JournalConfig, KafkaConfig};
use crate::lease::LeaseSpec;
use publish::PublisherConfig;
use read::BatchLimits;

/// How the relay works.
#[derive(Debug, Clone, clap::Args)]
pub struct RelayConfig {
    /// Shortest pause between two looks at the journal, while there is something to publish.
    #[arg(long, env = "RELAY_POLL_MIN_MS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub relay_poll_min_ms: u64,
    /// Longest pause between two looks at the journal, while there is nothing to publish.
    #[arg(long, env = "RELAY_POLL_MAX_MS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub relay_poll_max_ms: u64,
    /// Most events in one Kafka transaction.
    #[arg(long, env = "RELAY_BATCH_EVENTS_MAX", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub relay_batch_events_max: u32,
    /// Most bytes of payload in one Kafka transaction; a single event always passes.
    #[arg(long, env = "RELAY_BATCH_BYTES_MAX", default_value_t = 16 * 1024 * 1024)]
    pub relay_batch_bytes_max: usize,
    /// Name of the lease row that decides which relay is active.
    #[arg(long, env = "RELAY_LEASE_NAME", default_value = "relay")]
    pub relay_lease_name: String,
    /// How long the lease holds without a renewal.
    #[arg(long, env = "RELAY_LEASE_TTL_MS", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1000..))]
    pub relay_lease_ttl_ms: u64,
    /// How often the lease is renewed.
    #[arg(long, env = "RELAY_LEASE_RENEW_MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..))]
    pub relay_lease_renew_ms: u64,
    /// Compacted topic, of one partition, that holds the relay's position.
    #[arg(long, env = "RELAY_POSITION_TOPIC", default_value = "_millrace.relay")]
    pub relay_position_topic: String,
    /// Transactional id; the same for all relays of a journal, so that each fences the one before it.
    #[arg(long, env = "RELAY_TRANSACTIONAL_ID", default_value = "millrace.relay")]
    pub relay_transactional_id: String,
}

impl RelayConfig {
    /// Relations between settings that do not hold, one sentence each.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.relay_poll_min_ms > self.relay_poll_max_ms {
            faults.push(format!(
                "RELAY_POLL_MIN_MS={} is above RELAY_POLL_MAX_MS={}",
                self.relay_poll_min_ms, self.relay_poll_max_ms
            ));
        }
        if self.relay_lease_renew_ms * 3 > self.relay_lease_ttl_ms {
            faults.push(format!(
                "RELAY_LEASE_RENEW_MS={} leaves less than three tries within RELAY_LEASE_TTL_MS={}",
                self.relay_lease_renew_ms, self.relay_lease_ttl_ms
            ));
        }
        faults
    }

    /// The lease that decides who leads.
    pub fn lease(&self) -> LeaseSpec {
        LeaseSpec {
            schema: "millrace",
            name: self.relay_lease_name.clone(),
            ttl: Duration::from_millis(self.relay_lease_ttl_ms),
            renew_every: Duration::from_millis(self.relay_lease_renew_ms),
        }
    }

    /// Where the relay writes.
    pub fn publisher(&self) -> PublisherConfig {
        PublisherConfig {
            transactional_id: self.relay_transactional_id.clone(),
            position_topic: self.relay_position_topic.clone(),
        }
    }

    /// How much goes into one transaction.
    pub fn limits(&self) -> BatchLimits {
        BatchLimits {
            events_max: self.relay_batch_events_max,
            bytes_max: self.relay_batch_bytes_max,
        }
    }
}

/// A relay, before it runs.
pub struct Relay {
    config: RelayConfig,
    kafka: KafkaConfig,
    journal: JournalConfig,
    status: Arc<watch::Sender<RelayStatus>>,
}

impl Relay {
    /// Takes the configuration; connects to nothing yet.
    pub fn new(config: RelayConfig, kafka: KafkaConfig, journal: JournalConfig) -> Self {
        Self {
            config,
            kafka,
            journal,
            status: Arc::new(watch::Sender::new(RelayStatus::default())),
        }
    }

    /// State of this relay, as it changes.
    pub fn status(&self) -> watch::Receiver<RelayStatus> {
        self.status.subscribe()
    }

    /// Publishes, or stands by, until `shutdown`; `wake` tells it that something was appended.
    ///
    /// Failures of Postgres and Kafka are tried again without end. When journal and topics do not belong together,
    /// it publishes nothing more, frees its lease, reports [`RelayRole::Stopped`] with the reason, and returns that
    /// error only at `shutdown`, so that the roles beside it in the process go on.
    ///
    /// Must run on a multi-threaded runtime: Kafka's calls block a thread of their own.
    pub async fn run(
        self,
        wake: Arc<Notify>,
        shutdown: CancellationToken,
    ) -> Result<(), RelayError> {
        let (done, ended) = oneshot::channel();
        let leader = lead::Leader {
            config: self.config,
            kafka: self.kafka,
            journal: self.journal,
            status: Arc::clone(&self.status),
            wake,
            shutdown: shutdown.clone(),
            runtime: tokio::runtime::Handle::current(),
        };
        std::thread::Builder::new()
            .name("millrace-relay".to_owned())
            .spawn(move || {
                let _ = done.send(leader.lead());
            })
            .map_err(|error| RelayError::Thread(error.to_string()))?;
        let result = ended.await.unwrap_or_else(|_| {
            Err(RelayError::Thread(
                "it panicked, see the log above".to_owned(),
            ))
        });
        if let Err(error) = &result {
            tracing::error!(%error, "the relay has stopped and stays stopped until it is restarted");
            self.status.send_modify(|status| {
                status.role = RelayRole::Stopped;
                status.error = Some(error.to_string());
            });
            shutdown.cancelled().await;
        }
        result
    }
}
