//! Waiting for a state, never for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Longest wait for anything; far above what it takes on a busy machine, and above a call that hangs and is given up (40 s,
/// decision 0018) twice in a row.
pub const LONGEST: Duration = Duration::from_secs(240);

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
