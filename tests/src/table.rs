//! An aggregate of the tests' own that has a timer: a table is held for a while, and released unless it is taken.

use std::time::Duration;

use millrace::aggregate::{Aggregate, Context};
use millrace::timer::TimerChange;
use serde::{Deserialize, Serialize};

/// How long a table is held.
pub const HOLD_FOR: Duration = Duration::from_secs(15 * 60);

/// Name of the timer.
const HOLD: &str = "hold";

millrace::events! {
    /// What happens at a table.
    pub enum TableEvent for "table" in "venue" {
        TableHeld [1],
        TableTaken [1],
        TableReleased [1],
    }
}

millrace::commands! {
    /// What can be asked of a table.
    pub enum TableCommand for "table" in "venue" {
        HoldTable [1],
        TakeTable [1],
        ReleaseTable [1],
    }
}

/// Someone is expected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableHeld {}

/// They came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableTaken {}

/// They did not come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableReleased {}

/// Holds the table, or holds it on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldTable {}

/// Takes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakeTable {}

/// Releases it, where it is held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseTable {}

/// Why a table refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Someone sits there.
    #[error("the table is taken")]
    Taken,
    /// Nobody is expected.
    #[error("the table is not held")]
    NotHeld,
}

/// How the table is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    held: bool,
    taken: bool,
}

impl Aggregate for Table {
    type Command = TableCommand;
    type Event = TableEvent;
    type Rejection = Rejection;

    const SHAPE: i32 = 1;

    fn decide(&self, command: TableCommand, _: &Context) -> Result<Vec<TableEvent>, Rejection> {
        match command {
            _ if self.taken => Err(Rejection::Taken),
            TableCommand::HoldTable(_) => Ok(vec![TableHeld {}.into()]),
            TableCommand::TakeTable(_) => Ok(vec![TableTaken {}.into()]),
            TableCommand::ReleaseTable(_) if !self.held => Err(Rejection::NotHeld),
            TableCommand::ReleaseTable(_) => Ok(vec![TableReleased {}.into()]),
        }
    }

    fn evolve(&mut self, event: &TableEvent) {
        self.held = matches!(event, TableEvent::TableHeld(_));
        self.taken = matches!(event, TableEvent::TableTaken(_));
    }

    fn timers(event: &TableEvent) -> Vec<TimerChange<TableCommand>> {
        match event {
            TableEvent::TableHeld(_) => {
                vec![TimerChange::set(HOLD, HOLD_FOR, ReleaseTable {})]
            }
            TableEvent::TableTaken(_) | TableEvent::TableReleased(_) => {
                vec![TimerChange::cancel(HOLD)]
            }
        }
    }
}
