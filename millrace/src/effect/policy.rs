//! What follows a failure: a closed set, and a pure function of the row's counts.

use std::time::Duration;

use uuid::Uuid;

use super::{CallError, RuleName};

/// Pauses that double, each shortened by up to a half at random, so that rows that failed together do not come back
/// together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// The longest.
    pub max: Duration,
}

impl Backoff {
    /// The pause after the nth failure in a row, from 1; `random` decides the jitter.
    pub fn after(&self, failures: u32, random: u64) -> Duration {
        let doubled = self.first.saturating_mul(
            1_u32
                .checked_shl(failures.saturating_sub(1))
                .unwrap_or(u32::MAX),
        );
        let most = doubled.min(self.max);
        let half = most / 2;
        let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        half + Duration::from_micros(random % (spread + 1))
    }
}

/// How often and when a failed call is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Attempts that may fail with [`CallError::Transient`] before the dead letter.
    pub attempts_max: u32,
    /// Pauses after [`CallError::Transient`].
    pub transient: Backoff,
    /// Pauses after [`CallError::Outage`], which last until the outside is back: no attempt is counted.
    pub outage: Backoff,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            attempts_max: 8,
            transient: Backoff {
                first: Duration::from_millis(500),
                max: Duration::from_secs(60),
            },
            outage: Backoff {
                first: Duration::from_millis(500),
                max: Duration::from_secs(15),
            },
        }
    }
}

/// What becomes of a row whose call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Next {
    /// `pending`, `uncertain` or `failed`.
    pub(super) state: &'static str,
    /// Name of the failure's class.
    pub(super) class: &'static str,
    pub(super) reason: String,
    pub(super) attempts: u32,
    pub(super) misses: u32,
    /// Until the row is looked at again.
    pub(super) pause: Duration,
}

/// Decides what follows a failure of a row that has this many attempts and misses behind it.
pub(super) fn after_failure(
    policy: &Policy,
    rule: RuleName,
    (attempts, misses): (u32, u32),
    error: &CallError,
) -> Next {
    let random = random();
    let next = |state, class, (attempts, misses), pause| Next {
        state,
        class,
        reason: error.to_string(),
        attempts,
        misses,
        pause,
    };
    let missed = misses.saturating_add(1);
    match error {
        CallError::Permanent(_) => next("failed", "permanent", (attempts + 1, 0), Duration::ZERO),
        CallError::RetryAfter { after, .. } => {
            next("pending", "retry_after", (attempts, 0), *after)
        }
        CallError::Transient(_) => {
            let failed = attempts + 1;
            if failed >= policy.attempts_max {
                return next("failed", "transient", (failed, 0), Duration::ZERO);
            }
            let pause = policy.transient.after(failed, random);
            next("pending", "transient", (failed, 0), pause)
        }
        CallError::Outage(_) => {
            let pause = policy.outage.after(missed, random);
            next("pending", "outage", (attempts, missed), pause)
        }
        CallError::Unknown(_) => {
            let pause = policy.outage.after(missed, random);
            match rule {
                RuleName::SafeToRepeat => next("pending", "unknown", (attempts, missed), pause),
                // Asked at once: the outside may know by now.
                RuleName::AskByKey => {
                    next("uncertain", "unknown", (attempts, misses), Duration::ZERO)
                }
                RuleName::NeverRepeat => {
                    next("uncertain", "unknown", (attempts, misses), Duration::ZERO)
                }
            }
        }
    }
}

/// Bits for jitter; nothing rests on their quality.
pub(super) fn random() -> u64 {
    // The low 62 bits of a version 7 id are random.
    (Uuid::now_v7().as_u128() & 0x3fff_ffff_ffff_ffff) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(rule: RuleName, counts: (u32, u32), error: CallError) -> Next {
        after_failure(&Policy::default(), rule, counts, &error)
    }

    #[test]
    fn an_outage_counts_no_attempt_however_long_it_lasts() {
        let mut counts = (3, 0);
        for _ in 0..1_000 {
            let next = after(
                RuleName::NeverRepeat,
                counts,
                CallError::Outage("refused".to_owned()),
            );
            assert_eq!((next.state, next.attempts), ("pending", 3));
            assert!(next.pause <= Policy::default().outage.max);
            counts = (next.attempts, next.misses);
        }
        assert_eq!(counts, (3, 1_000));
    }

    #[test]
    fn transient_failures_end_in_a_dead_letter_after_the_last_attempt() {
        let failure = || CallError::Transient("503".to_owned());
        assert_eq!(
            after(RuleName::SafeToRepeat, (6, 0), failure()).state,
            "pending"
        );
        let last = after(RuleName::SafeToRepeat, (7, 0), failure());
        assert_eq!((last.state, last.attempts), ("failed", 8));
    }

    #[test]
    fn no_answer_is_repeated_asked_for_or_left_alone_as_the_rule_says() {
        let lost = || CallError::Unknown("no answer".to_owned());
        assert_eq!(
            after(RuleName::SafeToRepeat, (0, 0), lost()).state,
            "pending"
        );
        assert_eq!(after(RuleName::AskByKey, (0, 0), lost()).state, "uncertain");
        assert_eq!(
            after(RuleName::NeverRepeat, (0, 0), lost()).state,
            "uncertain"
        );
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_keep_at_least_half() {
        let backoff = Backoff {
            first: Duration::from_millis(100),
            max: Duration::from_secs(1),
        };
        assert_eq!(backoff.after(1, 0), Duration::from_millis(50));
        assert_eq!(backoff.after(2, 0), Duration::from_millis(100));
        assert_eq!(backoff.after(40, 0), Duration::from_millis(500));
        for failures in 1..64 {
            assert!(backoff.after(failures, random()) <= backoff.max);
        }
    }
}
