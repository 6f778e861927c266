//! The measures, one a file.

mod commands;
mod relay;

use std::future::Future;
use std::pin::Pin;

use anyhow::Result;

use crate::figure::Figure;
use crate::world::World;

type Run<'w> = Pin<Box<dyn Future<Output = Result<Vec<Figure>>> + 'w>>;

/// Something that can be measured again and again on the same servers.
pub(crate) struct Measure {
    /// What `--only` selects by; its figures' names begin with it.
    pub(crate) name: &'static str,
    /// What is measured, in a sentence.
    pub(crate) about: &'static str,
    /// One run: ours and the ceiling, after one another.
    pub(crate) run: for<'w> fn(&'w World) -> Run<'w>,
}

/// All of them, in the order in which they run.
pub(crate) const ALL: &[Measure] = &[
    Measure {
        name: "commands",
        about: "durable commands/s in process; raw: single-row INSERT commits by as many connections",
        run: |world| Box::pin(commands::run(world)),
    },
    Measure {
        name: "relay",
        about: "events/s from a filled journal into Kafka; raw: the same records from memory in transactions of the same size",
        run: |world| Box::pin(relay::run(world)),
    },
];
