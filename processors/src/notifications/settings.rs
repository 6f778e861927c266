//! Settings of the notifications: which adapter each channel has, and what that one needs.

use std::time::Duration;

use lettre::message::Mailbox;
use millrace::config::Secret;
use millrace::effect::webhook::WebhookError;
use millrace::effect::{Backoff, Order, Policy, Registration, Start};

/// Settings of the notifications.
#[derive(Debug, Clone, clap::Args)]
pub struct NotificationSettings {
    /// By what e-mails go out.
    #[arg(long, env = "EMAIL_ADAPTER", default_value = "off")]
    pub email_adapter: EmailAdapter,
    /// By what SMS go out.
    #[arg(long, env = "SMS_ADAPTER", default_value = "off")]
    pub sms_adapter: SmsAdapter,
    /// Who e-mails are from, such as `Shop <shop@example.org>`.
    #[arg(long, env = "EMAIL_FROM")]
    pub email_from: Option<String>,
    /// Host of the SMTP server.
    #[arg(long, env = "SMTP_HOST")]
    pub smtp_host: Option<String>,
    /// Port of the SMTP server.
    #[arg(long, env = "SMTP_PORT", default_value_t = 587)]
    pub smtp_port: u16,
    /// How the connection to the SMTP server is secured.
    #[arg(long, env = "SMTP_TLS", default_value = "starttls")]
    pub smtp_tls: SmtpTls,
    /// Who signs in at the SMTP server; nobody does where it is missing.
    #[arg(long, env = "SMTP_USERNAME")]
    pub smtp_username: Option<String>,
    /// Their password.
    #[arg(long, env = "SMTP_PASSWORD", hide_env_values = true)]
    pub smtp_password: Option<Secret>,
    /// Address of SendGrid's API.
    #[arg(long, env = "SENDGRID_URL", default_value = "https://api.sendgrid.com")]
    pub sendgrid_url: String,
    /// Key to SendGrid's API.
    #[arg(long, env = "SENDGRID_API_KEY", hide_env_values = true)]
    pub sendgrid_api_key: Option<Secret>,
    /// Address of Twilio's API.
    #[arg(long, env = "TWILIO_URL", default_value = "https://api.twilio.com")]
    pub twilio_url: String,
    /// Account at Twilio.
    #[arg(long, env = "TWILIO_ACCOUNT_SID")]
    pub twilio_account_sid: Option<String>,
    /// The account's token.
    #[arg(long, env = "TWILIO_AUTH_TOKEN", hide_env_values = true)]
    pub twilio_auth_token: Option<Secret>,
    /// The number that SMS are from.
    #[arg(long, env = "TWILIO_FROM")]
    pub twilio_from: Option<String>,
    /// Longest that sending one message may take; then nobody knows whether it went out.
    #[arg(long, env = "NOTIFICATION_TIMEOUT_MS", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(500..=300_000))]
    pub notification_timeout_ms: u64,
    /// How often a message may be refused for now before it is given up. An outage does not count.
    #[arg(long, env = "NOTIFICATION_ATTEMPTS_MAX", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub notification_attempts_max: u32,
    /// The first pause after a refusal or an outage; each one after it is twice as long.
    #[arg(long, env = "NOTIFICATION_PAUSE_MIN_MS", default_value_t = 1_000)]
    pub notification_pause_min_ms: u64,
    /// The longest pause after a refusal; after an outage it is at most 15 s.
    #[arg(long, env = "NOTIFICATION_PAUSE_MAX_MS", default_value_t = 600_000)]
    pub notification_pause_max_ms: u64,
    /// Most messages of a channel under way in one process.
    #[arg(long, env = "NOTIFICATION_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub notification_concurrency: u16,
}

/// By what e-mails go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum EmailAdapter {
    /// By nothing: what is asked for waits.
    Off,
    /// Into the log, kind and masked address alone: for development.
    Log,
    /// Through an SMTP server.
    Smtp,
    /// Through SendGrid's API.
    Sendgrid,
}

/// By what SMS go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SmsAdapter {
    /// By nothing: what is asked for waits.
    Off,
    /// Into the log, kind and masked number alone: for development.
    Log,
    /// Through Twilio's API.
    Twilio,
}

