//! Blocks and requests: what stands in the compacted `<group>.blocked`.
//!
//! A partition of it speaks of the same partition of the source topic. Keys are `block/<topic>/<key>`,
//! `redrive/<topic>/<key>` and `replay/<topic>/`, so that compaction keeps each and a tombstone ends it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Outgoing;
use crate::log::record::HeaderBlock;

/// The topic of a group's dead letters.
pub(crate) fn dlq_topic(group: &str) -> String {
    format!("{group}.dlq")
}

/// The topic of a group's blocked keys.
pub(crate) fn blocked_topic(group: &str) -> String {
    format!("{group}.blocked")
}

/// A key with dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Source topic.
    pub topic: String,
    /// Source partition.
    pub partition: i32,
    /// The records' key; what is no UTF-8 in it is replaced.
    pub key: String,
    /// Offset of the first waiting record in the source topic.
    pub first: i64,
    /// Offset of the last one.
    pub last: i64,
    /// What was wrong with the first one.
    pub reason: String,
    /// How often the first one was tried.
    pub attempts: u32,
    /// Since when.
    pub since: DateTime<Utc>,
    /// No letter of the block stands before this offset of the dead letters' partition.
    pub dlq_from: i64,
    /// True where later events of the key wait behind it.
    pub holds_back: bool,
}

/// An operator's request to redrive a key, perhaps without its first letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Tells one request from the next.
    pub(crate) id: uuid::Uuid,
    /// Source offset of the first waiting letter, which is given up instead of handled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) skip: Option<i64>,
}

/// A request to go back to an offset of the partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replay {
    /// Which replay.
    pub(crate) id: uuid::Uuid,
    /// First offset that is handled again.
    pub(crate) from: i64,
}

/// The record that asks the partition's owner to go back.
pub(crate) fn replay_request(
    group: &str,
    (topic, partition): (&str, i32),
    replay: &Replay,
) -> Outgoing {
    About::Replay.record(group, (topic, partition, b""), Some(replay))
}

/// The record that asks the partition's owner to redrive a key.
pub(crate) fn redrive_request(group: &str, at: (&str, i32, &[u8]), request: &Request) -> Outgoing {
    About::Redrive.record(group, at, Some(request))
}

/// What a key of the topic is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    Block,
    Redrive,
    /// Of a whole partition: its key is empty.
    Replay,
}

impl About {
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Block => b"block/",
            Self::Redrive => b"redrive/",
            Self::Replay => b"replay/",
        }
    }

    pub(crate) fn key(self, topic: &str, key: &[u8]) -> Vec<u8> {
        [self.prefix(), topic.as_bytes(), b"/", key].concat()
    }

    /// The opposite of [`key`](Self::key); topic names hold no slash.
    pub(crate) fn parse(key: &[u8]) -> Option<(Self, String, Vec<u8>)> {
        let about = [Self::Block, Self::Redrive, Self::Replay]
            .into_iter()
            .find(|about| key.starts_with(about.prefix()))?;
        let rest = &key[about.prefix().len()..];
        let slash = rest.iter().position(|byte| *byte == b'/')?;
        let topic = std::str::from_utf8(&rest[..slash]).ok()?.to_owned();
        Some((about, topic, rest[slash + 1..].to_vec()))
    }

    /// A record of the topic; without a value it is the tombstone.
    pub(crate) fn record<T: Serialize>(
        self,
        group: &str,
        (topic, partition, key): (&str, i32, &[u8]),
        value: Option<&T>,
    ) -> Outgoing {
        Outgoing {
            topic: blocked_topic(group),
            partition: Some(partition),
            key: Some(self.key(topic, key)),
            payload: value
                .map(|value| serde_json::to_vec(value).expect("plain fields always serialise")),
            headers: HeaderBlock::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_whatever_it_holds() {
        for key in [&b"42"[..], b"a/b", b"", &[0xff, b'/']] {
            let text = About::Redrive.key("counter.events", key);
            assert_eq!(
                About::parse(&text),
                Some((About::Redrive, "counter.events".to_owned(), key.to_vec()))
            );
        }
        assert_eq!(About::parse(b"else/counter.events/42"), None);
    }
}
