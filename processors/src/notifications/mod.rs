//! What recipients are told goes out: the effects `email` and `sms` over `recipient.events`.
//!
//! ```text
//! NotificationRequested ─[email | sms]─> SMTP server, SendGrid, Twilio or the log
//!     carried out ───────────────> RecordDelivery sent      ─> NotificationSent
//!     given up, with its letter ─> RecordDelivery failed    ─> NotificationFailed
//!     nobody knows ──────────────> RecordDelivery uncertain ─> NotificationUncertain
//! ```
//!
//! Nobody who delivers mail or SMS drops a repeat by its key, so the rule of both is
//! [`Rule::NeverRepeat`](millrace::effect::Rule::NeverRepeat): what may have gone out is not sent again unless an operator
//! says so. `docs/decisions/0014-notifications.md` says what each answer means.
//!
//! Addresses are logged masked, texts never.

mod delivery;
mod log;
mod sendgrid;
mod settings;
mod smtp;
mod templates;
mod twilio;

pub use delivery::registered;
pub use settings::{EmailAdapter, NotificationSettings, SettingsError, SmsAdapter, SmtpTls};
pub use templates::{Mail, Templates};
