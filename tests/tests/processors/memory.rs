//! The suite's view of the log in memory.

use std::time::Duration;

use anyhow::{Result, ensure};
use millrace::processor::{Block, Letter, Topology};
use millrace::projection::HeaderBlock;
use millrace::registry::SchemaSet;
use millrace::testing::topology::TopologyLog;
use tests::hall::{HallCommand, HallEvent, VenuePublished};
use uuid::Uuid;

use super::conformance::{Emitted, Log};
use super::published::Heard;

pub(super) struct Memory {
    log: TopologyLog,
    emitted: Vec<Emitted>,
    heard: Vec<Heard>,
}

impl Log for Memory {
    async fn open(topology: Topology) -> Result<Self> {
        let sets = [
            SchemaSet::of::<HallEvent>(),
            SchemaSet::of_commands::<HallCommand>(),
            SchemaSet::of_published::<VenuePublished>(),
        ];
        let log = TopologyLog::new(&topology, &sets)
            .partitions(1)
            .attempts_max(4);
        Ok(Self {
            log,
            emitted: Vec::new(),
            heard: Vec::new(),
        })
    }

    fn pipe(&mut self, hall: &str, event: HallEvent) -> Result<Uuid> {
        Ok(self.log.pipe::<HallEvent>(hall, event))
    }

    fn pipe_foreign(&mut self, key: &str, payload: &[u8]) -> Result<()> {
        let headers = HeaderBlock::default();
        self.log
            .pipe_record("hall.events", key, Some(payload.to_vec()), headers);
        Ok(())
    }

    async fn settled(&mut self, offset: i64) -> Result<()> {
        // More than all pauses of all tries.
        self.log.advance(Duration::from_millis(500));
        self.log.advance(Duration::from_secs(5));
        for _ in 0..10 {
            self.log.advance(Duration::from_secs(1));
        }
        let committed = self.log.committed("mirror", 0);
        ensure!(
            committed
                .as_ref()
                .is_some_and(|(next, metadata)| *next == offset && metadata.starts_with("v1;")),
            "{committed:?}"
        );
        Ok(())
    }

    fn commands(&mut self) -> Result<Vec<Emitted>> {
        for one in self.log.drain::<HallCommand>() {
            self.emitted.push(Emitted::from_parts(
                one.id,
                one.aggregate_id,
                one.command,
                &one.record,
            ));
        }
        Ok(self.emitted.clone())
    }

    fn published(&mut self) -> Result<Vec<Heard>> {
        for one in self.log.published::<VenuePublished>() {
            self.heard.push(Heard::from_parts(one.event, &one.record)?);
        }
        Ok(self.heard.clone())
    }

    fn letters(&mut self) -> Result<Vec<Letter>> {
        Ok(self.log.dead_letters("mirror"))
    }

    fn blocks(&mut self) -> Result<Vec<Block>> {
        Ok(self.log.blocks("mirror"))
    }

    async fn redrive(&mut self, key: &str, skip: Option<i64>) -> Result<()> {
        self.log.redrive("mirror", key, skip);
        Ok(())
    }

    async fn restart(&mut self) -> Result<()> {
        self.log.restart();
        Ok(())
    }

    async fn reset(&mut self, offset: i64) -> Result<()> {
        self.log.reset("mirror", 0, offset);
        Ok(())
    }
}

/// Commits that fail are in the kit alone: a broker cannot be told when to lose an answer.
#[test]
fn a_transaction_whose_answer_is_lost_happens_once_whatever_became_of_it() {
    for committed in [false, true] {
        let topology = Topology::new().processor(super::seats::Mirror(std::sync::Arc::default()));
        let sets = [
            SchemaSet::of::<HallEvent>(),
            SchemaSet::of_commands::<HallCommand>(),
        ];
        let mut log = TopologyLog::new(&topology, &sets);
        log.pipe::<HallEvent>("a", super::conformance::reserved("ada"));
        assert_eq!(log.drain::<HallCommand>().len(), 1);
        log.fail_next(committed);
        // The first of them is a block whose letter may not exist.
        log.pipe::<HallEvent>("a", super::conformance::reserved("devil"));
        log.pipe::<HallEvent>("a", super::conformance::reserved("bob"));
        log.pipe::<HallEvent>("b", super::conformance::reserved("eve"));
        assert_eq!(log.drain::<HallCommand>().len(), 1);
        assert_eq!(log.dead_letters("mirror").len(), 2);
        assert_eq!(log.blocks("mirror").len(), 1);
    }
}
