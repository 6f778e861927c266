//! E-mails through SendGrid's API, version 3: one POST, answered 202 when SendGrid has taken the message over.

use lettre::message::Mailbox;
use millrace::effect::webhook::{Webhook, WebhookError};
use millrace::effect::{Call, CallError};
use schemas::notification::{NotificationRequested, RecipientEvent};
use serde_json::json;

use super::templates::Mail;

/// An account at SendGrid.
pub(super) struct Sendgrid {
    webhook: Webhook,
    from: Mailbox,
}

impl Sendgrid {
    pub(super) fn new(url: &str, key: &str, from: Mailbox) -> Result<Self, WebhookError> {
        let url = format!("{}/v3/mail/send", url.trim_end_matches('/'));
        let bearer = format!("Bearer {key}");
        let webhook = Webhook::new(&url, &[("Authorization", &bearer)])?;
        Ok(Self { webhook, from })
    }

    /// Sends it; returns SendGrid's id of it.
    pub(super) async fn deliver(
        &self,
        call: &Call<'_, RecipientEvent>,
        requested: &NotificationRequested,
        mail: &Mail,
    ) -> Result<Option<String>, CallError> {
        let mut from = json!({"email": self.from.email.to_string()});
        if let Some(name) = &self.from.name {
            from["name"] = name.as_str().into();
        }
        let body = json!({
            "personalizations": [{
                "to": [{"email": requested.to}],
                // Comes back with every event that SendGrid reports about the message.
                "custom_args": {"notification_id": requested.notification_id},
            }],
            "from": from,
            "subject": mail.subject,
            "content": [
                {"type": "text/plain", "value": mail.text},
                {"type": "text/html", "value": mail.html},
            ],
        });
        let delivered = self.webhook.post(call, &body).await?;
        Ok(delivered.header("x-message-id").map(str::to_owned))
    }
}
