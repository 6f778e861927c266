//! Leadership as a row with an expiry: it outlives neither a stopped process nor a lost host, as a session lock would.
//!
//! The database's clock decides when a lease is free; the holder's own monotonic clock decides how long it may
//! believe in it. Invariant: the holder stops believing no later than the row expires, because its deadline counts
//! from the moment *before* the renewal was sent. The schedule that would break a deadline counted from the answer:
//! the renewal commits at 0 s, its answer is read at 4 s by a process that was stopped, the row expires at 5 s and
//! the process believes until 9 s. Whoever acts outside this database still needs fencing there (the relay has
//! Kafka's transactional id, a view's builder its epoch): a check before an action is not a check during it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::sync::watch;
use uuid::Uuid;

/// Why a lease could not be asked for.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Postgres did not answer or refused.
    #[error("lease {name} in schema {schema}: {source}")]
    Postgres {
        /// Schema of the table.
        schema: &'static str,
        /// Name of the lease.
        name: String,
        /// What Postgres said.
        source: sqlx::Error,
    },
    /// Postgres did not answer in time.
    #[error("lease {name} in schema {schema}: postgres did not answer within {timeout_ms} ms")]
    Timeout {
        /// Schema of the table.
        schema: &'static str,
        /// Name of the lease.
        name: String,
        /// How long it was waited for.
        timeout_ms: u128,
    },
}

/// Which lease, where, and for how long.
#[derive(Debug, Clone)]
pub struct LeaseSpec {
    /// Schema that holds the `leases` table; a literal of the caller's, never input.
    pub schema: &'static str,
    /// Name of the lease.
    pub name: String,
    /// How long it holds without a renewal.
    pub ttl: Duration,
    /// How often it is renewed; well below `ttl`.
    pub renew_every: Duration,
}

/// Who holds a lease that was asked for in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Host and process, as that process wrote them.
    pub info: String,
    /// Raised at every change of holder.
    pub epoch: i64,
}

/// What came of asking.
#[derive(Debug)]
pub enum Attempt {
    /// The lease is ours; it is renewed until it is dropped, released or lost.
    Held(Lease),
    /// Someone else has it.
    Taken(Holder),
}

/// A lease that is held, renewed by a task of its own on a connection of its own.
///
/// Dropping it ends the renewals and leaves the row to expire; [`Lease::release`] frees it at once.
#[derive(Debug)]
pub struct Lease {
    spec: LeaseSpec,
    options: Box<PgConnectOptions>,
    holder: Uuid,
    epoch: i64,
    belief: Arc<Belief>,
    lost: watch::Receiver<bool>,
    renewals: tokio::task::JoinHandle<()>,
}

/// Until when the holder may act, on its own monotonic clock.
#[derive(Debug)]
struct Belief {
    origin: Instant,
    until_micros: AtomicU64,
}

impl Belief {
    fn extend(&self, until: Instant) {
        let micros = until.saturating_duration_since(self.origin).as_micros();
        self.until_micros
            .store(u64::try_from(micros).unwrap_or(u64::MAX), Ordering::Release);
    }

    fn holds(&self) -> bool {
        self.origin.elapsed().as_micros() < u128::from(self.until_micros.load(Ordering::Acquire))
    }
}

/// Asks once for a lease. Must run inside a tokio runtime, which then renews it.
pub async fn try_acquire(
    options: &PgConnectOptions,
    spec: &LeaseSpec,
) -> Result<Attempt, LeaseError> {
    let work = async {
        let mut connection = options.connect().await?;
        let holder = Uuid::now_v7();
        let asked = Instant::now();
        match claim(&mut connection, spec, holder).await? {
            Some(epoch) => Ok((Some((connection, holder, epoch, asked)), None)),
            None => {
                let taken = current(&mut connection, spec).await?;
                let _ = connection.close().await;
                Ok((None, taken))
            }
        }
    };
    let (held, taken) = bounded(spec, work).await?;
    let Some((connection, holder, epoch, asked)) = held else {
        let free = || Holder {
            info: "nobody: it was freed meanwhile".to_owned(),
            epoch: 0,
        };
        return Ok(Attempt::Taken(taken.unwrap_or_else(free)));
    };
    let belief = Arc::new(Belief {
        origin: asked,
        until_micros: AtomicU64::new(0),
    });
    belief.extend(asked + spec.ttl);
    let (lose, lost) = watch::channel(false);
    let renewals = tokio::spawn(renew(Renewal {
        connection: Some(connection),
        options: options.clone(),
        spec: spec.clone(),
        holder,
        epoch,
        belief: Arc::clone(&belief),
        lose,
    }));
    Ok(Attempt::Held(Lease {
        spec: spec.clone(),
        options: Box::new(options.clone()),
        holder,
        epoch,
        belief,
        lost,
        renewals,
    }))
}

impl Lease {
    /// True while the holder may act; false at the latest when the row expires.
    pub fn is_held(&self) -> bool {
        !*self.lost.borrow() && self.belief.holds()
    }

