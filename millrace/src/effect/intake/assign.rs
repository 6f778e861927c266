//! The rebalance callback: what was assigned rests until the loop has claimed it.

use std::sync::Arc;

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaResult;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

use super::Held;
use crate::effect::run::Core;

/// The consumer's context: it leads back to the effect.
pub(super) struct Context(pub(super) Arc<Core>);

impl ClientContext for Context {}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        error: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assigned(consumer, list),
            _ => self.unassigned(consumer, list),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            // Only the group tools read these offsets; the checkpoint is what counts.
            tracing::debug!(effect = self.0.name(), %error, "kafka commit failed");
        }
    }
}

impl Context {
    fn assigned(&self, consumer: &BaseConsumer<Self>, list: &mut TopicPartitionList) {
        let keys: Vec<_> = list.to_topic_map().into_keys().collect();
        for (topic, partition) in &keys {
            // Valid whatever the log holds; nothing is fetched, and a claim seeks.
            let _ = list.set_partition_offset(topic, *partition, Offset::End);
        }
        // The client keeps our pause over the loss of a partition, so the state is set anew.
        let woken = consumer.resume(list);
        let assigned = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(list),
            _ => consumer.assign(list),
        };
        let paused = match list.count() {
            0 => Ok(()),
            _ => consumer.pause(list),
        };
        if let Err(error) = woken.and(assigned).and(paused) {
            tracing::error!(effect = self.0.name(), %error, "assignment failed");
            self.0.health.failed(error.to_string());
        }
        self.0
            .assigned(keys.into_iter().map(|key| (key, Held::Unclaimed)));
    }

    fn unassigned(&self, consumer: &BaseConsumer<Self>, list: &TopicPartitionList) {
        self.0.unassigned(list.to_topic_map().into_keys());
        let unassigned = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            _ => consumer.unassign(),
        };
        if let Err(error) = unassigned {
            tracing::warn!(effect = self.0.name(), %error, "unassignment failed");
        }
    }
}
