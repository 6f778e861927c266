//! A processor of the reference system alone: from a filled topic of orders' events to commands for the stock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use millrace::codec::Codec;
use millrace::log::record::Record;
use millrace::log::topics::{self, Kind, Topic};
use millrace::processor::{
    self, Handler, Order, Outgoing, ProcessorConfig, RunError, RunningProcessor,
};
use millrace::projection::{Decoder, Start};
use uuid::Uuid;

use crate::figure::Figure;
use crate::raw;
use crate::world::{World, settings};

const DEADLINE: Duration = Duration::from_secs(120);

/// The same processor under a name that nobody else uses, with topics of its own.
struct Elsewhere {
    processor: Arc<dyn Handler>,
    name: String,
    topic: String,
    commands: String,
}

impl Handler for Elsewhere {
    fn name(&self) -> &str {
        &self.name
    }

    fn topic(&self) -> String {
        self.topic.clone()
    }

    fn start(&self) -> Start {
        self.processor.start()
    }

    fn order(&self) -> Order {
        self.processor.order()
    }

    fn run(&self, codec: &Codec, record: &Record) -> Result<Vec<Outgoing>, RunError> {
        let mut outgoing = self.processor.run(codec, record)?;
        for one in &mut outgoing {
            one.topic.clone_from(&self.commands);
        }
        Ok(outgoing)
    }
}

pub(crate) async fn run(world: &World) -> Result<Vec<Figure>> {
    let filled = world.filled().await?;
    let (kafka, topic) = (world.kafka.clone(), filled.topic.clone());
    let consumed = tokio::task::spawn_blocking(move || raw::consume(&kafka, &topic));
    let (_, ceiling) = consumed.await??;
    let unique = Uuid::now_v7().simple().to_string();
    let topology = processors::topology();
    let of_orders = topology
        .handlers()
        .iter()
        .find(|handler| handler.topic() == "order.events")
        .context("no processor follows the orders")?;
    let handler = Arc::new(Elsewhere {
        processor: of_orders.clone(),
        name: format!("bench-{unique}"),
        topic: filled.topic.clone(),
        commands: format!("bench-{unique}.commands"),
    });
    let mut wanted = processor::topics(&*handler);
    wanted.push(Topic {
        name: handler.commands.clone(),
        kind: Kind::Queue,
    });
    topics::ensure(&world.kafka, &wanted).await?;
    let config = ProcessorConfig {
        kafka: world.kafka.clone(),
        options: settings(),
    };
    let decoder = Decoder::of(world.registry(None).await?);
    let running = RunningProcessor::start(config, handler.clone(), decoder);
    let (asked, events) = (Instant::now(), filled.events as u64);
    let mut first = None;
    let report = loop {
        let report = running.health();
        if report.handled > 0 && first.is_none() {
            first = Some((report.handled, Instant::now(), world.meter(&[])));
        }
        if report.handled >= events {
            break report;
        }
        if asked.elapsed() > DEADLINE || report.dead_letters > 0 {
            bail!("the processor got no further than {report:?}");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    let (already, started, meter) = first.context("the processor handled nothing")?;
    let handled = events - already;
    let rate = handled as f64 / started.elapsed().as_secs_f64();
    let cpu = meter.per_event(handled);
    running.stop().await?;
    let (kafka, topic) = (world.kafka.clone(), handler.commands.clone());
    let (held, _) = tokio::task::spawn_blocking(move || raw::consume(&kafka, &topic)).await??;
    let reserved = filled.orders * crate::orders::LINES;
    ensure!(
        held as u64 == report.emitted && held >= reserved,
        "{} commands emitted, {held} in the topic, {reserved} reservations at least",
        report.emitted
    );
    let figure = Figure::new("processor", "events/s", rate);
    Ok(vec![figure.beside(ceiling).costing(cpu)])
}
