//! Places in the journal and on a topic, and the token that ties a command's answer to a view.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An event's key in the journal's order: generation, transaction id, position.
///
/// Positions are handed out before commit, so they alone are no order that a reader can follow. Events
/// of one transaction share its id, and no transaction below the relay's gate can still add one; the
/// generation counts restores of the journal into another cluster, where transaction ids start anew.
/// Written `generation:xid:position`, as in the `millrace_position` header.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(into = "String", try_from = "String")]
pub struct JournalPosition {
    /// The journal's generation, from 1.
    pub generation: i32,
    /// The id of the transaction that appended the event.
    pub xid: i64,
    /// The event's own number.
    pub position: i64,
}

/// A text that is not a position, a token or an aggregate id.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a {what}, which looks like {example}")]
pub struct ParseError {
    text: String,
    what: &'static str,
    example: &'static str,
}

impl fmt::Display for JournalPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.generation, self.xid, self.position)
    }
}

impl FromStr for JournalPosition {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError {
            text: text.to_owned(),
            what: "journal position",
            example: "1:745:12",
        };
        let mut parts = text.split(':');
        let mut next = || parts.next().ok_or_else(error);
        let parsed = Self {
            generation: next()?.parse().map_err(|_| error())?,
            xid: next()?.parse().map_err(|_| error())?,
            position: next()?.parse().map_err(|_| error())?,
        };
        match parts.next() {
            None => Ok(parsed),
            Some(_) => Err(error()),
        }
    }
}

impl From<JournalPosition> for String {
    fn from(position: JournalPosition) -> Self {
        position.to_string()
    }
}

impl TryFrom<String> for JournalPosition {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

/// Where the last event of an accepted command will stand: its topic, partition and journal position.
///
/// A query with `after=<token>` waits until the view has read that partition up to the position.
/// Written `topic/partition/generation:xid:position`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(into = "String", try_from = "String")]
pub struct Token {
    /// Topic, such as `counter.events`.
    pub topic: String,
    /// Partition that the aggregate id hashes to.
    pub partition: i32,
    /// The event's place in the journal.
    pub position: JournalPosition,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.position)
    }
}

impl FromStr for Token {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError {
            text: text.to_owned(),
            what: "token",
            example: "counter.events/3/1:745:12",
        };
        let mut parts = text.rsplitn(3, '/');
        let mut next = || parts.next().ok_or_else(error);
        let position = next()?.parse().map_err(|_| error())?;
        let partition = next()?.parse().map_err(|_| error())?;
        let topic = next()?.to_owned();
        Ok(Self {
            topic,
            partition,
            position,
        })
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.to_string()
    }
}

impl TryFrom<String> for Token {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

/// The partition that a key belongs to, as the JVM clients and librdkafka's `murmur2` partitioner
/// compute it (Kafka's `DefaultPartitioner`: `toPositive(murmur2(key)) % partitions`).
pub fn partition_of(key: &str, partitions: i32) -> i32 {
    (murmur2(key.as_bytes()) & 0x7fff_ffff) as i32 % partitions
}

fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut hash = SEED ^ data.len() as u32;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_as_it_was_written() {
        let text = "counter.events/3/1:745:12";
        let token: Token = text.parse().unwrap();
        assert_eq!(token.topic, "counter.events");
        assert_eq!(token.partition, 3);
        assert_eq!(token.to_string(), text);
        assert!("counter.events/3/745:12".parse::<Token>().is_err());
        assert!("counter.events/x/1:745:12".parse::<Token>().is_err());
    }

    #[test]
    fn positions_are_ordered_by_generation_then_transaction_then_number() {
        let at = |text: &str| text.parse::<JournalPosition>().unwrap();
        assert!(at("1:9:500") < at("1:10:2"));
        assert!(at("1:900:500") < at("2:3:501"));
    }

    #[test]
    fn keys_hash_as_kafkas_java_client_hashes_them() {
        // Values of org.apache.kafka.common.utils.UtilsTest#testMurmur2.
        assert_eq!(murmur2(b"21") as i32, -973_932_308);
        assert_eq!(murmur2(b"foobar") as i32, -790_332_482);
        assert_eq!(murmur2(b"a-little-bit-long-string") as i32, -985_981_536);
        assert_eq!(murmur2(b"abc") as i32, 479_470_107);
    }
}
