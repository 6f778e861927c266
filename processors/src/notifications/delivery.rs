//! The effects themselves: which events they act on, and how what became of them goes back.

use std::sync::Arc;

use millrace::effect::{
    BoxFuture, Call, CallError, Effect, OutcomeCommand, Registered, Rule, Setback, effect,
};
use millrace::event::Recorded;
use schemas::notification::*;

use super::log;
use super::sendgrid::Sendgrid;
use super::settings::{EmailAdapter, NotificationSettings, SettingsError, SmsAdapter};
use super::smtp::Smtp;
use super::templates::Templates;
use super::twilio::Twilio;

/// Longest between a request and the first try to send it, in hours: an adapter that is chosen, or comes back, after a long time
/// must not send what nobody waits for any longer.
const UNSENT_HOURS_MAX: i64 = 72;

/// By what messages of one channel go out.
enum Adapter {
    Log,
    Smtp(Smtp),
    Sendgrid(Sendgrid),
    Twilio(Twilio),
}

/// Sends what is asked for by one channel.
struct Delivery {
    channel: Channel,
    adapter: Adapter,
    templates: Arc<Templates>,
}

/// The effects `email` and `sms`, each if it has an adapter.
pub fn registered(settings: &NotificationSettings) -> Result<Vec<Registered>, SettingsError> {
    let faults = settings.faults();
    if !faults.is_empty() {
        return Err(SettingsError::Faults(faults.join("; ")));
    }
    let templates = Arc::new(Templates::default());
    let adapters = [
        (Channel::Email, email_adapter(settings)?),
        (Channel::Sms, sms_adapter(settings)?),
    ];
    let chosen = adapters.into_iter().filter_map(|(channel, adapter)| {
        let delivery = Delivery {
            channel,
            adapter: adapter?,
            templates: templates.clone(),
        };
        Some(effect(delivery, settings.registration()))
    });
    Ok(chosen.collect())
}

fn email_adapter(settings: &NotificationSettings) -> Result<Option<Adapter>, SettingsError> {
    let from = || {
        let from = settings.from().and_then(Result::ok);
        from.expect("an adapter without a sender is a fault")
    };
    Ok(match settings.email_adapter {
        EmailAdapter::Off => None,
        EmailAdapter::Log => Some(Adapter::Log),
        EmailAdapter::Smtp => {
            let smtp = Smtp::new(settings, from()).map_err(SettingsError::Tls)?;
            Some(Adapter::Smtp(smtp))
        }
        EmailAdapter::Sendgrid => {
            let key = settings.sendgrid_api_key.as_ref();
            let key = key.expect("an adapter without its key is a fault");
            let sendgrid = Sendgrid::new(&settings.sendgrid_url, key.expose(), from());
            let wrong = |error| SettingsError::Url {
                setting: "SENDGRID_URL",
                error,
            };
            Some(Adapter::Sendgrid(sendgrid.map_err(wrong)?))
        }
    })
}

fn sms_adapter(settings: &NotificationSettings) -> Result<Option<Adapter>, SettingsError> {
    Ok(match settings.sms_adapter {
        SmsAdapter::Off => None,
        SmsAdapter::Log => Some(Adapter::Log),
        SmsAdapter::Twilio => {
            let text = |setting: &Option<String>| setting.clone().unwrap_or_default();
            let token = settings.twilio_auth_token.as_ref();
            let token = token.expect("an adapter without its token is a fault");
            let account = text(&settings.twilio_account_sid);
            let from = text(&settings.twilio_from);
            let twilio = Twilio::new(&settings.twilio_url, (&account, token), &from);
            let wrong = |error| SettingsError::Url {
                setting: "TWILIO_URL",
                error,
            };
            Some(Adapter::Twilio(twilio.map_err(wrong)?))
        }
    })
}

/// The request that an event is, if it is one.
fn request_of(event: &RecipientEvent) -> Option<&NotificationRequested> {
    match event {
        RecipientEvent::NotificationRequested(requested) => Some(requested),
        RecipientEvent::ContactSet(_)
        | RecipientEvent::NotificationSkipped(_)
        | RecipientEvent::NotificationSent(_)
        | RecipientEvent::NotificationFailed(_)
        | RecipientEvent::NotificationUncertain(_) => None,
    }
}

impl Delivery {
    /// Sends it; returns what whoever took it over calls it.
    async fn deliver(
        &self,
        call: &Call<'_, RecipientEvent>,
        requested: &NotificationRequested,
    ) -> Result<Option<String>, CallError> {
        let unfit = |error: minijinja::Error| CallError::Permanent(format!("template: {error}"));
        match &self.adapter {
            Adapter::Log => log::deliver(requested),
            Adapter::Smtp(smtp) => {
                let mail = self.templates.mail(requested).map_err(unfit)?;
                smtp.deliver(call, requested, mail).await
            }
            Adapter::Sendgrid(sendgrid) => {
                let mail = self.templates.mail(requested).map_err(unfit)?;
                sendgrid.deliver(call, requested, &mail).await
            }
            Adapter::Twilio(twilio) => {
                let text = self.templates.sms(requested).map_err(unfit)?;
                twilio.deliver(call, requested, &text).await
            }
        }
    }

    /// What the recipient hears.
    fn outcome(
        call: &Call<'_, RecipientEvent>,
        outcome: Outcome,
        (provider_id, reason): (Option<String>, Option<String>),
    ) -> Result<Option<OutcomeCommand>, CallError> {
        let Some(requested) = request_of(&call.event.event) else {
            return Ok(None);
        };
        let delivery = RecordDelivery {
            notification_id: requested.notification_id.clone(),
            outcome,
            attempts: call.number.into(),
            provider_id,
            reason,
        };
        call.command(&call.event.aggregate_id, &delivery).map(Some)
    }
}

impl Effect for Delivery {
    type Event = RecipientEvent;

    fn name(&self) -> &str {
        self.channel.as_str()
    }

    fn applies(&self, event: &Recorded<RecipientEvent>) -> bool {
        request_of(&event.event).is_some_and(|requested| requested.channel == self.channel)
    }

    /// No server and no API of the adapters drops a repeat by its key.
    fn rule(&self) -> Rule<'_, RecipientEvent> {
        Rule::NeverRepeat
    }

    fn call<'a>(
        &'a self,
        call: &'a Call<'a, RecipientEvent>,
    ) -> BoxFuture<'a, Result<Option<OutcomeCommand>, CallError>> {
        Box::pin(async move {
            let Some(requested) = request_of(&call.event.event) else {
                return Ok(None);
            };
            let age = chrono::Utc::now() - call.event.metadata.occurred_at;
            if call.number == 1 && age.num_hours() >= UNSENT_HOURS_MAX {
                let reason = format!("asked for more than {UNSENT_HOURS_MAX} hours ago: not sent");
                return Self::outcome(call, Outcome::Failed, (None, Some(reason)));
            }
            let provider_id = self.deliver(call, requested).await?;
            Self::outcome(call, Outcome::Sent, (provider_id, None))
        })
    }

    fn setback(
        &self,
        call: &Call<'_, RecipientEvent>,
        setback: Setback<'_>,
    ) -> Result<Option<OutcomeCommand>, CallError> {
        let (outcome, reason) = match setback {
            Setback::GivenUp { reason } => (Outcome::Failed, reason),
            Setback::InDoubt { reason } => (Outcome::Uncertain, reason),
        };
        Self::outcome(call, outcome, (None, Some(reason.to_owned())))
    }
}