/// How a connection to the SMTP server is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SmtpTls {
    /// It begins in the clear and must become TLS before anything is said, as on port 587.
    Starttls,
    /// TLS from the start, as on port 465.
    Implicit,
    /// In the clear: for a server on this machine.
    Off,
}

/// Why no notification can go out.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Settings that are missing or do not fit each other, all of them.
    #[error("notifications: {0}")]
    Faults(String),
    /// The address of an API.
    #[error("{setting}: {error}")]
    Url {
        /// Which setting.
        setting: &'static str,
        /// What is wrong with it.
        error: WebhookError,
    },
    /// The TLS of this machine.
    #[error("SMTP_TLS: {0}")]
    Tls(lettre::transport::smtp::Error),
}

/// A setting, as it is named and as it was given.
type Setting<'s> = (&'static str, Option<&'s str>);

impl NotificationSettings {
    /// Whether anything goes out by any channel.
    pub fn are_on(&self) -> bool {
        self.email_adapter != EmailAdapter::Off || self.sms_adapter != SmsAdapter::Off
    }

    /// What is missing or does not fit, each with the name of its setting; empty where all is well.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut need = |chosen: &str, settings: &[Setting<'_>]| {
            let missing = settings
                .iter()
                .filter(|(_, value)| value.is_none_or(str::is_empty));
            faults.extend(
                missing.map(|(name, _)| format!("{name} is not set, and {chosen} needs it")),
            );
        };
        let from = ("EMAIL_FROM", self.email_from.as_deref());
        match self.email_adapter {
            EmailAdapter::Off | EmailAdapter::Log => {}
            EmailAdapter::Smtp => {
                need(
                    "EMAIL_ADAPTER=smtp",
                    &[from, ("SMTP_HOST", self.smtp_host.as_deref())],
                );
            }
            EmailAdapter::Sendgrid => {
                let key = ("SENDGRID_API_KEY", secret_text(&self.sendgrid_api_key));
                need("EMAIL_ADAPTER=sendgrid", &[from, key]);
            }
        }
        if self.sms_adapter == SmsAdapter::Twilio {
            let account = ("TWILIO_ACCOUNT_SID", self.twilio_account_sid.as_deref());
            let token = ("TWILIO_AUTH_TOKEN", secret_text(&self.twilio_auth_token));
            let from = ("TWILIO_FROM", self.twilio_from.as_deref());
            need("SMS_ADAPTER=twilio", &[account, token, from]);
        }
        faults.extend(self.smtp_faults());
        if self.from().is_some_and(|from| from.is_err()) {
            faults.push("EMAIL_FROM is no address, such as Shop <shop@example.org>".to_owned());
        }
        if self.notification_pause_min_ms > self.notification_pause_max_ms {
            faults.push("NOTIFICATION_PAUSE_MIN_MS is above NOTIFICATION_PAUSE_MAX_MS".to_owned());
        }
        faults
    }

    fn smtp_faults(&self) -> Option<String> {
        if self.email_adapter != EmailAdapter::Smtp {
            return None;
        }
        match (&self.smtp_username, &self.smtp_password) {
            (Some(_), None) => {
                Some("SMTP_PASSWORD is not set, and SMTP_USERNAME needs it".to_owned())
            }
            (None, Some(_)) => {
                Some("SMTP_USERNAME is not set, and SMTP_PASSWORD needs it".to_owned())
            }
            (Some(_), Some(_)) if self.smtp_tls == SmtpTls::Off && !self.smtp_is_here() => Some(
                "SMTP_TLS=off would send SMTP_PASSWORD in the clear to another machine".to_owned(),
            ),
            _ => None,
        }
    }

    /// Whether the SMTP server is on this machine.
    fn smtp_is_here(&self) -> bool {
        let host = self.smtp_host.as_deref().unwrap_or_default();
        host == "localhost" || host == "::1" || host.starts_with("127.")
    }

    /// Who e-mails are from, where it is said.
    pub(super) fn from(&self) -> Option<Result<Mailbox, lettre::address::AddressError>> {
        let from = self.email_from.as_deref().filter(|from| !from.is_empty());
        from.map(str::parse)
    }

    /// How both effects are run.
    pub(super) fn registration(&self) -> Registration {
        let pause = Duration::from_millis;
        let first = pause(self.notification_pause_min_ms);
        let usual = Policy::default();
        Registration {
            policy: Policy {
                attempts_max: self.notification_attempts_max,
                transient: Backoff {
                    first,
                    max: pause(self.notification_pause_max_ms),
                },
                outage: Backoff {
                    first: first.min(usual.outage.max),
                    max: usual.outage.max,
                },
            },
            // One message says nothing about another: a dead one holds none back.
            order: Order::Any,
            concurrency: self.notification_concurrency.into(),
            call_timeout: pause(self.notification_timeout_ms),
            // From the log's start: what is asked for before an adapter's first start is sent, unless it is no news any longer.
            ..Registration::new(Start::Earliest)
        }
    }
}

