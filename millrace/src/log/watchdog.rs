//! Gives up a Kafka client whose call hangs: some transactional calls of librdkafka ignore their timeout.
//!
//! `send_offsets_to_transaction` waits for the group's coordinator without an end (librdkafka 2.12 never looks at the timeout
//! of a coordinator request), and for ever where the client has forgotten its brokers (see [`super::contact`]). An outage of the
//! brokers alone must not count, or all clients would be given up in it: a call hangs when Kafka answers others meanwhile.
//!
//! A call cannot be broken off, so it is made on a thread of its own, which is left behind with the client until the call
//! returns. Whoever takes its place fences it by the transactional id (KIP-98), so whatever it still does is not committed.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::config::KafkaConfig;
use crate::log::client::{self, TRANSACTION_TIMEOUT};

const TICK: Duration = Duration::from_millis(500);
/// A call that lasts so many ticks is looked at.
const TICKS_MAX: u32 = 2 * (TRANSACTION_TIMEOUT.as_millis() / TICK.as_millis()) as u32;
/// Looks, one after another, at which Kafka answered: the brokers may have come back just before the first one.
const LOOKS_MAX: u32 = 2;

type Call<C> = Box<dyn FnOnce(&C) + Send>;

/// A client and the thread that makes its calls, one after another.
pub(crate) struct Watched<C> {
    client: Arc<C>,
    calls: mpsc::Sender<Call<C>>,
    config: KafkaConfig,
}

impl<C: Send + Sync + 'static> Watched<C> {
    /// Takes a client of this Kafka.
    pub(crate) fn start(config: &KafkaConfig, client: C) -> std::io::Result<Self> {
        let client = Arc::new(client);
        let (calls, queue) = mpsc::channel::<Call<C>>();
        let served = Arc::clone(&client);
        std::thread::Builder::new()
            .name("kafka-calls".to_owned())
            .spawn(move || queue.into_iter().for_each(|call| call(&served)))?;
        Ok(Self {
            client,
            calls,
            config: config.clone(),
        })
    }

    /// The client, for what never waits.
    pub(crate) fn client(&self) -> &C {
        &self.client
    }

    /// Makes one call; nothing if it hangs, and then this must be dropped. `is_lost` says that the client is past hope.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&C) -> T + Send + 'static,
        is_lost: impl Fn(&C) -> bool,
    ) -> Option<T> {
        let (done, result) = mpsc::sync_channel(1);
        let call = move |client: &C| {
            // Nobody waits for a call that was given up.
            let _ = done.send(call(client));
        };
        self.calls.send(Box::new(call)).ok()?;
        let is_lost = || is_lost(&self.client);
        wait(&result, TICK, is_lost, || answers(&self.config))
    }
}

/// The call's result, or nothing when patience is lost.
fn wait<T>(
    result: &Receiver<T>,
    tick: Duration,
    is_lost: impl Fn() -> bool,
    answers: impl Fn() -> bool,
) -> Option<T> {
    let mut patience = Patience::default();
    loop {
        match result.recv_timeout(tick) {
            Ok(result) => return Some(result),
            Err(RecvTimeoutError::Disconnected) => return None,
            // A look takes a while, in which it may have ended after all.
            Err(RecvTimeoutError::Timeout) if is_lost() || patience.is_lost(&answers) => {
                return result.try_recv().ok();
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Ticks are counted, not time: a process that was stopped for a minute did not hang in a call.
#[derive(Debug, Default)]
struct Patience {
    ticks: u32,
    looks: u32,
}

impl Patience {
    /// One tick of a call that is under way: true when it hangs.
    fn is_lost(&mut self, answers: impl FnOnce() -> bool) -> bool {
        self.ticks += 1;
        if self.ticks < TICKS_MAX {
            return false;
        }
        self.ticks = 0;
        self.looks = if answers() { self.looks + 1 } else { 0 };
        self.looks == LOOKS_MAX
    }
}

/// Whether a client of its own gets an answer from Kafka now.
fn answers(config: &KafkaConfig) -> bool {
    let client: Result<BaseConsumer, _> = client::reader(config, "watchdog").create();
    let cluster = client.and_then(|client| client.fetch_metadata(None, TRANSACTION_TIMEOUT));
    // One that is fenced answers too, and serves nobody.
    cluster.is_ok_and(|cluster| !cluster.brokers().is_empty())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// The tick at which patience is lost with a call, if it is within so many.
    fn lost_at(ticks: u32, answers: impl Fn(u32) -> bool) -> Option<u32> {
        let mut patience = Patience::default();
        (1..=ticks).find(|tick| patience.is_lost(|| answers(*tick)))
    }

    #[test]
    fn a_call_that_lasts_while_kafka_is_away_is_waited_for() {
        assert_eq!(lost_at(100 * TICKS_MAX, |_| false), None);
    }

    #[test]
    fn a_call_hangs_when_kafka_answers_others_at_two_looks() {
        assert_eq!(lost_at(10 * TICKS_MAX, |_| true), Some(2 * TICKS_MAX));
    }

    #[test]
    fn kafka_that_was_away_at_one_look_is_given_two_more() {
        let back = |tick| tick > 3 * TICKS_MAX - 1;
        assert_eq!(lost_at(10 * TICKS_MAX, back), Some(4 * TICKS_MAX));
    }

    #[test]
    fn calls_that_end_are_never_looked_at() {
        for tick in 1..10 * TICKS_MAX as u64 {
            let (done, result) = mpsc::sync_channel(1);
            done.send(tick).unwrap();
            let never = || unreachable!("it has ended");
            let waited = wait(&result, Duration::ZERO, never, never);
            assert_eq!(waited, Some(tick));
        }
    }

    #[test]
    fn a_client_whose_call_hangs_is_left_behind_until_the_call_returns() {
        let config = KafkaConfig {
            kafka_bootstrap: "127.0.0.1:1".to_owned(),
            kafka_properties: Default::default(),
            topic_partitions: 1,
            topic_replication: 1,
        };
        let watched = Watched::start(&config, ()).unwrap();
        assert_eq!(watched.call(|()| 7, |()| false), Some(7));
        let client = Arc::downgrade(&watched.client);
        let (release, released) = mpsc::channel::<()>();
        let (done, result) = mpsc::sync_channel(1);
        let hangs = move |_: &()| {
            let _ = released.recv();
            let _ = done.send(());
        };
        watched.calls.send(Box::new(hangs)).unwrap();
        let tick = Duration::from_millis(1);
        assert_eq!(wait(&result, tick, || false, || true), None);
        assert_eq!(wait(&result, tick, || true, || false), None);
        drop(watched);
        assert!(client.upgrade().is_some(), "its call is under way");
        release.send(()).unwrap();
        result.recv().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while client.upgrade().is_some() {
            assert!(Instant::now() < deadline, "nobody lets go of it");
            std::thread::yield_now();
        }
    }
}
