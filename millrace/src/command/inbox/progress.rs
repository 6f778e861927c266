//! Which records have been answered, and so which offsets may be committed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::telemetry::consumers::Position;

/// A record that is under way, under the claim that it was read in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) claim: u64,
    pub(super) bytes: usize,
}

/// A partition that the group assigned to us.
#[derive(Debug, Default)]
struct Held {
    claim: u64,
    /// How often the partition has been claimed by anyone, for the metadata.
    epoch: i64,
    /// Records under way or answered out of turn, by offset: true where answered.
    waiting: VecDeque<(i64, bool)>,
    /// Offset after the last record up to which all are answered.
    next: Option<i64>,
    committed: Option<i64>,
}

/// An offset that may be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) partition: i32,
    pub(super) epoch: i64,
    pub(super) next: i64,
}

#[derive(Debug, Default)]
struct State {
    claims: u64,
    held: BTreeMap<i32, Held>,
    commands: usize,
    bytes: usize,
    failed: Option<String>,
}

/// Shared by the thread that reads, the tasks that answer and the callbacks of both clients.
#[derive(Debug, Default)]
pub(super) struct Progress {
    state: Mutex<State>,
    moved: Condvar,
}

impl Progress {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no thread panics while it holds the progress")
    }

    /// A partition is ours from now on; records that were read under an earlier claim count for nothing.
    pub(super) fn claim(&self, partition: i32, epoch: i64) {
        let mut state = self.state();
        state.claims += 1;
        let claim = state.claims;
        let held = Held {
            claim,
            epoch,
            ..Held::default()
        };
        state.held.insert(partition, held);
    }

    /// A partition is no longer ours.
    pub(super) fn release(&self, partition: i32) {
        self.state().held.remove(&partition);
    }

    /// The number of the present claim, where the partition is ours.
    pub(super) fn claim_of(&self, partition: i32) -> Option<u64> {
        self.state().held.get(&partition).map(|held| held.claim)
    }

    /// Where each partition of the topic stands. Before the first record of a claim nobody here knows where it begins: it has no lag then.
    pub(super) fn positions(&self, topic: &str) -> BTreeMap<(String, i32), Position> {
        let of = |(partition, held): (&i32, &Held)| {
            let waiting = held.waiting.front().map(|(offset, _)| *offset);
            let next = waiting.or(held.next).unwrap_or(i64::MAX);
            let settled = waiting.is_none();
            ((topic.to_owned(), *partition), Position { next, settled })
        };
        self.state().held.iter().map(of).collect()
    }

    /// Counts a record as under way; records of a partition come in the order of their offsets.
    pub(super) fn begin(&self, ticket: Ticket) {
        let mut state = self.state();
        state.commands += 1;
        state.bytes += ticket.bytes;
        if let Some(held) = state.of(ticket) {
            held.waiting.push_back((ticket.offset, false));
        }
    }

    /// The record's answer is acknowledged.
    pub(super) fn done(&self, ticket: Ticket) {
        let mut state = self.state();
        state.commands -= 1;
        state.bytes -= ticket.bytes;
        if let Some(held) = state.of(ticket) {
            if let Ok(at) = held
                .waiting
                .binary_search_by_key(&ticket.offset, |one| one.0)
            {
                held.waiting[at].1 = true;
            }
            while let Some((offset, true)) = held.waiting.front().copied() {
                held.waiting.pop_front();
                held.next = Some(offset + 1);
            }
        }
        drop(state);
        self.moved.notify_all();
    }

    /// Something cannot be answered: the session ends and begins again from what is committed.
    pub(super) fn fail(&self, reason: String) {
        self.state().failed.get_or_insert(reason);
        self.moved.notify_all();
    }

    pub(super) fn failed(&self) -> Option<String> {
        self.state().failed.clone()
    }

    /// True where no more may be under way.
    pub(super) fn is_full(&self, commands_max: usize, bytes_max: usize) -> bool {
        let state = self.state();
        state.commands >= commands_max || state.bytes >= bytes_max
    }

    /// Waits a moment for an answer.
    pub(super) fn wait(&self, at_most: Duration) {
        let state = self.state();
        let _ = self.moved.wait_timeout(state, at_most);
    }

    /// Waits until nothing of these partitions is under way; false if it takes too long or the session failed.
    pub(super) fn settle(&self, partitions: &[i32], at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        let mut state = self.state();
        loop {
            let waits = |partition: &i32| {
                state
                    .held
                    .get(partition)
                    .is_some_and(|held| !held.waiting.is_empty())
            };
            if !partitions.iter().any(waits) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.failed.is_some() {
                return false;
            }
            state = match self.moved.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(_) => return false,
            };
        }
    }

    pub(super) fn partitions(&self) -> Vec<i32> {
        self.state().held.keys().copied().collect()
    }

    /// What may be committed and was not, of these partitions; counts as committed until [`Progress::uncommitted`].
    pub(super) fn due(&self, partitions: &[i32]) -> Vec<Due> {
        let mut state = self.state();
        let mut due = Vec::new();
        for partition in partitions {
            let Some(held) = state.held.get_mut(partition) else {
                continue;
            };
            if let Some(next) = held.next.filter(|next| held.committed != Some(*next)) {
                held.committed = Some(next);
                due.push(Due {
                    partition: *partition,
                    epoch: held.epoch,
                    next,
                });
            }
        }
        due
    }

    /// Everything is due again: nobody hears of an asynchronous commit that was refused.
    pub(super) fn all_uncommitted(&self) {
        for held in self.state().held.values_mut() {
            held.committed = None;
        }
    }

    /// A commit was refused: it is due again.
    pub(super) fn uncommitted(&self, partition: i32) {
        if let Some(held) = self.state().held.get_mut(&partition) {
            held.committed = None;
        }
    }
}

