//! Filling the shadow, on a thread of its own: read up to the live checkpoints, apply, until a swap succeeds.

use std::future::Future;
use std::mem;
use std::panic;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::lease::Lease;
use crate::position::JournalPosition;
use crate::projection::sink::database::{self, STEP_TIMEOUT};
use crate::projection::{Decoder, Projector, Record, is_outage};
use crate::rebuild::lease::Tenure;
use crate::rebuild::plan::{self, Plan};
use crate::rebuild::reader::{self, Key, Offsets, Reader};
use crate::rebuild::{RebuildConfig, RebuildError, connect, fail_point, swap};

/// Offsets that may be missing when a swap is tried: what it reads while it holds the live sink up.
const SWAP_WITHIN: i64 = 1_000;
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Everything that the thread needs.
pub(super) struct Job {
    pub(super) config: RebuildConfig,
    pub(super) projector: Arc<dyn Projector>,
    pub(super) decoder: Decoder,
    pub(super) runtime: Handle,
    pub(super) lease: Arc<Lease>,
    pub(super) tenure: Tenure,
    pub(super) plan: Plan,
    pub(super) stop: CancellationToken,
}

impl Job {
    /// A step on the database: it ends when it takes too long, or when the build is told to stop. Its transaction
    /// is rolled back with the connection then.
    fn wait<T, E>(
        &self,
        limit: Duration,
        step: impl Future<Output = Result<T, E>>,
    ) -> Result<T, RebuildError>
    where
        RebuildError: From<E>,
    {
        self.runtime.block_on(async {
            tokio::select! {
                done = database::bounded_by(limit, async { Ok(step.await?) }) => done,
                () = self.stop.cancelled() => Err(RebuildError::Stopped("on request")),
            }
        })
    }
}

/// Builds to the end.
pub(super) fn run(mut job: Job) -> Result<(), RebuildError> {
    job.plan.build.parked_max = job.config.parked_max;
    let runtime = job.runtime.clone();
    let mut conn = job.wait(STEP_TIMEOUT, connect(&job.config))?;
    let mut backoff = BACKOFF_MIN;
    loop {
        // Opened anew after a swap that was rolled back: what it had read is not in the shadow.
        let next = job.wait(STEP_TIMEOUT, shadow(&mut conn, &job.plan))?;
        reader::whole(&job.config.kafka, &job.plan.build.view, &next)?;
        let reader = Reader::open(&job.config.kafka, &next)?;
        let mut fill = Fill {
            job: &job,
            next,
            reader,
            read_ahead: Vec::new(),
        };
        fill.catch_up(&mut conn)?;
        fail_point("rebuild.before-swap")?;
        match job.wait(swap::LIMIT, swap::swap(&mut fill, &mut conn)) {
            Ok(swap::Outcome::Swapped) => return Ok(()),
            Ok(swap::Outcome::NotYet(why)) => {
                tracing::debug!(view = job.plan.build.view, why, "swap put off");
            }
            Err(RebuildError::Database(error)) if is_outage(&error) => {
                tracing::info!(view = job.plan.build.view, %error, "swap put off");
                conn = job.wait(STEP_TIMEOUT, connect(&job.config))?;
            }
            Err(error) => return Err(error),
        }
        runtime.block_on(async {
            let _ = tokio::time::timeout(backoff, job.stop.cancelled()).await;
        });
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// The shadow and how far it is.
pub(super) struct Fill<'j> {
    pub(super) job: &'j Job,
    /// The shadow's checkpoints, as committed.
    pub(super) next: Offsets,
    reader: Reader,
    /// Read while the batch before was written; none of it is in the shadow.
    read_ahead: Vec<Record>,
}

impl Fill<'_> {
    /// Returns when few enough offsets are missing for a swap.
    fn catch_up(&mut self, conn: &mut PgConnection) -> Result<(), RebuildError> {
        loop {
            if self.job.stop.is_cancelled() {
                return Err(RebuildError::Stopped("on request"));
            }
            if !self.job.lease.is_held() {
                return Err(self.job.fenced("the lease was lost"));
            }
            let job = self.job;
            let live = job.wait(STEP_TIMEOUT, self.live(conn))?;
            let batch = self.read(&live)?;
            if batch.has_moved() {
                self.write(conn, &batch, &live)?;
                fail_point("rebuild.after-batch")?;
            }
            let missing: i64 = live
                .iter()
                .map(|(key, live)| live - self.next.get(key).copied().unwrap_or_default())
                .filter(|missing| *missing > 0)
                .sum();
            if missing <= SWAP_WITHIN {
                return Ok(());
            }
        }
    }

    /// The live checkpoints of the covered partitions. A whole build takes in those that came into being since.
    async fn live(&mut self, conn: &mut PgConnection) -> Result<Offsets, RebuildError> {
        let plan = &self.job.plan;
        let live = live(conn, &plan.build.view, false).await?;
        let new: Vec<Key> = live
            .keys()
            .filter(|key| !plan.partial && !self.next.contains_key(*key))
            .cloned()
            .collect();
        if !new.is_empty() {
            let kafka = &self.job.config.kafka;
            let mut tx = conn.begin().await?;
            self.job.tenure.hold(&mut tx, plan).await?;
            for key in &new {
                plan::add(&mut tx, (&plan.build.view, plan.build.number), key).await?;
            }
            tx.commit().await?;
            self.next = shadow(conn, plan).await?;
            reader::whole(kafka, &plan.build.view, &self.next)?;
            self.reader = Reader::open(kafka, &self.next)?;
            self.read_ahead.clear();
        }
        Ok(live
            .into_iter()
            .filter(|(key, _)| self.next.contains_key(key))
            .collect())
    }

    /// Reads what may be applied below `until`, and moves partitions over offsets that hold no record.
    pub(super) fn read(&mut self, until: &Offsets) -> Result<Batch, RebuildError> {
        let mut records = mem::take(&mut self.read_ahead);
        if records.is_empty() {
            records = self.reader.collect(until, self.job.config.batch_records)?;
        }
        let mut batch = Batch {
            records,
            moves: Vec::new(),
        };
        for (key, until) in until {
            let from = self.next[key];
            let of_key = batch
                .records
                .iter()
                .filter(|record| record.partition == key.1 && *record.topic == *key.0);
            let last = of_key.clone().next_back();
            let mut step = Step {
                key: key.clone(),
                expected: from,
                next: last.map_or(from, |record| record.offset + 1),
                position: of_key
                    .filter_map(|record| record.envelope.as_ref().ok())
                    .next_back()
                    .map(|envelope| envelope.metadata.position),
            };
            if step.next < *until {
                let past = self.reader.is_past(key, *until);
                let idle = last.is_none() && batch.records.is_empty();
                if past || idle && reader::is_empty(&self.job.config.kafka, key, from, *until)? {
                    step.next = *until;
                }
            }
            if step.next > from {
                batch.moves.push(step);
            }
        }
        Ok(batch)
    }

    /// Commits a batch. After a full one the next is read meanwhile: Postgres and Kafka's client take about as long.
    fn write(
        &mut self,
        conn: &mut PgConnection,
        batch: &Batch,
        live: &Offsets,
    ) -> Result<(), RebuildError> {
        let (job, reader) = (self.job, &mut self.reader);
        let limit = job.config.batch_records;
        let (written, read) = thread::scope(|scope| {
            let reading =
                (batch.records.len() == limit).then(|| scope.spawn(|| reader.collect(live, limit)));
            let written = job.wait(STEP_TIMEOUT, job.commit(conn, batch));
            let read = reading.map_or_else(
                || Ok(Vec::new()),
                |reading| {
                    reading
                        .join()
                        .unwrap_or_else(|panic| panic::resume_unwind(panic))
                },
            );
            (written, read)
        });
        written?;
        self.moved(batch);
        self.read_ahead = read?;
        Ok(())
    }

    pub(super) fn moved(&mut self, batch: &Batch) {
        for step in &batch.moves {
            self.next.insert(step.key.clone(), step.next);
        }
    }
}

