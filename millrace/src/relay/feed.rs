//! Reads ahead of the publisher, and paces the polling.
//!
//! While the journal is ahead, the next batch is read as the last is published. Once a batch was not full, nothing
//! is read until it was published: what is appended meanwhile then goes out in one transaction, not in several.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};

use crate::relay::RelayError;
use crate::relay::read::{Batch, Reader};
use crate::relay::status::RelayStatus;

/// Pause while a journal writer holds the gate: it is about to commit.
const HELD_PAUSE: Duration = Duration::from_millis(2);

/// What the reading task needs.
pub(super) struct Feed {
    pub(super) reader: Reader,
    pub(super) batches: mpsc::Sender<Result<Batch, RelayError>>,
    /// Notified after each published batch.
    pub(super) published: Arc<Notify>,
    pub(super) wake: Arc<Notify>,
    pub(super) status: Arc<watch::Sender<RelayStatus>>,
    pub(super) pause_min: Duration,
    pub(super) pause_max: Duration,
}

impl Feed {
    /// Runs until an error was handed over or nobody takes batches any more.
    pub(super) async fn run(mut self) {
        let mut pause = self.pause_min;
        let mut held: Option<(i64, Instant)> = None;
        loop {
            let batch = match self.reader.next().await {
                Ok(batch) => batch,
                Err(error) => {
                    let _ = self.batches.send(Err(error)).await;
                    return;
                }
            };
            held = batch.gate.held_by.as_ref().map(|holder| match held {
                Some((xid, since)) if xid == holder.xid => (xid, since),
                _ => (holder.xid, Instant::now()),
            });
            let since = held.map(|(_, since)| since);
            self.status
                .send_modify(|status| status.saw_gate(&batch.gate, since));
            if batch.events.is_empty() {
                let now = if held.is_some() {
                    pause.min(HELD_PAUSE)
                } else {
                    pause
                };
                tokio::select! {
                    () = self.wake.notified() => pause = self.pause_min,
                    () = tokio::time::sleep(now) => pause = (pause * 2).min(self.pause_max),
                    () = self.batches.closed() => return,
                }
                continue;
            }
            pause = self.pause_min;
            let full = batch.full;
            if self.batches.send(Ok(batch)).await.is_err() {
                return;
            }
            if !full {
                tokio::select! {
                    () = self.published.notified() => {}
                    () = self.batches.closed() => return,
                }
            }
        }
    }
}
