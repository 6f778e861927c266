//! Tells a receiver outside that an order was confirmed.

use chrono::{DateTime, Utc};
use millrace::config::Secret;
use millrace::effect::webhook::{Webhook, WebhookError};
use millrace::effect::{
    BoxFuture, Call, CallError, Effect, OutcomeCommand, Registered, Registration, Rule, Start,
    effect,
};
use millrace::event::Recorded;
use schemas::order::OrderEvent;
use serde::Serialize;
use uuid::Uuid;

/// Settings of the webhook.
#[derive(Debug, Clone, clap::Args)]
pub struct OrderWebhookOptions {
    /// Where confirmed orders are posted to; nothing is posted where it is missing or empty.
    #[arg(long, env = "ORDER_WEBHOOK_URL", hide_env_values = true)]
    pub order_webhook_url: Option<Secret>,
    /// What to do where nobody knows whether a post arrived.
    #[arg(long, env = "ORDER_WEBHOOK_DOUBT", default_value = "leave")]
    pub order_webhook_doubt: Doubt,
}

/// What to do where nobody knows whether a post arrived, because its process died or no answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Doubt {
    /// It stays uncertain until an operator settles it: no order is posted twice.
    Leave,
    /// It is posted again, with the same `Idempotency-Key`: for a receiver that drops repeats.
    Repeat,
}

/// What is posted.
#[derive(Debug, Serialize)]
struct Confirmation<'e> {
    /// Of the event, as in `ce_type`.
    #[serde(rename = "type")]
    kind: &'static str,
    event_id: Uuid,
    order_id: &'e str,
    version: i64,
    confirmed_at: DateTime<Utc>,
    correlation_id: Option<&'e str>,
}

/// Posts every confirmed order once; what else there is to know about it, the receiver asks the view `orders` for.
struct OrderWebhook {
    webhook: Webhook,
    doubt: Doubt,
}

/// The effect `order-webhook`; none without a URL.
pub fn registered(options: &OrderWebhookOptions) -> Result<Option<Registered>, WebhookError> {
    let url = options.order_webhook_url.as_ref().map(Secret::expose);
    let Some(url) = url.filter(|url| !url.is_empty()) else {
        return Ok(None);
    };
    let webhook = Webhook::new(url, &[])?;
    let doubt = options.order_webhook_doubt;
    // Orders that were confirmed before anybody asked to be told are nobody's news.
    let registration = Registration::new(Start::Now);
    Ok(Some(effect(OrderWebhook { webhook, doubt }, registration)))
}

impl Effect for OrderWebhook {
    type Event = OrderEvent;

    fn name(&self) -> &str {
        "order-webhook"
    }

    fn applies(&self, event: &Recorded<OrderEvent>) -> bool {
        matches!(event.event, OrderEvent::OrderConfirmed(_))
    }

    fn rule(&self) -> Rule<'_, OrderEvent> {
        match self.doubt {
            Doubt::Leave => Rule::NeverRepeat,
            Doubt::Repeat => Rule::SafeToRepeat,
        }
    }

    fn call<'a>(
        &'a self,
        call: &'a Call<'a, OrderEvent>,
    ) -> BoxFuture<'a, Result<Option<OutcomeCommand>, CallError>> {
        Box::pin(async move {
            let event = call.event;
            let confirmation = Confirmation {
                kind: "order.confirmed",
                event_id: event.metadata.event_id,
                order_id: &event.aggregate_id,
                version: event.sequence,
                confirmed_at: event.metadata.occurred_at,
                correlation_id: event.metadata.correlation_id.as_deref(),
            };
            self.webhook.post(call, &confirmation).await?;
            Ok(None)
        })
    }
}