impl State {
    /// The partition as it was claimed when the record was read; none if it has gone, be it back since.
    fn of(&mut self, ticket: Ticket) -> Option<&mut Held> {
        self.held
            .get_mut(&ticket.partition)
            .filter(|held| held.claim == ticket.claim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(progress: &Progress, offset: i64) -> Ticket {
        let ticket = Ticket {
            partition: 3,
            offset,
            claim: progress.claim_of(3).unwrap(),
            bytes: 10,
        };
        progress.begin(ticket);
        ticket
    }

    fn next(progress: &Progress) -> Option<i64> {
        progress.due(&[3]).first().map(|due| due.next)
    }

    #[test]
    fn an_offset_is_due_only_when_every_record_below_it_is_answered() {
        let progress = Progress::default();
        progress.claim(3, 1);
        let [first, second, third] = [5, 6, 9].map(|offset| ticket(&progress, offset));
        progress.done(second);
        progress.done(third);
        assert_eq!(next(&progress), None);
        progress.done(first);
        assert_eq!(next(&progress), Some(10));
        assert_eq!(next(&progress), None);
        progress.uncommitted(3);
        assert_eq!(next(&progress), Some(10));
        assert_eq!(next(&progress), None);
        progress.all_uncommitted();
        assert_eq!(next(&progress), Some(10));
    }

    // The schedule: claim 1 reads 5; the partition goes and comes back at 5; the answer of claim 1 arrives while claim 2
    // still works on 5. Were the offset alone counted, claim 2 would commit 6 before its own reply is out.
    #[test]
    fn an_answer_from_an_earlier_claim_moves_nothing_of_a_later_one() {
        let progress = Progress::default();
        progress.claim(3, 1);
        let old = ticket(&progress, 5);
        progress.release(3);
        progress.claim(3, 2);
        let new = ticket(&progress, 5);
        progress.done(old);
        assert_eq!(next(&progress), None);
        progress.done(new);
        assert_eq!(next(&progress), Some(6));
    }

    #[test]
    fn nothing_is_committed_for_a_partition_that_is_gone() {
        let progress = Progress::default();
        progress.claim(3, 1);
        let ticket = ticket(&progress, 5);
        progress.release(3);
        progress.done(ticket);
        assert_eq!(next(&progress), None);
        assert!(!progress.is_full(1, 1), "what was under way is counted out");
    }

    #[test]
    fn the_bound_holds_in_number_and_in_bytes() {
        let progress = Progress::default();
        progress.claim(3, 1);
        ticket(&progress, 5);
        assert!(progress.is_full(1, 1000));
        assert!(progress.is_full(1000, 10));
        assert!(!progress.is_full(2, 11));
    }
}