fn secret_text(secret: &Option<Secret>) -> Option<&str> {
    secret.as_ref().map(Secret::expose)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        settings: NotificationSettings,
    }

    fn settings(arguments: &[&str]) -> NotificationSettings {
        let all = std::iter::once("program").chain(arguments.iter().copied());
        Program::parse_from(all).settings
    }

    #[test]
    fn nothing_goes_out_unless_an_adapter_is_chosen() {
        assert!(!settings(&[]).are_on());
        assert!(settings(&["--sms-adapter", "log"]).are_on());
        assert_eq!(settings(&["--email-adapter", "log"]).faults(), [""; 0]);
    }

    #[test]
    fn what_an_adapter_needs_and_has_not_is_named_all_of_it_at_once() {
        assert_eq!(
            settings(&["--email-adapter", "smtp", "--sms-adapter", "twilio"]).faults(),
            [
                "EMAIL_FROM is not set, and EMAIL_ADAPTER=smtp needs it",
                "SMTP_HOST is not set, and EMAIL_ADAPTER=smtp needs it",
                "TWILIO_ACCOUNT_SID is not set, and SMS_ADAPTER=twilio needs it",
                "TWILIO_AUTH_TOKEN is not set, and SMS_ADAPTER=twilio needs it",
                "TWILIO_FROM is not set, and SMS_ADAPTER=twilio needs it",
            ]
        );
        let sendgrid = [
            "--email-adapter",
            "sendgrid",
            "--email-from",
            "me",
            "--sendgrid-api-key",
            "",
        ];
        assert_eq!(
            settings(&sendgrid).faults(),
            [
                "SENDGRID_API_KEY is not set, and EMAIL_ADAPTER=sendgrid needs it",
                "EMAIL_FROM is no address, such as Shop <shop@example.org>",
            ]
        );
    }

    #[test]
    fn a_password_goes_in_the_clear_to_no_other_machine() {
        let smtp = |host: &'static str| {
            let from = ["--email-adapter", "smtp", "--email-from", "a@example.org"];
            let server = ["--smtp-host", host, "--smtp-tls", "off"];
            [&from[..], &server[..]].concat()
        };
        let user = ["--smtp-username", "u"];
        let password = ["--smtp-password", "p"];
        let both = [&user[..], &password[..]].concat();
        let faults = |host, more: &[&'static str]| settings(&[&smtp(host), more].concat()).faults();
        assert_eq!(faults("mail.example.org", &[]), [""; 0]);
        assert_eq!(faults("127.0.0.1", &both), [""; 0]);
        assert_eq!(
            faults("mail.example.org", &both),
            ["SMTP_TLS=off would send SMTP_PASSWORD in the clear to another machine"]
        );
        assert_eq!(
            faults("127.0.0.1", &user),
            ["SMTP_PASSWORD is not set, and SMTP_USERNAME needs it"]
        );
    }

    #[test]
    fn no_secret_is_printed() {
        let secrets = [
            "--smtp-password",
            "hush",
            "--sendgrid-api-key",
            "hush",
            "--twilio-auth-token",
            "hush",
        ];
        let printed = format!("{:?}", settings(&secrets));
        assert!(!printed.contains("hush"), "{printed}");
    }
}