impl Job {
    async fn commit(&self, conn: &mut PgConnection, batch: &Batch) -> Result<(), RebuildError> {
        let mut tx = conn.begin().await?;
        self.tenure.hold(&mut tx, &self.plan).await?;
        self.apply(&mut tx, batch).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Moves the shadow's checkpoints by compare-and-set and writes the rows.
    pub(super) async fn apply(
        &self,
        tx: &mut PgConnection,
        batch: &Batch,
    ) -> Result<(), RebuildError> {
        let build = &self.plan.build;
        for step in &batch.moves {
            let moved = sqlx::query(
                "UPDATE millrace_views.build_checkpoints
                 SET next = $6, generation = coalesce($7, generation), xid = coalesce($8, xid),
                     position = coalesce($9, position)
                 WHERE view = $1 AND build = $2 AND topic = $3 AND partition = $4 AND next = $5",
            )
            .bind(&build.view)
            .bind(build.number)
            .bind(&step.key.0)
            .bind(step.key.1)
            .bind(step.expected)
            .bind(step.next)
            .bind(step.position.map(|position| position.generation))
            .bind(step.position.map(|position| position.xid))
            .bind(step.position.map(|position| position.position))
            .execute(&mut *tx)
            .await?
            .rows_affected();
            if moved != 1 {
                return Err(self.fenced("its checkpoint was moved by another process"));
            }
        }
        if !batch.records.is_empty() {
            let projector = &self.projector;
            projector
                .apply(tx, build, &self.decoder, &batch.records)
                .await?;
        }
        Ok(())
    }

    pub(super) fn fenced(&self, reason: &'static str) -> RebuildError {
        RebuildError::Fenced {
            view: self.plan.build.view.clone(),
            build: self.plan.build.number,
            reason,
        }
    }
}

/// Records and the moves of the shadow's checkpoints that go with them.
pub(super) struct Batch {
    records: Vec<Record>,
    moves: Vec<Step>,
}

impl Batch {
    pub(super) fn has_moved(&self) -> bool {
        !self.moves.is_empty()
    }
}

struct Step {
    key: Key,
    expected: i64,
    next: i64,
    position: Option<JournalPosition>,
}

/// The live checkpoints; locked in partition order, as a claim and a batch of the live sink lock them.
pub(super) async fn live(
    conn: &mut PgConnection,
    view: &str,
    lock: bool,
) -> Result<Offsets, sqlx::Error> {
    let sql = if lock {
        "SELECT topic, partition, next FROM millrace_views.checkpoints
         WHERE view = $1 ORDER BY topic, partition FOR UPDATE"
    } else {
        "SELECT topic, partition, next FROM millrace_views.checkpoints WHERE view = $1"
    };
    offsets(sqlx::query_as(sql).bind(view).fetch_all(conn).await?)
}

async fn shadow(conn: &mut PgConnection, plan: &Plan) -> Result<Offsets, sqlx::Error> {
    let rows = sqlx::query_as(
        "SELECT topic, partition, next FROM millrace_views.build_checkpoints
         WHERE view = $1 AND build = $2",
    )
    .bind(&plan.build.view)
    .bind(plan.build.number)
    .fetch_all(conn)
    .await?;
    offsets(rows)
}

fn offsets(rows: Vec<(String, i32, i64)>) -> Result<Offsets, sqlx::Error> {
    Ok(rows
        .into_iter()
        .map(|(topic, partition, next)| ((topic, partition), next))
        .collect())
}
