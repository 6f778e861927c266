//! Checks 6 to 10: what events led to.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use super::facts::{EFFECT, Facts, Outcome, Owed};
use super::fold::Expected;
use super::oracle::Message;
use super::points::POISON;
use super::verdict::Findings;

/// Checks 6 to 10.
pub(super) fn judge(
    facts: &Facts,
    expected: &Expected,
    of_load: &HashSet<String>,
    replays: usize,
    findings: &mut Findings,
) {
    commands(facts, replays, findings);
    outcomes(facts, of_load, findings);
    orders_and_stock(facts, expected, findings);
    effects(facts, findings);
    timers(facts, findings);
}

/// Check 6: in the topics, each event has exactly its commands, as often as it was handled on purpose.
fn commands(facts: &Facts, replays: usize, findings: &mut Findings) {
    const CHECK: &str = "6 every event led to exactly its commands";
    let mut sent: HashMap<&str, usize> = HashMap::new();
    for message in &facts.commands {
        if message.key.starts_with(POISON) {
            let at = (message.partition, message.offset.to_string());
            if !facts.letters.contains(&at) {
                findings.add(CHECK, format!("the poison at {at:?} is no dead letter"));
            }
            continue;
        }
        *sent.entry(&message.id).or_default() += 1;
        let Some(owed) = facts.owed.get(&message.id) else {
            let Message {
                key,
                id,
                source,
                cause,
                ..
            } = message;
            findings.add(
                CHECK,
                format!("command {id} of {source} to {key} is nothing that event {cause} leads to"),
            );
            continue;
        };
        if message.key != owed.aggregate_id {
            findings.add(CHECK, format!("{} has the key {}", message.id, message.key));
        }
    }
    for (id, owed) in &facts.owed {
        let times = sent.get(id.as_str()).copied().unwrap_or_default();
        if times != 1 + replays {
            let Owed {
                event,
                command,
                aggregate_id,
                ..
            } = owed;
            findings.add(
                CHECK,
                format!(
                    "{event}: {command} to {aggregate_id} ({id}) was sent {times} times, not {}",
                    1 + replays
                ),
            );
        }
        if !facts.answered.contains(id) {
            findings.add(
                CHECK,
                format!("{}: {} ({id}) has no reply", owed.event, owed.command),
            );
        }
    }
}

/// Check 7: each command has one outcome, no outcome is nobody's, and the outcomes' events are the journal's.
fn outcomes(facts: &Facts, of_load: &HashSet<String>, findings: &mut Findings) {
    const ONE: &str = "7 each command of the flow took effect once";
    const WHOLE: &str = "7 the journal's events are those of its commands";
    for id in &facts.twice {
        findings.add(ONE, format!("{id} has outcomes of two aggregates"));
    }
    for (id, owed) in &facts.owed {
        let kept = facts.outcomes.get(id);
        let same = |kept: &Outcome| {
            kept.aggregate_type == owed.aggregate
                && kept.aggregate_id == owed.aggregate_id
                && kept.command_type == owed.command
                && kept.rejection.is_none()
        };
        if !kept.is_some_and(same) {
            let Owed { event, command, .. } = owed;
            findings.add(
                ONE,
                format!("{event}: {command} ({id}) has the outcome {kept:?}"),
            );
        }
    }
    let fired: HashSet<&str> = facts
        .timers
        .iter()
        .map(|row| row.command_id.as_str())
        .collect();
    let mut ranges: BTreeMap<&str, Vec<(i64, i64)>> = BTreeMap::new();
    for (id, kept) in &facts.outcomes {
        if !(of_load.contains(id) || facts.owed.contains_key(id) || fired.contains(id.as_str())) {
            findings.add(ONE, format!("nobody sent {kept:?}"));
        }
        if kept.events > 0 {
            let first = kept.version - i64::from(kept.events) + 1;
            let of = ranges.entry(&kept.aggregate_id).or_default();
            of.push((first, kept.version));
        }
    }
    for (id, version) in &facts.versions {
        let mut next = 1;
        let mut of = ranges.remove(id.as_str()).unwrap_or_default();
        of.sort_unstable();
        for (first, last) in of {
            if first != next {
                findings.add(
                    WHOLE,
                    format!(
                        "{id}: events {first} to {last} of a command follow {}",
                        next - 1
                    ),
                );
            }
            next = last + 1;
        }
        if next != version + 1 {
            findings.add(
                WHOLE,
                format!("{id} has {version} events, its commands made {}", next - 1),
            );
        }
    }
}

