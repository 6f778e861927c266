//! Waiting for a state, never for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Longest wait; far above what anything takes on a busy machine.
const LONGEST: Duration = Duration::from_secs(40);

/// Returns when the check holds; the error names what it waited for.
pub async fn eventually<F: Future<Output = bool>>(
    what: &str,
    mut check: impl FnMut() -> F,
) -> Result<()> {
    let deadline = Instant::now() + LONGEST;
    while !check().await {
        if Instant::now() > deadline {
            bail!("not within {LONGEST:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
