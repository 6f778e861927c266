//! SMS through Twilio's API: one POST of a form, answered 201 when Twilio has taken the message over.

use millrace::config::Secret;
use millrace::effect::webhook::{Webhook, WebhookError};
use millrace::effect::{Call, CallError};
use schemas::notification::{NotificationRequested, RecipientEvent};
use serde::Deserialize;

/// An account at Twilio.
pub(super) struct Twilio {
    webhook: Webhook,
    from: String,
}

/// What is read of Twilio's answer.
#[derive(Deserialize)]
struct Message {
    sid: String,
}

impl Twilio {
    pub(super) fn new(
        url: &str,
        (account, token): (&str, &Secret),
        from: &str,
    ) -> Result<Self, WebhookError> {
        let url = format!(
            "{}/2010-04-01/Accounts/{account}/Messages.json",
            url.trim_end_matches('/')
        );
        let webhook = Webhook::new(&url, &[])?.with_basic_auth(account, token);
        Ok(Self {
            webhook,
            from: from.to_owned(),
        })
    }

    /// Sends it; returns Twilio's id of it.
    pub(super) async fn deliver(
        &self,
        call: &Call<'_, RecipientEvent>,
        requested: &NotificationRequested,
        text: &str,
    ) -> Result<Option<String>, CallError> {
        let form = [
            ("To", requested.to.as_str()),
            ("From", &self.from),
            ("Body", text),
        ];
        let delivered = self.webhook.post_form(call, &form).await?;
        // The status has said that it was taken over: an answer that cannot be read changes nothing about that.
        let message: Option<Message> = serde_json::from_slice(&delivered.body).ok();
        Ok(message.map(|message| message.sid))
    }
}