/// Check 8: no order is stuck, and what was received is there, set aside or gone.
fn orders_and_stock(facts: &Facts, expected: &Expected, findings: &mut Findings) {
    const STUCK: &str = "8 no order is stuck";
    const SUM: &str = "8 received = available + reserved + shipped out";
    for (id, order) in &expected.orders {
        if order.status == "placed" {
            findings.add(STUCK, format!("{id} is still placed"));
        }
    }
    for (product, order) in &facts.open {
        let status = expected
            .orders
            .get(order)
            .map(|order| order.status.as_str());
        if status != Some("confirmed") {
            findings.add(
                STUCK,
                format!("{product} is set aside for {order}, which is {status:?}"),
            );
        }
    }
    for (id, stock) in &expected.stock {
        let sum = stock.available + stock.reserved + stock.shipped_out;
        if stock.received != sum || stock.available < 0 || stock.reserved < 0 {
            findings.add(SUM, format!("{id}: {stock:?}"));
        }
    }
    for moment in &facts.below_zero {
        findings.add(SUM, moment.clone());
    }
}

/// Check 9: the outside was told of each confirmed order once. Under the rule that nothing is repeated, what a crash left in
/// doubt was posted once or not at all, and says so.
fn effects(facts: &Facts, findings: &mut Findings) {
    const CHECK: &str = "9 every effect was called once or is uncertain";
    for (event_id, order) in &facts.confirmed {
        let key = Uuid::new_v5(event_id, EFFECT.as_bytes());
        let Some(row) = facts.calls.get(event_id) else {
            findings.add(
                CHECK,
                format!("{order} is confirmed, and no call of it is known"),
            );
            continue;
        };
        let posted = facts
            .posts
            .get(&key.to_string())
            .cloned()
            .unwrap_or_default();
        let fits = match row.state.as_str() {
            "settled" => posted.times == 1 && !posted.refused,
            "uncertain" => posted.times <= 1,
            "dead" => posted.times == 1 && posted.refused,
            _ => false,
        };
        if !fits || row.call_key != key {
            findings.add(
                CHECK,
                format!("{order}: {row:?}, the outside has {posted:?} under {key}"),
            );
        }
        if posted.times > 0 && (posted.event_id != Some(*event_id) || posted.order_id != *order) {
            findings.add(CHECK, format!("{order} was told of as {posted:?}"));
        }
    }
    for event_id in facts
        .calls
        .keys()
        .filter(|id| !facts.confirmed.contains_key(id))
    {
        findings.add(
            CHECK,
            format!("a call about {event_id}, which confirms no order"),
        );
    }
    let posts: u32 = facts.posts.values().map(|posted| posted.times).sum();
    if posts as usize > facts.confirmed.len() {
        findings.add(
            CHECK,
            format!("{posts} posts for {} orders", facts.confirmed.len()),
        );
    }
}

/// Check 10: every placed order's timer fired once, or was cancelled.
fn timers(facts: &Facts, findings: &mut Findings) {
    const CHECK: &str = "10 every timer fired once or was cancelled";
    let mut owed = facts.timers_owed.clone();
    for timer in &facts.timers {
        if owed.remove(&timer.timer_id).as_ref() != Some(&timer.aggregate_id) {
            findings.add(CHECK, format!("{timer:?} was set by no event"));
        }
        if timer.command_id != Uuid::new_v5(&timer.timer_id, b"fire").to_string() {
            findings.add(
                CHECK,
                format!("{timer:?} fires under an id that is not its own"),
            );
        }
        let outcome = facts.outcomes.get(&timer.command_id);
        let fits = match timer.state.as_str() {
            "fired" => outcome.is_some_and(|kept| kept.rejection.is_none()),
            // A claim may have fired it in the moment of its cancelling: then its command changed nothing.
            "cancelled" => outcome.is_none_or(|kept| kept.events == 0),
            _ => false,
        };
        if !fits {
            findings.add(CHECK, format!("{timer:?} has the outcome {outcome:?}"));
        }
    }
    for order in owed.values() {
        findings.add(CHECK, format!("{order} was placed and has no timer"));
    }
}
