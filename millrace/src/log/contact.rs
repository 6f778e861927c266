//! Notices that a client has forgotten every broker, which it never recovers from.
//!
//! librdkafka (2.10 to at least 2.13, its issue 5301) drops the brokers that an answer about the cluster does not list. A
//! broker that its controller fenced for a moment, as after a pause of some seconds, lists none: the client is then left
//! without any and does not ask its bootstrap servers again. A consumer polls nothing for ever and reports no error. What
//! the client counts (`statistics.interval.ms`) shows it, so whoever polls for long looks there and starts another client.

use std::sync::atomic::{AtomicU32, Ordering};

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;

use super::client;
use crate::config::KafkaConfig;

/// Statistics in a row without a broker: between dropping the old ones and asking the bootstrap servers there may be one.
const WITHOUT_MAX: u32 = 2;

/// `statistics.interval.ms` of a client whose figures nobody else wants; they are many.
pub(crate) const LOOK_MS: &str = "2000";

/// Whether a client still knows a broker.
#[derive(Debug, Default)]
pub struct Contact {
    without: AtomicU32,
}

impl Contact {
    /// Hears what the client counts.
    pub(crate) fn measured(&self, statistics: &Statistics) {
        // The others are the client's own: what it queues for no broker in particular, and the coordinator's place.
        let knows_one = statistics
            .brokers
            .values()
            .any(|broker| ["configured", "learned"].contains(&broker.source.as_str()));
        match knows_one {
            true => self.without.store(0, Ordering::Relaxed),
            false => {
                self.without.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// An error once it is lost for good.
    pub fn check(&self) -> KafkaResult<()> {
        match self.without.load(Ordering::Relaxed) < WITHOUT_MAX {
            true => Ok(()),
            false => Err(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown)),
        }
    }
}

/// A context that hears of it.
pub(crate) trait InContact: ConsumerContext {
    /// Of its client.
    fn contact(&self) -> &Contact;
}

impl InContact for Contact {
    fn contact(&self) -> &Contact {
        self
    }
}

/// Of a consumer that has nobody else to tell.
impl ClientContext for Contact {
    fn stats(&self, statistics: Statistics) {
        self.measured(&statistics);
    }
}

impl ConsumerContext for Contact {}

/// As [`client::reader`], for one that polls for long and asks [`Contact::check`] meanwhile.
///
/// # Errors
/// Where the operator's settings are none of the client's.
pub fn reader(config: &KafkaConfig, role: &str) -> KafkaResult<BaseConsumer<Contact>> {
    client::reader(config, role)
        .set("statistics.interval.ms", LOOK_MS)
        .create_with_context(Contact::default())
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::Broker;

    use super::*;

    fn heard(contact: &Contact, sources: &[&str]) {
        let mut statistics = Statistics::default();
        for (number, source) in sources.iter().enumerate() {
            let broker = Broker {
                source: (*source).to_owned(),
                ..Broker::default()
            };
            statistics.brokers.insert(number.to_string(), broker);
        }
        contact.measured(&statistics);
    }

    #[test]
    fn a_client_that_knows_no_broker_at_two_looks_is_lost() {
        let contact = Contact::default();
        for _ in 0..WITHOUT_MAX {
            assert!(contact.check().is_ok());
            heard(&contact, &["internal", "logical"]);
        }
        assert!(contact.check().is_err());
    }

    #[test]
    fn a_client_that_still_has_an_address_to_ask_is_not_lost_however_long_nobody_answers() {
        let contact = Contact::default();
        for source in ["configured", "learned"] {
            for _ in 0..10 * WITHOUT_MAX {
                heard(&contact, &["internal", source]);
                assert!(contact.check().is_ok());
            }
        }
    }

    #[test]
    fn what_was_missing_in_between_does_not_add_up() {
        let contact = Contact::default();
        for _ in 0..10 * WITHOUT_MAX {
            heard(&contact, &["internal"]);
            heard(&contact, &["internal", "learned"]);
            assert!(contact.check().is_ok());
        }
    }
}
