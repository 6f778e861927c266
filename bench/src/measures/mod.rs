//! The measures, one a file.

mod commands;
mod elsewhere;
mod footprint;
mod http;
mod latency;
mod processor;
mod relay;
mod views;

use std::future::Future;
use std::pin::Pin;

use anyhow::Result;

use crate::figure::Figure;
use crate::world::World;

type Run<'w> = Pin<Box<dyn Future<Output = Result<Vec<Figure>>> + 'w>>;

/// Something that can be measured again and again on the same servers.
pub(crate) struct Measure {
    /// What `--only` selects by; its figures' names begin with it, those of `latency` with what they tell.
    pub(crate) name: &'static str,
    /// What is measured, in a sentence.
    pub(crate) about: &'static str,
    /// One run: ours and the ceiling, after one another.
    pub(crate) run: for<'w> fn(&'w World) -> Run<'w>,
}

const COMMANDS: &str =
    "durable commands/s in process; raw: single-row INSERT commits by as many connections";
const HTTP: &str =
    "durable commands/s over HTTP with the relay at work; raw: single-row INSERT commits";
const LATENCY: &str = "acknowledged -> in Kafka and -> row visible, paced; raw: Kafka's client alone, and with a row's commit";

/// All of them, in the order in which they run.
pub(crate) const ALL: &[Measure] = &[
    Measure {
        name: "commands-1",
        about: COMMANDS,
        run: |world| Box::pin(commands::run(world, 1, false)),
    },
    Measure {
        name: "commands-8",
        about: COMMANDS,
        run: |world| Box::pin(commands::run(world, 8, false)),
    },
    Measure {
        name: "commands-64",
        about: COMMANDS,
        run: |world| Box::pin(commands::run(world, 64, false)),
    },
    Measure {
        name: "commands-keyed-64",
        about: "the same with ids that the callers give, so that every outcome is kept",
        run: |world| Box::pin(commands::run(world, 64, true)),
    },
    Measure {
        name: "commands-512",
        about: COMMANDS,
        run: |world| Box::pin(commands::run(world, 512, false)),
    },
    Measure {
        name: "relay",
        about: "events/s from a filled journal into Kafka; raw: the same records from memory in transactions of the same size",
        run: |world| Box::pin(relay::run(world)),
    },
    Measure {
        name: "processor",
        about: "events/s through the flow from orders to stock; raw: consuming the topic",
        run: |world| Box::pin(processor::run(world)),
    },
    Measure {
        name: "fold",
        about: "events/s through the live sink of the view orders; raw: as many rows inserted by UNNEST",
        run: |world| Box::pin(views::fold_run(world)),
    },
    Measure {
        name: "tally",
        about: "events/s through the live sink of the view customer-totals; raw: as many rows inserted by UNNEST",
        run: |world| Box::pin(views::tally_run(world)),
    },
    Measure {
        name: "rebuild",
        about: "events/s of a rebuild of the view orders, swap included; raw: consuming the topic",
        run: |world| Box::pin(views::rebuild_run(world)),
    },
    Measure {
        name: "http-1",
        about: HTTP,
        run: |world| Box::pin(http::run(world, 1)),
    },
    Measure {
        name: "http-8",
        about: HTTP,
        run: |world| Box::pin(http::run(world, 8)),
    },
    Measure {
        name: "http-64",
        about: HTTP,
        run: |world| Box::pin(http::run(world, 64)),
    },
    Measure {
        name: "http-512",
        about: HTTP,
        run: |world| Box::pin(http::run(world, 512)),
    },
    Measure {
        name: "latency-100",
        about: LATENCY,
        run: |world| Box::pin(latency::run(world, 100)),
    },
    Measure {
        name: "latency-2000",
        about: LATENCY,
        run: |world| Box::pin(latency::run(world, 2_000)),
    },
    Measure {
        name: "memory",
        about: "resident memory of each role after a load of commands by 64 callers",
        run: |world| Box::pin(footprint::memory_run(world)),
    },
    Measure {
        name: "start",
        about: "start of a process to ready, with the servers up",
        run: |world| Box::pin(footprint::start_run(world)),
    },
];
