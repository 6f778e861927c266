//! Has the gateway charge what payments request, and give back what they do not want.
//!
//! The gateway is asked by the call's key where nobody knows whether it did what it was told: after a crash in a call, and where no
//! answer came. A key moves money once, so a call that was believed dead and goes through after all is harmless.
//!
//! A charge that is not made in time (`charge_before`) is given up, and only the gateway can say that it was: the key is voided there
//! first. (Broken by saying so without asking: a request that is still on its way would charge afterwards, and nobody would know.)

use std::time::Duration;

use chrono::Utc;
use millrace::config::ViewsConfig;
use millrace::effect::{
    Answer, AskByKey, BoxFuture, Call, CallError, Effect, OutcomeCommand, Policy, Registered,
    Registration, Rule, Start, effect,
};
use millrace::event::Recorded;
use millrace::startup::StartError;
use reqwest::Url;
use schemas::payment::{
    PaymentEvent, PaymentRefundRequested, PaymentRequested, RecordCharge, RecordChargeFailure,
    RecordRefund,
};
use tokio_util::sync::CancellationToken;

use crate::gateway::client::{GatewayClient, Keyed};
use crate::gateway::faults::Faults;
use crate::gateway::in_house::{self, InHouseError};
use crate::gateway::{Charge, ChargeRequest, ChargeState, Refund, RefundRequest};

/// Where payments are charged.
#[derive(Clone, PartialEq, Eq)]
pub enum GatewayAddress {
    /// Nowhere: the setting is there and empty.
    Nowhere,
    /// At the in-house gateway, which this process starts.
    InHouse,
    /// At this one.
    At(Url),
}

// The URL may hold a token.
impl std::fmt::Debug for GatewayAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nowhere => "nowhere",
            Self::InHouse => "in-house",
            Self::At(_) => "a URL",
        })
    }
}

impl std::str::FromStr for GatewayAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::Nowhere),
            "in-house" => Ok(Self::InHouse),
            url => match Url::parse(url) {
                Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(Self::At(url)),
                _ => Err("must be in-house or an http(s) URL".to_owned()),
            },
        }
    }
}

/// Settings of the gateway.
#[derive(Debug, Clone, clap::Args)]
pub struct PaymentGatewayOptions {
    /// Where payments are charged: a URL, or `in-house` for the gateway that moves no money. Nothing is charged where it is
    /// missing, and orders that are paid at the gateway expire.
    #[arg(long, env = "PAYMENT_GATEWAY_URL", hide_env_values = true)]
    pub payment_gateway_url: Option<GatewayAddress>,
    /// Longest that the gateway may take to answer.
    #[arg(long, env = "PAYMENT_CALL_TIMEOUT_MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=300_000))]
    pub payment_call_timeout_ms: u64,
    /// Of a hundred requests to the in-house gateway, how many go wrong.
    #[arg(long, env = "PAYMENT_GATEWAY_FAULT_PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub payment_gateway_fault_percent: u8,
    /// A producer's URL, to which the in-house gateway gives some answers a second time.
    #[arg(long, env = "PAYMENT_GATEWAY_NOTIFY_URL")]
    pub payment_gateway_notify_url: Option<String>,
}

/// Why payments cannot be charged.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The client.
    #[error("client of the payment gateway: {0}")]
    Client(#[from] reqwest::Error),
    /// The in-house gateway.
    #[error(transparent)]
    InHouse(#[from] InHouseError),
}

impl StartError for GatewayError {
    fn is_transient(&self) -> bool {
        use sqlx::Error::{Io, PoolTimedOut};
        matches!(
            self,
            Self::InHouse(InHouseError::Ledger(Io(_) | PoolTimedOut))
        )
    }
}

struct PaymentGateway {
    gateway: GatewayClient,
}

/// The effect `payment-gateway`; none without a gateway. Starts the in-house one where that is asked for.
pub async fn registered(
    options: &PaymentGatewayOptions,
    views: &ViewsConfig,
    shutdown: &CancellationToken,
) -> Result<Option<Registered>, GatewayError> {
    let url = match &options.payment_gateway_url {
        None | Some(GatewayAddress::Nowhere) => return Ok(None),
        Some(GatewayAddress::At(url)) => url.clone(),
        Some(GatewayAddress::InHouse) => {
            let faults = Faults::random(options.payment_gateway_fault_percent);
            let notify = options.payment_gateway_notify_url.clone();
            let address = in_house::start(views, faults, notify, shutdown.clone()).await?;
            Url::parse(&format!("http://{address}")).expect("a socket's address makes a URL")
        }
    };
    let gateway = GatewayClient::new(url)?;
    // What was requested while no gateway was set is charged when there is one, if it is not too late.
    let registration = Registration {
        call_timeout: Duration::from_millis(options.payment_call_timeout_ms),
        // A charge ends with its time, and a refund is owed however long it takes.
        policy: Policy {
            attempts_max: u32::MAX,
            ..Policy::default()
        },
        ..Registration::new(Start::Earliest)
    };
    Ok(Some(effect(PaymentGateway { gateway }, registration)))
}

impl Effect for PaymentGateway {
    type Event = PaymentEvent;

    fn name(&self) -> &str {
        "payment-gateway"
    }

    fn applies(&self, event: &Recorded<PaymentEvent>) -> bool {
        matches!(
            event.event,
            PaymentEvent::PaymentRequested(_) | PaymentEvent::PaymentRefundRequested(_)
        )
    }

    fn rule(&self) -> Rule<'_, PaymentEvent> {
        Rule::AskByKey(self)
    }

    fn call<'a>(
        &'a self,
        call: &'a Call<'a, PaymentEvent>,
    ) -> BoxFuture<'a, Result<Option<OutcomeCommand>, CallError>> {
        Box::pin(async move {
            match &call.event.event {
                PaymentEvent::PaymentRequested(requested) => {
                    let charge = self.charge(call, requested).await?;
                    charged(call, requested, charge).map(Some)
                }
                PaymentEvent::PaymentRefundRequested(requested) => {
                    let refund = self.refund(call, requested).await?;
                    refunded(call, refund).map(Some)
                }
                _ => Ok(None),
            }
        })
    }
}

