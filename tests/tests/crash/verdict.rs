//! Checks 1, 2 and 4: what the topic and the acks must say of the journal.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use anyhow::{Result, bail, ensure};
use uuid::Uuid;

use super::facts::Outcome;
use super::load::Ack;
use super::oracle::{Event, Record};

/// Findings of one kind that are printed; the rest are counted.
const SHOWN: usize = 5;

/// What is wrong, a sentence each.
#[derive(Default)]
pub(crate) struct Findings(BTreeMap<&'static str, Vec<String>>);

impl Findings {
    pub(crate) fn add(&mut self, check: &'static str, finding: String) {
        self.0.entry(check).or_default().push(finding);
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (check, findings) in other.0 {
            self.0.entry(check).or_default().extend(findings);
        }
    }

    pub(crate) fn verdict(&self) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut text = String::from("the oracle found:");
        for (check, findings) in &self.0 {
            text += &format!("\n  {check}: {} times", findings.len());
            for finding in findings.iter().take(SHOWN) {
                text += &format!("\n    {finding}");
            }
        }
        bail!(text)
    }
}

/// Check 1: the same events, none twice, the bytes unchanged.
pub(crate) fn topic_equals_journal(
    journal: &[Event],
    topic: &[Record],
    planted: &[Uuid],
    findings: &mut Findings,
) {
    const CHECK: &str = "1 the topic's events equal the journal's, none twice";
    let mut published: HashMap<Uuid, Vec<&Record>> = HashMap::new();
    for record in topic {
        published.entry(record.event_id).or_default().push(record);
    }
    for event in journal {
        let Event {
            event_id,
            aggregate_id,
            sequence,
            ..
        } = event;
        let Some(records) = published.remove(event_id) else {
            findings.add(
                CHECK,
                format!("{aggregate_id} {sequence} ({event_id}) was never published"),
            );
            continue;
        };
        let allowed = 1 + planted.iter().filter(|id| *id == event_id).count();
        if records.len() > allowed {
            let count = records.len();
            findings.add(
                CHECK,
                format!("{aggregate_id} {sequence} ({event_id}) was published {count} times"),
            );
        }
        let same = |record: &&&Record| {
            record.key == *aggregate_id
                && record.sequence == *sequence
                && record.payload == event.payload
        };
        if let Some(other) = records.iter().find(|record| !same(record)) {
            findings.add(
                CHECK,
                format!(
                    "{aggregate_id} {sequence} stands at {}/{}/{} with other content",
                    other.topic, other.partition, other.offset
                ),
            );
        }
    }
    for (id, records) in published {
        findings.add(
            CHECK,
            format!(
                "{} {id} was published and is not in the journal",
                records[0].key
            ),
        );
    }
}

/// Check 2: each aggregate's sequence is 1, 2, 3 in the topic's order, and in the journal's.
pub(crate) fn sequences(
    journal: &[Event],
    topic: &[Record],
    planted: &[Uuid],
    findings: &mut Findings,
) {
    let mut seen = HashSet::new();
    let in_topic = topic
        .iter()
        .filter(|record| !planted.contains(&record.event_id) || seen.insert(record.event_id))
        .map(|record| (record.key.as_str(), record.sequence));
    follow(
        "2 per-aggregate order without gaps in the topic",
        in_topic,
        findings,
    );
    let in_journal = journal
        .iter()
        .map(|event| (event.aggregate_id.as_str(), event.sequence));
    follow(
        "2 per-aggregate order without gaps in the journal",
        in_journal,
        findings,
    );
}

fn follow<'e>(
    check: &'static str,
    events: impl Iterator<Item = (&'e str, i64)>,
    findings: &mut Findings,
) {
    let mut last: HashMap<&str, i64> = HashMap::new();
    for (id, sequence) in events {
        let last = last.entry(id).or_default();
        if sequence != *last + 1 {
            findings.add(check, format!("{id}: {sequence} follows {last}"));
        }
        *last = sequence;
    }
}

/// Check 4: every acknowledged command's events are in the journal, and each key led to one outcome, the one that the
/// journal keeps. Returns the keys.
pub(super) fn acknowledged(
    journal: &[Event],
    acks: &Path,
    outcomes: &HashMap<String, Outcome>,
    findings: &mut Findings,
) -> Result<HashSet<String>> {
    const KEPT: &str = "4 no acknowledged command is lost";
    const ONCE: &str = "4 each key led to one outcome";
    let stored: HashMap<Uuid, (&str, i64)> = journal
        .iter()
        .map(|event| {
            (
                event.event_id,
                (event.aggregate_id.as_str(), event.sequence),
            )
        })
        .collect();
    let mut firsts: HashMap<String, Ack> = HashMap::new();
    for line in std::fs::read_to_string(acks)?.lines() {
        let ack: Ack = serde_json::from_str(line)?;
        for (event_id, sequence) in &ack.events {
            if stored.get(event_id) != Some(&(ack.id.as_str(), *sequence)) {
                findings.add(
                    KEPT,
                    format!(
                        "{} {} {sequence} ({event_id}) is not in the journal",
                        ack.command, ack.id
                    ),
                );
            }
        }
        if !ack.rejected && (ack.events.len() != 1 || ack.events[0].1 != ack.version) {
            findings.add(KEPT, format!("{ack:?} does not name its one event"));
        }
        match firsts.get(&ack.key) {
            Some(first) if *first != ack => findings.add(
                ONCE,
                format!(
                    "{} of {}: first {}, then {}",
                    ack.command,
                    ack.id,
                    told(first),
                    told(&ack)
                ),
            ),
            Some(_) => {}
            None => {
                firsts.insert(ack.key.clone(), ack);
            }
        }
    }
    ensure!(!firsts.is_empty(), "the load had no command acknowledged");
    for ack in firsts.values() {
        let kept = outcomes.get(&ack.key);
        let same = |kept: &Outcome| {
            kept.aggregate_id == ack.id
                && kept.rejection.is_some() == ack.rejected
                && (ack.rejected || (kept.version, kept.events) == (ack.version, 1))
        };
        if !kept.is_some_and(same) {
            findings.add(
                ONCE,
                format!(
                    "{} of {}: {}, kept is {kept:?}",
                    ack.command,
                    ack.id,
                    told(ack)
                ),
            );
        }
    }
    // Counted apart from what names what: each of the load's commands makes one event; the slow writers keep no outcomes.
    let accepted = firsts.values().filter(|ack| !ack.rejected).count() as i64;
    let others = outcomes
        .iter()
        .filter(|(key, _)| !firsts.contains_key(*key));
    let flow: i64 = others.map(|(_, outcome)| i64::from(outcome.events)).sum();
    let appended = journal
        .iter()
        .filter(|event| !event.aggregate_id.starts_with("slow-"))
        .count() as i64;
    if accepted + flow != appended {
        findings.add(
            ONCE,
            format!(
                "{accepted} commands of the load were accepted, {flow} events are those of other commands, {appended} events were appended"
            ),
        );
    }
    Ok(firsts.into_keys().collect())
}

fn told(ack: &Ack) -> String {
    match ack.rejected {
        true => format!("rejected at version {}", ack.version),
        false => format!("accepted as version {}", ack.version),
    }
}
