//! Given these events, when this command comes, then these events happen, or a rejection.

use chrono::{DateTime, Utc};

use crate::aggregate::{Aggregate, Context, fold};

/// An aggregate with a history.
pub struct Given<A> {
    state: A,
    context: Context,
}

/// What the command led to; end it with one of the `then`s.
#[must_use = "without a `then` nothing is checked"]
pub struct Outcome<A: Aggregate> {
    result: Result<Vec<A::Event>, A::Rejection>,
}

/// An aggregate `"1"` with this history, at the start of 2026.
pub fn given<A: Aggregate>(events: impl IntoIterator<Item = A::Event>) -> Given<A> {
    let events: Vec<A::Event> = events.into_iter().collect();
    Given {
        state: fold(&events),
        context: Context {
            aggregate_id: "1".to_owned(),
            now: DateTime::<Utc>::from_timestamp(1_767_225_600, 0)
                .expect("2026-01-01T00:00:00Z is a time"),
        },
    }
}

impl<A: Aggregate> Given<A> {
    /// Another aggregate id.
    #[must_use]
    pub fn id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.context.aggregate_id);
        self
    }

    /// Another time of the command.
    #[must_use]
    pub fn at(mut self, now: DateTime<Utc>) -> Self {
        self.context.now = now;
        self
    }

    /// Decides the command.
    pub fn when(self, command: impl Into<A::Command>) -> Outcome<A> {
        Outcome {
            result: self.state.decide(command.into(), &self.context),
        }
    }
}

impl<A: Aggregate> Outcome<A>
where
    A::Event: PartialEq + std::fmt::Debug,
{
    /// Exactly these events happen, in this order.
    #[track_caller]
    pub fn then(self, expected: impl IntoIterator<Item = A::Event>) {
        let expected: Vec<A::Event> = expected.into_iter().collect();
        match self.result {
            Ok(events) => assert_eq!(events, expected),
            Err(rejection) => panic!("rejected ({rejection}), expected {expected:?}"),
        }
    }

    /// The command is accepted and changes nothing.
    #[track_caller]
    pub fn then_nothing(self) {
        self.then([]);
    }

    /// The command is rejected for this reason.
    #[track_caller]
    pub fn then_rejected(self, expected: A::Rejection) {
        match self.result {
            Err(rejection) => assert_eq!(rejection.to_string(), expected.to_string()),
            Ok(events) => panic!("accepted as {events:?}, expected a rejection ({expected})"),
        }
    }
}
