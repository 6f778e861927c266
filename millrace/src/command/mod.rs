//! Commands: what an aggregate takes, the envelope that one arrives in, and the handler that decides it.
//!
//! Every command ends in exactly one of: accepted (its events are durable), refused with a reason, or failed
//! with word that its outcome is not known and how to find it out: send it again under the same id.

mod decision;
mod envelope;
mod handler;
pub mod inbox;
mod node;
mod round;
mod set;
mod writer;

pub use envelope::{Accepted, CommandData, CommandError, CommandId, Envelope, EventRef};
pub use handler::{CommandHandler, Pending, WriteConfig};
pub use node::{AggregateType, Commands, HistoryEntry, HistoryPage, Moment, Node, StateAt};
pub use set::{Command, CommandDataError, CommandSet, read_data, write_data};
