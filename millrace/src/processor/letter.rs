//! Dead letters: the original record with headers that say where it stood and why it is here.
//!
//! What became of a letter is said by later records of the same partition, the marks: the topic is a log, and
//! nothing in it is changed.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::{Outgoing, dlq_topic};
use crate::log::record::{HeaderBlock, Record};

const PREFIX: &str = "millrace_dlq_";
const TOPIC: &str = "millrace_dlq_topic";
const PARTITION: &str = "millrace_dlq_partition";
const OFFSET: &str = "millrace_dlq_offset";
const REASON: &str = "millrace_dlq_reason";
const CAUSE: &str = "millrace_dlq_cause";
const ATTEMPTS: &str = "millrace_dlq_attempts";
const TIME: &str = "millrace_dlq_time";
/// On a mark: what became of the letters of its key.
const MARK: &str = "millrace_dlq_mark";
const FROM: &str = "millrace_dlq_from";
const TO: &str = "millrace_dlq_to";

/// Longest reason that is kept; a handler may quote anything.
const REASON_MAX_CHARS: usize = 2_000;

/// Why a record became a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It can never be handled as it is.
    Poison,
    /// It failed as often as it may.
    Exhausted,
    /// It follows a dead letter of its key.
    Behind,
}

impl Cause {
    fn text(self) -> &'static str {
        match self {
            Self::Poison => "poison",
            Self::Exhausted => "exhausted",
            Self::Behind => "behind",
        }
    }
}

/// What became of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It waits for an operator.
    Open,
    /// It was handled when it was redriven.
    Redriven,
    /// The group was reset to before it, so it came again.
    Superseded,
    /// An operator gave it up: it will not be handled.
    Skipped,
}

impl State {
    /// As it stands on a mark, and in what people read.
    pub fn text(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Redriven => "redriven",
            Self::Superseded => "superseded",
            Self::Skipped => "skipped",
        }
    }
}

/// A dead letter.
#[derive(Debug, Clone)]
pub struct Letter {
    /// The record as it stood in the source topic.
    pub record: Record,
    /// Offset in the dead letters' partition, which has the number of the source partition.
    pub dlq_offset: i64,
    /// Why.
    pub cause: String,
    /// In words.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// When it became one.
    pub at: Option<DateTime<Utc>>,
    /// What became of it.
    pub state: State,
}

/// Makes a dead letter of a record.
pub(crate) fn letter(
    group: &str,
    record: &Record,
    cause: Cause,
    reason: &str,
    attempts: u32,
) -> Outgoing {
    let mut headers = record.headers.clone();
    let reason: String = reason.chars().take(REASON_MAX_CHARS).collect();
    let at = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
    for (name, value) in [
        (TOPIC, &*record.topic),
        (PARTITION, &record.partition.to_string()),
        (OFFSET, &record.offset.to_string()),
        (CAUSE, cause.text()),
        (REASON, &reason),
        (ATTEMPTS, &attempts.to_string()),
        (TIME, &at),
    ] {
        headers.push(name, Some(value.as_bytes()));
    }
    Outgoing {
        topic: dlq_topic(group),
        partition: Some(record.partition),
        key: record.key.clone(),
        payload: record.payload.clone(),
        headers,
    }
}

/// Says what became of the letters of a key whose source offsets lie in `from..=to`.
pub(crate) fn mark(
    group: &str,
    (topic, partition, key): (&str, i32, &[u8]),
    state: State,
    (from, to): (i64, i64),
) -> Outgoing {
    let mut headers = HeaderBlock::default();
    for (name, value) in [
        (MARK, state.text()),
        (TOPIC, topic),
        (FROM, &from.to_string()),
        (TO, &to.to_string()),
    ] {
        headers.push(name, Some(value.as_bytes()));
    }
    Outgoing {
        topic: dlq_topic(group),
        partition: Some(partition),
        key: Some(key.to_vec()),
        payload: None,
        headers,
    }
}

/// Folds the records of one partition of dead letters, in their order, into letters with their states.
///
/// Of two letters of one source record, the newer counts: the older was superseded by a reset, or its
/// mark has been removed by the topic's retention.
pub(crate) fn fold(records: impl IntoIterator<Item = Record>) -> Vec<Letter> {
    let mut letters: Vec<Letter> = Vec::new();
    // By key and source offset: the newest letter's index.
    let mut open: BTreeMap<(Option<Vec<u8>>, String, i64), usize> = BTreeMap::new();
    for record in records {
        let texts: BTreeMap<&str, String> = record
            .headers
            .iter()
            .filter(|(name, _)| name.starts_with(PREFIX))
            .map(|(name, value)| {
                (
                    name,
                    String::from_utf8_lossy(value.unwrap_or_default()).into_owned(),
                )
            })
            .collect();
        let number = |name| texts.get(name).and_then(|text| text.parse::<i64>().ok());
        let topic = texts.get(TOPIC).cloned().unwrap_or_default();
        if let Some(state) = texts.get(MARK) {
            let (Some(from), Some(to)) = (number(FROM), number(TO)) else {
                continue;
            };
            if from > to {
                continue;
            }
            let state = [State::Superseded, State::Skipped]
                .into_iter()
                .find(|known| known.text() == state)
                .unwrap_or(State::Redriven);
            let range = (record.key.clone(), topic.clone(), from)..=(record.key.clone(), topic, to);
            let found: Vec<_> = open
                .range(range)
                .map(|(at, index)| (at.clone(), *index))
                .collect();
            for (at, index) in found {
                letters[index].state = state;
                open.remove(&at);
            }
            continue;
        }
        let (Some(partition), Some(offset)) = (number(PARTITION), number(OFFSET)) else {
            continue;
        };
        let mut headers = HeaderBlock::default();
        for (name, value) in record
            .headers
            .iter()
            .filter(|(name, _)| !name.starts_with(PREFIX))
        {
            headers.push(name, value);
        }
        let letter = Letter {
            dlq_offset: record.offset,
            cause: texts.get(CAUSE).cloned().unwrap_or_default(),
            reason: texts.get(REASON).cloned().unwrap_or_default(),
            attempts: number(ATTEMPTS)
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or_default(),
            at: texts.get(TIME).and_then(|text| text.parse().ok()),
            state: State::Open,
            record: Record::new(
                (topic.as_str().into(), partition as i32, offset),
                record.key.clone(),
                record.payload,
                headers,
            ),
        };
        if let Some(older) = open.insert((record.key, topic, offset), letters.len()) {
            letters[older].state = State::Superseded;
        }
        letters.push(letter);
    }
    letters
}
