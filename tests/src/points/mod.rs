//! The example of `docs/guides/new-event-flow-view.md`: points for customers.

pub mod aggregate;
pub mod flow;
pub mod schema;
pub mod view;
