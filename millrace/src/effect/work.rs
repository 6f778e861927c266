//! Calls: begun durably, made, recorded.
//!
//! Invariant: a call is made only between the commit that says `calling` and the row's deadline, and by one process.
//! The schedule that would break it: member A commits `calling` and is stopped before it sends; its session ends, member B
//! claims the partition; A wakes and sends, and so does B. It is closed on both sides. B leaves the row alone until the
//! deadline (call timeout and grace, on Postgres' clock, counted from A's commit), and then does what the rule says. A
//! counts its own time from before the statement that began the call was sent, looks at it last before it calls and drops
//! the call when it is over, so its deadline is never later than the row's. What stays open is a stop between that look
//! and the socket's write for longer than the grace: only the receiver can close that, by the key. Under `NeverRepeat`
//! no second call is ever begun, so there is nothing to close. Test: `a_member_that_wakes_after_its_lease_calls_nobody`.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::erased::Calling;
use super::policy::after_failure;
use super::run::{Core, EffectError};
use super::store::{self, Ending, Row};
use super::{Answer, CallError, RuleName, crash_point};
use crate::checkpoints::EFFECTS;
use crate::projection::Record;
use crate::telemetry;

/// Longest until rows that became due are seen.
const TICK: Duration = Duration::from_millis(100);
/// Between two tries to record how a call ended.
const RECORD_PAUSE: Duration = Duration::from_millis(250);