impl AskByKey<PaymentEvent> for PaymentGateway {
    fn ask<'a>(
        &'a self,
        call: &'a Call<'a, PaymentEvent>,
    ) -> BoxFuture<'a, Result<Answer, CallError>> {
        Box::pin(async move {
            let outcome = match &call.event.event {
                PaymentEvent::PaymentRequested(requested) => {
                    let found = self.gateway.find_charge(keyed(call)).await?;
                    found.map(|charge| charged(call, requested, charge))
                }
                PaymentEvent::PaymentRefundRequested(_) => {
                    let found = self.gateway.find_refund(keyed(call)).await?;
                    found.map(|refund| refunded(call, refund))
                }
                _ => None,
            };
            match outcome.transpose()? {
                Some(command) => Ok(Answer::Done(Some(command))),
                None => Ok(Answer::NotDone),
            }
        })
    }
}

impl PaymentGateway {
    async fn charge(
        &self,
        call: &Call<'_, PaymentEvent>,
        requested: &PaymentRequested,
    ) -> Result<Charge, CallError> {
        if Utc::now() > requested.charge_before {
            return self.gateway.void(keyed(call)).await;
        }
        let request = ChargeRequest {
            payment_id: call.event.aggregate_id.clone(),
            currency: requested.currency.clone(),
            amount_cents: requested.amount_cents,
        };
        self.gateway.charge(keyed(call), &request).await
    }

    async fn refund(
        &self,
        call: &Call<'_, PaymentEvent>,
        requested: &PaymentRefundRequested,
    ) -> Result<Refund, CallError> {
        let request = RefundRequest {
            payment_id: call.event.aggregate_id.clone(),
            charge_id: requested.charge_id.clone(),
            amount_cents: requested.amount_cents,
        };
        self.gateway.refund(keyed(call), &request).await
    }
}

fn keyed(call: &Call<'_, PaymentEvent>) -> Keyed {
    Keyed {
        key: call.key,
        timeout: call.timeout,
    }
}

fn charged(
    call: &Call<'_, PaymentEvent>,
    requested: &PaymentRequested,
    charge: Charge,
) -> Result<OutcomeCommand, CallError> {
    let failure = |reason: String| {
        let failure = RecordChargeFailure { reason };
        call.command(&call.event.aggregate_id, &failure)
    };
    match charge.state {
        ChargeState::Charged if charge.amount_cents != requested.amount_cents => {
            Err(CallError::Permanent(format!(
                "the gateway charged {} cents, {} were requested",
                charge.amount_cents, requested.amount_cents
            )))
        }
        ChargeState::Charged => {
            let record = RecordCharge {
                charge_id: charge.charge_id,
                amount_cents: charge.amount_cents,
            };
            call.command(&call.event.aggregate_id, &record)
        }
        ChargeState::Declined => failure(charge.reason.unwrap_or_else(|| "declined".to_owned())),
        ChargeState::Void => failure("not charged in time".to_owned()),
    }
}

fn refunded(call: &Call<'_, PaymentEvent>, refund: Refund) -> Result<OutcomeCommand, CallError> {
    let record = RecordRefund {
        refund_id: refund.refund_id,
    };
    call.command(&call.event.aggregate_id, &record)
}
