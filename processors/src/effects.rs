//! Runs the effects of the reference system beside its processors.

use std::time::Duration;

use millrace::effect::{self, EffectError, Effects, EffectsConfig, Registered};
use millrace::http::health::{Component, Health};
use millrace::log::topics::{Kind, Topic};
use millrace::projection::Decoder;
use millrace::startup::wait_for;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::ProcessorsError;
use crate::flows::order_webhook::{self, OrderWebhookOptions};
use crate::flows::payment_gateway::PaymentGatewayOptions;
use crate::notifications::{self, NotificationSettings};

/// Settings of the effects, each with its own.
#[derive(Debug, Clone, clap::Args)]
pub struct EffectSettings {
    /// The webhook of confirmed orders.
    #[command(flatten)]
    pub order_webhook: OrderWebhookOptions,
    /// E-mails and SMS to recipients.
    #[command(flatten)]
    pub notifications: NotificationSettings,
    /// The gateway that charges payments.
    #[command(flatten)]
    pub payments: PaymentGatewayOptions,
}

/// Every effect that its settings ask for; a new one is a line here.
pub fn effects(settings: &EffectSettings) -> Result<Vec<Registered>, ProcessorsError> {
    let mut all = Vec::new();
    all.extend(order_webhook::registered(&settings.order_webhook)?);
    all.extend(notifications::registered(&settings.notifications)?);
    Ok(all)
}

/// The topics that the effects need of their own.
pub(crate) fn topics(effects: &[Registered]) -> impl Iterator<Item = Topic> {
    effects.iter().map(|effect| Topic {
        name: effect::dead_letters_topic(effect.name()),
        kind: Kind::DeadLetters,
    })
}

/// Starts them; waits for a Postgres that is away. `None` at shutdown.
pub(crate) async fn start(
    config: &EffectsConfig,
    effects: Vec<Registered>,
    decoder: &Decoder,
    (health, starting): (&Health, &Component),
    shutdown: &CancellationToken,
) -> Result<Option<Vec<JoinHandle<Result<(), EffectError>>>>, EffectError> {
    let mut watched = Vec::new();
    for effect in effects {
        let component = health.component(&format!("effect {}", effect.name()));
        let started = wait_for(starting, shutdown, || {
            Effects::start(config.clone(), effect.clone(), decoder.clone())
        });
        let Some(running) = started.await? else {
            return Ok(None);
        };
        watched.push(tokio::spawn(watch(running, component, shutdown.clone())));
    }
    Ok(Some(watched))
}

/// Says how an effect is, until shutdown lets its calls end or it dies.
async fn watch(
    mut running: Effects,
    component: Component,
    shutdown: CancellationToken,
) -> Result<(), EffectError> {
    loop {
        let report = running.health();
        if report.healthy {
            component.ready();
        } else {
            component.not_ready(report.errors.join("; "));
        }
        tokio::select! {
            () = shutdown.cancelled() => return running.stop().await,
            // An effect that died ends them all: a process is restarted, a thread is not.
            ended = running.ended() => {
                shutdown.cancel();
                return ended;
            }
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}
