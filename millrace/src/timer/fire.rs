//! Fires what is due, in every producer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fail::fail_point;
use futures::future::join_all;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::rows::{self, Due, Ended};
use super::{Clock, TimerStatus};
use crate::codec::unframe;
use crate::command::{CommandData, CommandError, CommandId, Commands, Envelope, Node};
use crate::journal::Journal;
use crate::registry::Registry;
use crate::telemetry::timers::Observed;

/// Between two looks while nothing is due: how late a timer may fire.
const POLL: Duration = Duration::from_millis(50);
/// Between two looks at how all timers are, for the metrics.
const LOOK: Duration = Duration::from_secs(5);
/// After an error of the journal.
const PAUSE: Duration = Duration::from_millis(500);
/// While the queue of commands is full.
const FULL: Duration = Duration::from_millis(10);
/// Timers that are fired together.
const BATCH_MAX: i64 = 256;
/// Tries to mark a timer whose row an append holds; the claim that runs out does the rest.
const MARK_TRIES_MAX: u32 = 10;

/// Fires the timers of a journal's aggregates. Any number of producers may.
pub struct Timers {
    pool: PgPool,
    nodes: BTreeMap<&'static str, Arc<dyn Node>>,
    registry: Registry,
    clock: Clock,
    observed: Observed,
}

impl Timers {
    /// Timers of these aggregate types, which `commands` was started with; others are left to whoever knows them.
    pub fn new(
        journal: &Journal,
        registry: Registry,
        commands: &Commands,
        aggregates: &[&'static str],
        clock: Clock,
    ) -> Self {
        let node = |name: &&'static str| Some((*name, commands.shared_node(name)?));
        Self {
            pool: journal.pool().clone(),
            nodes: aggregates.iter().filter_map(node).collect(),
            registry,
            clock,
            observed: Observed::new(),
        }
    }

    /// How the timers are.
    pub async fn status(&self) -> Result<TimerStatus, sqlx::Error> {
        rows::status(&self.pool, (self.clock)()).await
    }

    /// Fires until `shutdown`. A journal that is away is waited for.
    pub async fn run(&self, shutdown: CancellationToken) {
        tokio::select! {
            () = self.fire_until(&shutdown) => {}
            () = self.watch() => {}
        }
    }

    /// Tells the metrics how all timers are, beside the firing: counting must not make a timer late.
    async fn watch(&self) {
        loop {
            if let Ok(status) = self.status().await {
                self.observed.status(&status);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn fire_until(&self, shutdown: &CancellationToken) {
        let mut said = false;
        while !shutdown.is_cancelled() {
            let pause = match self.round().await {
                Ok(0) => {
                    said = false;
                    POLL
                }
                Ok(_) => continue,
                Err(error) => {
                    if !said {
                        tracing::warn!(%error, "timers wait for the journal");
                        said = true;
                    }
                    PAUSE
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Fires what is due now, as far as it fits a batch; returns how many timers that were.
    async fn round(&self) -> Result<usize, sqlx::Error> {
        let names: Vec<&str> = self.nodes.keys().copied().collect();
        let due = rows::claim(&self.pool, &names, (self.clock)(), BATCH_MAX).await?;
        if due.is_empty() {
            return Ok(0);
        }
        fail_point!("timer.after-claim");
        let fired = join_all(due.iter().map(|one| self.fire(one))).await;
        for one in &fired {
            self.observed.fired(one.as_ref().map(|ended| ended.state));
        }
        let ended: Vec<Ended> = fired.into_iter().flatten().collect();
        fail_point!("timer.after-command");
        self.mark(ended).await?;
        fail_point!("timer.after-mark");
        Ok(due.len())
    }

    /// Sends one timer's command; none where its end is not known, so that it is fired again.
    async fn fire(&self, due: &Due) -> Option<Ended> {
        let ended = |state, reason| {
            Some(Ended {
                timer_id: due.timer_id,
                state,
                reason,
            })
        };
        match self.send(due).await {
            Ok(()) => ended("fired", None),
            // The moment has passed, as when the timer was cancelled while it fired: a normal end.
            Err(CommandError::Rejected { reason, .. }) => ended("rejected", Some(reason)),
            Err(
                error @ (CommandError::Overloaded(_)
                | CommandError::Unavailable(_)
                | CommandError::InDoubt(_)),
            ) => {
                tracing::warn!(%error, timer = %due.timer_id, "a timer is fired again");
                None
            }
            Err(error) => {
                tracing::error!(
                    %error,
                    aggregate = due.aggregate_type,
                    aggregate_id = due.aggregate_id,
                    timer = due.name,
                    "a timer could not be fired"
                );
                ended("failed", Some(error.to_string()))
            }
        }
    }

    async fn send(&self, due: &Due) -> Result<(), CommandError> {
        self.learn(&due.payload).await?;
        let node = &self.nodes[due.aggregate_type.as_str()];
        let pending = loop {
            match node.submit(self.envelope(due)) {
                Err(CommandError::Overloaded(_)) => tokio::time::sleep(FULL).await,
                submitted => break submitted?,
            }
        };
        let lost = || CommandError::InDoubt("the writer stopped before it answered".to_owned());
        pending.await.map_err(|_| lost())??;
        Ok(())
    }

    /// A timer may have been set by a newer producer.
    async fn learn(&self, payload: &[u8]) -> Result<(), CommandError> {
        let fault = |error: &dyn std::fmt::Display| CommandError::Fault(error.to_string());
        let (schema_id, _) = unframe(payload).map_err(|error| fault(&error))?;
        if self.registry.codec().can_read(schema_id) {
            return Ok(());
        }
        let learnt = self.registry.learn(schema_id).await;
        learnt.map_err(|error| match error.is_transient() {
            true => CommandError::Unavailable(error.to_string()),
            false => fault(&error),
        })
    }

    fn envelope(&self, due: &Due) -> Envelope {
        let header = |name: &str| Some(due.headers.get(name)?.as_str()?.to_owned());
        Envelope {
            aggregate_id: due.aggregate_id.clone(),
            command_type: due.command_type.clone(),
            data: CommandData::Avro(due.payload.clone()),
            id: CommandId::Given(due.command_id.clone()),
            expected_version: None,
            correlation_id: header("correlationid"),
            tenant_id: header("tenantid"),
            traceparent: header("traceparent"),
            now: (self.clock)(),
        }
    }

    async fn mark(&self, mut ended: Vec<Ended>) -> Result<(), sqlx::Error> {
        for _ in 0..MARK_TRIES_MAX {
            if ended.is_empty() {
                break;
            }
            let marked: Vec<Uuid> = rows::mark(&self.pool, &ended).await?;
            ended.retain(|one| !marked.contains(&one.timer_id));
        }
        Ok(())
    }
}