/// Makes calls until shutdown, then lets those under way end.
pub(super) async fn run(core: &Arc<Core>) {
    let mut under_way = JoinSet::new();
    while !core.shutdown.is_cancelled() {
        let began = match begin(core, &mut under_way).await {
            Ok(began) => began,
            Err(error) => {
                tracing::warn!(effect = core.name(), %error, "trying again");
                core.health.failed(error.to_string());
                0
            }
        };
        let full = under_way.len() >= core.registered.registration.concurrency;
        if began > 0 && !full {
            continue;
        }
        tokio::select! {
            () = core.shutdown.cancelled() => {}
            _ = under_way.join_next(), if !under_way.is_empty() => {}
            () = core.wake.notified(), if !full => {}
            () = tokio::time::sleep(TICK) => {}
        }
        // Several may have ended: one statement begins as many new ones.
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
}

/// Begins as many calls as there is room for; returns how many.
async fn begin(core: &Arc<Core>, under_way: &mut JoinSet<()>) -> Result<usize, EffectError> {
    let registration = &core.registered.registration;
    let room = registration.concurrency.saturating_sub(under_way.len());
    let claims = core.claims();
    if claims.is_empty() || room == 0 {
        return Ok(0);
    }
    let rule = core.registered.effect.rule();
    let lasts = registration.call_timeout + registration.grace;
    let expired = store::expire(&core.pool, core.name(), &claims, rule).await?;
    if expired > 0 {
        tracing::warn!(
            effect = core.name(),
            expired,
            ?rule,
            "calls without an outcome"
        );
        core.health.count(|report| report.uncertain += expired);
        crash_point("effect.after-uncertain");
    }
    let mut asked = 0;
    if rule == RuleName::AskByKey {
        let uncertain =
            store::take_uncertain(&core.pool, core.name(), &claims, (room, lasts)).await?;
        asked = uncertain.len();
        for row in uncertain {
            under_way.spawn(ask(core.clone(), row));
        }
    }
    crash_point("effect.before-calling");
    // Before the statement is sent: our deadline must not be later than the row's.
    let until = Instant::now() + registration.call_timeout;
    let taken = store::take(
        &core.pool,
        core.name(),
        &claims,
        (registration.order, room - asked),
        (&core.owner, lasts),
    )
    .await?;
    let began = taken.len() + asked;
    if !taken.is_empty() {
        crash_point("effect.after-calling");
    }
    for row in taken {
        under_way.spawn(call(core.clone(), row, until));
    }
    Ok(began)
}

/// One call, to its recorded end.
async fn call(core: Arc<Core>, row: Row, until: Instant) {
    let registration = &core.registered.registration;
    let record = row.record();
    // The last look at the clock: see the module's invariant.
    if Instant::now() >= until {
        tracing::warn!(effect = core.name(), event = %row.event_id, "too late to call; nothing was sent");
        return;
    }
    let calling = Calling {
        key: row.call_key,
        number: u32::try_from(row.calls).unwrap_or(u32::MAX),
        timeout: registration.call_timeout,
    };
    let calls = core.registered.effect.call(&core.decoder, &record, calling);
    let begun = Instant::now();
    let answer = match tokio::time::timeout_at(until, calls).await {
        Ok(answer) => answer,
        Err(_) => Err(CallError::Unknown(format!(
            "no answer within {} ms",
            registration.call_timeout.as_millis()
        ))),
    };
    telemetry::handlers::called(core.name(), begun.elapsed(), answer.is_ok());
    crash_point("effect.after-call");
    let ending = ending(&core, (&row, &record), answer);
    if !persist(&core, &row, &ending, Told::ByCall).await {
        tracing::warn!(
            effect = core.name(),
            event = %row.event_id,
            "the outcome came after another call was begun or an operator settled it: dropped"
        );
    }
    crash_point("effect.after-outcome");
    core.ended.notify_one();
    core.wake.notify_one();
}

/// Asks the outside about one uncertain call.
async fn ask(core: Arc<Core>, row: Row) {
    let registration = &core.registered.registration;
    let record = row.record();
    let calling = Calling {
        key: row.call_key,
        number: u32::try_from(row.calls).unwrap_or(u32::MAX),
        timeout: registration.call_timeout,
    };
    let asks = core.registered.effect.ask(&core.decoder, &record, calling);
    let answer = match tokio::time::timeout(registration.call_timeout, asks).await {
        Ok(answer) => answer,
        Err(_) => Err(CallError::Outage("no answer about the key".to_owned())),
    };
    crash_point("effect.after-answer");
    let ending = match answer {
        Ok(Answer::Done(command)) => ending(&core, (&row, &record), Ok(command)),
        Ok(Answer::NotDone) => Ending::Failed(super::policy::Next {
            state: "pending",
            class: "unknown",
            reason: "the outside says that nothing was done: called again".to_owned(),
            attempts: u32::try_from(row.attempts).unwrap_or(u32::MAX),
            misses: 0,
            pause: Duration::ZERO,
        }),
        Err(error) => {
            let misses = u32::try_from(row.misses).unwrap_or(0).saturating_add(1);
            let random = super::policy::random();
            Ending::Failed(super::policy::Next {
                state: "uncertain",
                class: "unknown",
                reason: format!("asked about the key: {error}"),
                attempts: u32::try_from(row.attempts).unwrap_or(u32::MAX),
                misses,
                pause: registration.policy.outage.after(misses, random),
            })
        }
    };
    persist(&core, &row, &ending, Told::ByAnswer).await;
    crash_point("effect.after-answer-recorded");
    core.ended.notify_one();
    core.wake.notify_one();
}

fn ending(
    core: &Core,
    (row, record): (&Row, &Record),
    answer: Result<Option<super::OutcomeCommand>, CallError>,
) -> Ending {
    let codec = core.decoder.codec();
    core.events.commit_one(codec, record, answer.is_ok());
    match answer {
        Ok(command) => {
            core.health.count(|report| report.done += 1);
            Ending::Done(command)
        }
        Err(error) => {
            let counts = (
                u32::try_from(row.attempts).unwrap_or(u32::MAX),
                u32::try_from(row.misses).unwrap_or(u32::MAX),
            );
            let policy = &core.registered.registration.policy;
            let next = after_failure(policy, core.registered.effect.rule(), counts, &error);
            tracing::info!(
                effect = core.name(),
                event = %row.event_id,
                call = row.calls,
                class = next.class,
                next = next.state,
                pause_ms = next.pause.as_millis(),
                "a call failed"
            );
            core.health
                .count(|report| *report.failed.entry(next.class).or_default() += 1);
            Ending::Failed(next)
        }
    }
}

/// How an ending became known.
#[derive(Clone, Copy)]
enum Told {
    ByCall,
    ByAnswer,
}

/// Counts a failure beside the partition's position, behind the transaction that recorded it: in one with it, this and a batch
/// that claims rows would wait for each other. A crash in between leaves it uncounted; the row itself says what happened.
async fn count(core: &Core, row: &Row, reason: &str) {
    let counted = EFFECTS.count_error(&core.pool, core.name(), row.place(), reason);
    if let Err(error) = counted.await {
        tracing::warn!(effect = core.name(), %error, "a failure was not counted");
    }
}

/// Writes an ending down, for as long as Postgres is away; at shutdown only once more. What could not be written is in doubt
/// after the deadline. False if the row is no longer ours to write.
async fn persist(core: &Core, row: &Row, ending: &Ending, told: Told) -> bool {
    loop {
        let last = core.shutdown.is_cancelled();
        let written = match told {
            Told::ByCall => {
                store::record(&core.pool, (core.name(), &core.owner), row, ending).await
            }
            Told::ByAnswer => store::record_answer(&core.pool, core.name(), row, ending).await,
        };
        match written {
            Ok(ours) => {
                if let (true, Ending::Failed(next)) = (ours, ending) {
                    count(core, row, &next.reason).await;
                }
                return ours;
            }
            Err(error) => {
                tracing::warn!(effect = core.name(), event = %row.event_id, %error, "outcome not recorded yet");
                core.health.failed(error.to_string());
                if last {
                    return false;
                }
            }
        }
        let _ = tokio::time::timeout(RECORD_PAUSE, core.shutdown.cancelled()).await;
    }
}
