//! Callers that send commands one after another, each on orders of its own.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::figure::percentile;
use crate::orders::STEPS;

/// Sent before anything is counted: connections, plans and caches are then as they stay.
const WARM_UP: Duration = Duration::from_millis(500);

/// What callers came to.
pub(crate) struct Done {
    /// Accepted, those of the warm-up too: what must be found in the journal afterwards.
    pub(crate) total: u64,
    /// Accepted a second, without the warm-up.
    pub(crate) per_s: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Where a caller is: the next order and step.
pub(crate) struct Turn {
    pub(crate) id: String,
    pub(crate) step: usize,
    pub(crate) number: usize,
}

/// Runs `callers` tasks that each send command after command for the warm-up and this time.
///
/// `caller` makes the closure that sends one command and returns once it is acknowledged. `name` must not have been
/// used before on the same journal.
pub(crate) async fn drive<C, S>(
    name: &str,
    callers: usize,
    time: Duration,
    caller: C,
) -> Result<Done>
where
    C: AsyncFn(usize) -> Result<S>,
    S: Send + 'static + Sender,
{
    let mut senders = Vec::with_capacity(callers);
    for number in 0..callers {
        senders.push(caller(number).await?);
    }
    let from = Instant::now() + WARM_UP;
    let until = from + time;
    let tasks: Vec<_> = senders
        .into_iter()
        .enumerate()
        .map(|(caller, sender)| {
            let prefix = format!("{name}-{caller}");
            tokio::spawn(one(sender, prefix, from, until))
        })
        .collect();
    let mut total = 0;
    let mut took_ms = Vec::new();
    for task in tasks {
        let (done, mut took) = task.await??;
        total += done;
        took_ms.append(&mut took);
    }
    took_ms.sort_by(f64::total_cmp);
    Ok(Done {
        total,
        per_s: took_ms.len() as f64 / time.as_secs_f64(),
        p50_ms: percentile(&took_ms, 0.5),
        p99_ms: percentile(&took_ms, 0.99),
    })
}

/// Sends one command and waits until it is acknowledged.
pub(crate) trait Sender {
    fn send(&mut self, turn: &Turn) -> impl Future<Output = Result<()>> + Send;
}

async fn one<S: Sender>(
    mut sender: S,
    prefix: String,
    from: Instant,
    until: Instant,
) -> Result<(u64, Vec<f64>)> {
    let (mut done, mut took_ms) = (0_u64, Vec::new());
    for number in 0.. {
        let mut turn = Turn {
            id: format!("{prefix}-{number}"),
            step: 0,
            number,
        };
        while turn.step < STEPS {
            let sent = Instant::now();
            if sent >= until {
                return Ok((done, took_ms));
            }
            sender.send(&turn).await?;
            done += 1;
            let acknowledged = Instant::now();
            if sent >= from && acknowledged < until {
                took_ms.push((acknowledged - sent).as_secs_f64() * 1000.0);
            }
            turn.step += 1;
        }
    }
    unreachable!("numbers do not end")
}
