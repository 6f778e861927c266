//! When nothing moves any more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::facts::EFFECT;
use super::oracle::{GROUPS, Oracle, TOPIC, VIEWS};

/// Where topics end: after their last record, whatever markers of transactions follow it.
type Ends = BTreeMap<(String, i32), i64>;

impl Oracle {
    /// Waits until nothing moves any more: the relay has published the journal to its end, every view has applied the topics,
    /// processors and inboxes have read theirs, no call is open, no timer is pending, and the journal is still the same.
    pub(super) async fn quiesce(&self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            let last = self.newest_event().await?;
            let mut behind = tokio::task::block_in_place(|| self.relay_behind(last))?;
            if behind.is_empty() {
                let ends = tokio::task::block_in_place(|| self.ends())?;
                behind = self.views_behind(&ends).await?;
                behind.extend(tokio::task::block_in_place(|| self.groups_behind(&ends))?);
                behind.extend(self.effects_behind(&ends).await?);
                behind.extend(self.timers_pending().await?);
            }
            if behind.is_empty() && self.newest_event().await? == last {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "not drained within {within:?}: {}",
                behind.join("; ")
            );
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    async fn newest_event(&self) -> Result<Uuid> {
        let last: Option<Uuid> = sqlx::query_scalar(
            "SELECT e.event_id FROM millrace.events AS e
             ORDER BY e.generation DESC, e.xid DESC, e.position DESC LIMIT 1",
        )
        .fetch_optional(&self.journal)
        .await?;
        last.context("the journal is empty")
    }

    fn relay_behind(&self, last: Uuid) -> Result<Vec<String>> {
        let published = self.relay_stands_at()?;
        if published == Some(last) {
            return Ok(Vec::new());
        }
        Ok(vec![format!(
            "the relay stands at {published:?}, the journal ends at {last}"
        )])
    }

    fn ends(&self) -> Result<Ends> {
        let mut ends = Ends::new();
        let topics: BTreeSet<&str> = GROUPS.iter().map(|(_, topic)| *topic).collect();
        for topic in topics {
            for (partition, offset) in
                self.read(topic, |message| Ok((message.partition(), message.offset())))?
            {
                let end = ends.entry((topic.to_owned(), partition)).or_default();
                *end = (*end).max(offset + 1);
            }
        }
        Ok(ends)
    }

    /// The groups whose committed offsets do not stand at the topics' ends.
    fn groups_behind(&self, ends: &Ends) -> Result<Vec<String>> {
        let mut behind = Vec::new();
        for (group, topic) in GROUPS {
            let mut client = self.client();
            let consumer: BaseConsumer = client.set("group.id", group).create()?;
            let mut list = TopicPartitionList::new();
            let of_topic = ends.iter().filter(|((of, _), _)| of == topic);
            for ((_, partition), _) in of_topic.clone() {
                list.add_partition(topic, *partition);
            }
            let committed = consumer.committed_offsets(list, Duration::from_secs(30))?;
            for ((_, partition), end) in of_topic {
                let found = committed.find_partition(topic, *partition);
                let next = found.map(|element| element.offset());
                if !matches!(next, Some(Offset::Offset(next)) if next >= *end) {
                    behind.push(format!("{group}/{partition} at {next:?} of {end}"));
                }
            }
        }
        Ok(behind)
    }

    async fn effects_behind(&self, ends: &Ends) -> Result<Vec<String>> {
        let mut behind: Vec<String> = sqlx::query_scalar(
            "SELECT format('%s calls of %s are %s', count(*), effect, state) FROM millrace_effects.calls
             WHERE state IN ('pending', 'calling', 'done', 'failed') GROUP BY effect, state",
        )
        .fetch_all(&self.views)
        .await?;
        let rows: Vec<(String, i32, i64, Option<String>)> = sqlx::query_as(
            "SELECT topic, partition, next, error FROM millrace_effects.checkpoints WHERE effect = $1",
        )
        .bind(EFFECT)
        .fetch_all(&self.views)
        .await?;
        for ((topic, partition), end) in ends.iter().filter(|((topic, _), _)| topic == TOPIC) {
            let row = rows
                .iter()
                .find(|row| row.0 == *topic && row.1 == *partition);
            if row.is_none_or(|row| row.2 < *end) {
                behind.push(format!("effect on {topic}/{partition} at {row:?} of {end}"));
            }
        }
        Ok(behind)
    }

    /// Waits until the effect has claimed every partition.
    pub(super) async fn until_effect_stands(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let partitions = tokio::task::block_in_place(|| {
            let consumer: BaseConsumer = self.client().create()?;
            let metadata = consumer.fetch_metadata(Some(TOPIC), Duration::from_secs(30))?;
            anyhow::Ok(metadata.topics()[0].partitions().len() as i64)
        })?;
        loop {
            let held = "SELECT count(*) FROM millrace_effects.checkpoints";
            let held: Result<i64, _> = sqlx::query_scalar(held).fetch_one(&self.views).await;
            if held.as_ref().is_ok_and(|held| *held == partitions) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the effect holds {held:?} of {partitions} partitions after 60 s"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn timers_pending(&self) -> Result<Vec<String>> {
        Ok(sqlx::query_scalar(
            "SELECT format('%s timers are pending', count(*)) FROM millrace.timers
             WHERE state = 'pending' HAVING count(*) > 0",
        )
        .fetch_all(&self.journal)
        .await?)
    }

    /// The event that the newest position record names.
    fn relay_stands_at(&self) -> Result<Option<Uuid>> {
        let records = self.read("_millrace.relay", |message| {
            let record: serde_json::Value =
                serde_json::from_slice(message.payload().unwrap_or_default())?;
            let id = record["event_id"]
                .as_str()
                .context("a position without event")?;
            Ok(id.parse()?)
        })?;
        Ok(records.last().copied())
    }

    async fn views_behind(&self, ends: &Ends) -> Result<Vec<String>> {
        let mut behind = Vec::new();
        let rows: Vec<(String, String, i32, i64, Option<String>)> = sqlx::query_as(
            "SELECT view, topic, partition, next, error FROM millrace_views.checkpoints",
        )
        .fetch_all(&self.views)
        .await?;
        let at: HashMap<(&str, &str, i32), (i64, &Option<String>)> = rows
            .iter()
            .map(|(view, topic, partition, next, error)| {
                ((view.as_str(), topic.as_str(), *partition), (*next, error))
            })
            .collect();
        for (view, topics) in VIEWS {
            for ((topic, partition), end) in ends {
                if !topics.contains(&topic.as_str()) {
                    continue;
                }
                let (next, error) = at
                    .get(&(view, topic.as_str(), *partition))
                    .copied()
                    .unwrap_or((0, &None));
                if next < *end {
                    behind.push(format!(
                        "{view} on {topic}/{partition} at {next} of {end} {error:?}"
                    ));
                }
            }
        }
        let open: Vec<String> = sqlx::query_scalar(
            "SELECT DISTINCT view FROM millrace_views.resets WHERE done_at IS NULL",
        )
        .fetch_all(&self.views)
        .await?;
        behind.extend(open.iter().map(|view| format!("{view} is being rebuilt")));
        Ok(behind)
    }
}
