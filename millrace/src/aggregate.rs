//! Aggregates: where business rules live, as two pure functions over an aggregate's own events.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::command::CommandSet;
use crate::event::Event;
use crate::timer::TimerChange;

/// What a decision may know besides the state and the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// Id of the aggregate that the command is addressed to.
    pub aggregate_id: String,
    /// Time of the command. Decisions read no clock, so that a test needs none.
    pub now: DateTime<Utc>,
}

/// A consistency boundary: its state is the fold of its events, and only it decides on new ones.
///
/// `decide` is the only place a business rule lives. Both functions are pure: no clock, no I/O, no
/// randomness, so a decision can be made again on newer state after a conflict.
pub trait Aggregate: Snapshot + Send + Sync + 'static {
    /// The commands that it takes, declared by [`commands!`](crate::commands).
    type Command: CommandSet;
    /// The events that it brings about, declared by [`events!`](crate::events).
    type Event: Event;
    /// Why the domain says no; its text is the reason that the caller reads.
    type Rejection: std::error::Error + Send + Sync + 'static;

    /// Raise it with every change of the state's fields: snapshots of another shape are discarded.
    const SHAPE: i32;

    /// Says what happens, or why nothing may. No events is an accepted no-op.
    fn decide(
        &self,
        command: Self::Command,
        context: &Context,
    ) -> Result<Vec<Self::Event>, Self::Rejection>;

    /// Applies an event. Cannot fail: the event already happened.
    fn evolve(&mut self, event: &Self::Event);

    /// Says which timers an event sets or cancels; none by default. As pure as the others.
    ///
    /// A timer that comes due sends its command to this aggregate, where [`decide`](Self::decide) may reject it: what
    /// happened in the same moment settles it. The command's type needs no deadline of its own in the state.
    fn timers(event: &Self::Event) -> Vec<TimerChange<Self::Command>> {
        let _ = event;
        Vec::new()
    }
}

/// State that can be kept in the cache, stored as a snapshot and shown at a moment; never by hand.
pub trait Snapshot: Default + Clone + Serialize + DeserializeOwned {}

impl<T: Default + Clone + Serialize + DeserializeOwned> Snapshot for T {}

/// The state after these events.
pub fn fold<'e, A: Aggregate>(events: impl IntoIterator<Item = &'e A::Event>) -> A {
    let mut state = A::default();
    for event in events {
        state.evolve(event);
    }
    state
}