    /// The number of this tenure: higher than that of every earlier holder.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Returns when the lease is lost.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        // A closed channel means that the renewals ended, which is a loss too.
        let _ = lost.wait_for(|lost| *lost).await;
    }

    /// Stops renewing without freeing the row, as a process does that is stopped or killed.
    pub fn abandon(&self) {
        self.renewals.abort();
    }

    /// Frees the lease, so that the next holder need not wait for its expiry.
    pub async fn release(self) -> Result<(), LeaseError> {
        self.renewals.abort();
        let sql = format!(
            "UPDATE {}.leases SET expires_at = clock_timestamp() \
             WHERE name = $1 AND holder = $2 AND epoch = $3",
            self.spec.schema
        );
        let work = async {
            let mut connection = self.options.connect().await?;
            sqlx::query(AssertSqlSafe(sql))
                .bind(&self.spec.name)
                .bind(self.holder)
                .bind(self.epoch)
                .execute(&mut connection)
                .await?;
            connection.close().await
        };
        bounded(&self.spec, work).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewals.abort();
    }
}

struct Renewal {
    connection: Option<PgConnection>,
    options: PgConnectOptions,
    spec: LeaseSpec,
    holder: Uuid,
    epoch: i64,
    belief: Arc<Belief>,
    lose: watch::Sender<bool>,
}

/// Renews until someone else has the row or the belief ran out.
async fn renew(mut renewal: Renewal) {
    loop {
        tokio::time::sleep(renewal.spec.renew_every).await;
        let asked = Instant::now();
        match renewal.once().await {
            Ok(true) => renewal.belief.extend(asked + renewal.spec.ttl),
            Ok(false) => break,
            Err(error) => {
                tracing::warn!(lease = %renewal.spec.name, %error, "lease not renewed");
                renewal.connection = None;
                if !renewal.belief.holds() {
                    break;
                }
            }
        }
    }
    tracing::warn!(lease = %renewal.spec.name, epoch = renewal.epoch, "lease lost");
    renewal.lose.send_replace(true);
}

impl Renewal {
    /// False when the row is another's.
    async fn once(&mut self) -> Result<bool, LeaseError> {
        let sql = format!(
            "UPDATE {}.leases SET expires_at = clock_timestamp() + $4 * interval '1 second' \
             WHERE name = $1 AND holder = $2 AND epoch = $3",
            self.spec.schema
        );
        let mut connection = self.connection.take();
        let work = async {
            let mut open = match connection.take() {
                Some(open) => open,
                None => self.options.connect().await?,
            };
            let done = sqlx::query(AssertSqlSafe(sql))
                .bind(&self.spec.name)
                .bind(self.holder)
                .bind(self.epoch)
                .bind(self.spec.ttl.as_secs_f64())
                .execute(&mut open)
                .await?;
            Ok((open, done.rows_affected() == 1))
        };
        let (open, renewed) = bounded(&self.spec, work).await?;
        self.connection = Some(open);
        Ok(renewed)
    }
}

/// Takes a row that is free, expired or new; the epoch, or nothing if it is another's.
async fn claim(
    connection: &mut PgConnection,
    spec: &LeaseSpec,
    holder: Uuid,
) -> Result<Option<i64>, sqlx::Error> {
    let sql = format!(
        "INSERT INTO {0}.leases AS l (name, holder, holder_info, epoch, expires_at) \
         VALUES ($1, $2, $3, 1, clock_timestamp() + $4 * interval '1 second') \
         ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, \
             holder_info = excluded.holder_info, epoch = l.epoch + 1, \
             expires_at = excluded.expires_at \
         WHERE l.expires_at <= clock_timestamp() RETURNING l.epoch",
        spec.schema
    );
    sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(&spec.name)
        .bind(holder)
        .bind(this_process())
        .bind(spec.ttl.as_secs_f64())
        .fetch_optional(connection)
        .await
}

async fn current(
    connection: &mut PgConnection,
    spec: &LeaseSpec,
) -> Result<Option<Holder>, sqlx::Error> {
    let sql = format!(
        "SELECT holder_info, epoch FROM {}.leases WHERE name = $1",
        spec.schema
    );
    let row: Option<(String, i64)> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(&spec.name)
        .fetch_optional(connection)
        .await?;
    Ok(row.map(|(info, epoch)| Holder { info, epoch }))
}

/// No call may take longer than the lease lives: a Postgres that accepts and never answers is no answer.
async fn bounded<T>(
    spec: &LeaseSpec,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, LeaseError> {
    let timeout = spec.ttl / 2;
    match tokio::time::timeout(timeout, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(LeaseError::Postgres {
            schema: spec.schema,
            name: spec.name.clone(),
            source,
        }),
        Err(_) => Err(LeaseError::Timeout {
            schema: spec.schema,
            name: spec.name.clone(),
            timeout_ms: timeout.as_millis(),
        }),
    }
}

/// Host and process id, for people.
fn this_process() -> String {
    static INFO: Mutex<Option<String>> = Mutex::new(None);
    let mut info = INFO.lock().expect("no thread panics while it holds this");
    info.get_or_insert_with(|| {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map(|name| name.trim().to_owned())
            .unwrap_or_else(|_| "unknown host".to_owned());
        format!("{host}, pid {}", std::process::id())
    })
    .clone()
}
