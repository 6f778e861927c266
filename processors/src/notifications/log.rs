//! The log as an adapter, for development: what would go out is rendered, and kind and masked address are logged.

use millrace::effect::CallError;
use schemas::notification::{NotificationRequested, masked};

/// Says in the log that it would have gone out.
pub(super) fn deliver(requested: &NotificationRequested) -> Result<Option<String>, CallError> {
    tracing::info!(
        notification = requested.notification_id,
        kind = %requested.kind,
        channel = %requested.channel,
        to = masked(requested.channel, &requested.to),
        "a message that this adapter only logs"
    );
    Ok(None)
}
