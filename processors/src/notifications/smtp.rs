//! E-mails through an SMTP server, a connection each.
//!
//! The conversation is led command by command, because what a failure means depends on how far it got:
//!
//! | how far | what happens | means |
//! |---|---|---|
//! | connection, TLS, greeting, EHLO, STARTTLS, AUTH | no answer, 4yz | `Outage`: the server is away, no attempt is counted |
//! | MAIL, RCPT, DATA | no answer | `Outage`: without its end the message is none |
//! | MAIL, RCPT, DATA, the message | 421 | `RetryAfter`: the server is about to close |
//! | MAIL, RCPT, DATA, the message | other 4yz | `Transient`: not now, such as greylisting or a full mailbox |
//! | anywhere | 5yz | `Permanent`: never |
//! | the message | no answer | `Unknown`: it may be on its way |
//! | the message | 250 | it is the server's |
//!
//! A reason is the code and the enhanced status, as in `550 5.1.1`: the text beside them often repeats the address.

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail as MailFrom, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use lettre::{Address, Message};
use millrace::effect::{Call, CallError};
use schemas::notification::{NotificationRequested, RecipientEvent};
use tokio::time::{Instant, timeout, timeout_at};

use super::settings::{NotificationSettings, SmtpTls};
use super::templates::Mail;

/// Pause that a server gets which says that it is about to close.
const CLOSING_PAUSE: Duration = Duration::from_secs(15);

/// Longest for the farewell, which nobody waits for.
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);

/// How we sign in, in order of preference.
const MECHANISMS: [Mechanism; 2] = [Mechanism::Plain, Mechanism::Login];

/// An SMTP server.
pub(super) struct Smtp {
    host: String,
    port: u16,
    tls: SmtpTls,
    tls_parameters: TlsParameters,
    credentials: Option<Credentials>,
    from: Mailbox,
    hello: ClientId,
}

impl Smtp {
    /// The server that the settings name.
    pub(super) fn new(settings: &NotificationSettings, from: Mailbox) -> Result<Self, Error> {
        let host = settings.smtp_host.clone().unwrap_or_default();
        let user = settings.smtp_username.as_ref();
        let signing_in = user.zip(settings.smtp_password.as_ref());
        Ok(Self {
            tls_parameters: TlsParameters::new(host.clone())?,
            host,
            port: settings.smtp_port,
            tls: settings.smtp_tls,
            credentials: signing_in.map(|(user, password)| {
                Credentials::new(user.clone(), password.expose().to_owned())
            }),
            // Who we are is said with the sender's domain: this machine's own name is often none that anybody else knows.
            hello: ClientId::Domain(from.email.domain().to_owned()),
            from,
        })
    }

    /// Sends it; returns what the server said when it took it over.
    pub(super) async fn deliver(
        &self,
        call: &Call<'_, RecipientEvent>,
        requested: &NotificationRequested,
        mail: Mail,
    ) -> Result<Option<String>, CallError> {
        let to: Address = requested.to.parse().map_err(|_| {
            CallError::Permanent("the address is none that SMTP can carry".to_owned())
        })?;
        let message = self.message(call, requested, (&to, mail))?;
        // A third of the time is kept for the answer to the message: what is late before it was certainly not sent.
        let until = Instant::now() + call.timeout * 2 / 3;
        let late = |_| CallError::Outage("the SMTP server did not take the message in time".into());
        let prepared = timeout_at(until, self.prepare(to));
        let mut connection = prepared.await.map_err(late)??;
        let answer = connection.message(&message).await;
        let answer = answer.map_err(|error| refused(&error, Stage::Message))?;
        let said = answer.first_line().map(str::to_owned);
        tokio::spawn(async move {
            let _ = timeout(QUIT_TIMEOUT, connection.quit()).await;
        });
        // An address has no business in an event that says that a message was sent.
        Ok(said
            .filter(|said| !said.contains('@'))
            .map(|said| said.chars().take(200).collect()))
    }

    /// Everything up to the message itself.
    async fn prepare(&self, to: Address) -> Result<AsyncSmtpConnection, CallError> {
        let mut connection = self.connect().await?;
        let mail = MailFrom::new(Some(self.from.email.clone()), Vec::new());
        let envelope = |error: Error| refused(&error, Stage::Envelope);
        connection.command(mail).await.map_err(envelope)?;
        let rcpt = Rcpt::new(to, Vec::new());
        connection.command(rcpt).await.map_err(envelope)?;
        connection.command(Data).await.map_err(envelope)?;
        Ok(connection)
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, CallError> {
        let session = |error: Error| refused(&error, Stage::Session);
        let server = (self.host.as_str(), self.port);
        let tls = || self.tls_parameters.clone();
        let implicit = (self.tls == SmtpTls::Implicit).then(tls);
        let connected =
            AsyncSmtpConnection::connect_tokio1(server, None, &self.hello, implicit, None);
        let mut connection = connected.await.map_err(session)?;
        if self.tls == SmtpTls::Starttls {
            let secured = connection.starttls(tls(), &self.hello);
            secured.await.map_err(session)?;
        }
        if let Some(credentials) = &self.credentials {
            let signed_in = connection.auth(&MECHANISMS, credentials);
            signed_in.await.map_err(session)?;
        }
        Ok(connection)
    }

    /// The message in MIME. It has one Message-ID however often it is made, by which a reader and whoever looks into a
    /// server's log recognise it.
    fn message(
        &self,
        call: &Call<'_, RecipientEvent>,
        requested: &NotificationRequested,
        (to, mail): (&Address, Mail),
    ) -> Result<Vec<u8>, CallError> {
        let id = format!(
            "<{}@{}>",
            requested.notification_id,
            self.from.email.domain()
        );
        let name = requested.name.clone().filter(|name| !name.is_empty());
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(name, to.clone()))
            .subject(mail.subject)
            .message_id(Some(id))
            .date(SystemTime::from(call.event.metadata.occurred_at))
            .multipart(MultiPart::alternative_plain_html(mail.text, mail.html))
            .map(|message| message.formatted())
            .map_err(|error| CallError::Permanent(format!("the message cannot be made: {error}")))
    }
}

/// How far the conversation got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing was said about a message.
    Session,
    /// Sender and recipient were, or that the message comes.
    Envelope,
    /// The message was on its way.
    Message,
}

/// What a failure means; see the table above.
fn refused(error: &Error, stage: Stage) -> CallError {
    let Some(code) = error.status() else {
        // Its own text names hosts and causes, no address.
        return match stage {
            Stage::Session => CallError::Outage(format!("no SMTP session: {error}")),
            Stage::Envelope => {
                CallError::Outage("the connection broke before the message was sent".to_owned())
            }
            Stage::Message => CallError::Unknown(
                "the connection broke before the message was answered".to_owned(),
            ),
        };
    };
    let reason = format!(
        "the SMTP server answered {}",
        status_text(code.to_string(), error)
    );
    if error.is_permanent() {
        return CallError::Permanent(reason);
    }
    match stage {
        Stage::Session => CallError::Outage(reason),
        Stage::Envelope | Stage::Message if code.to_string() == "421" => CallError::RetryAfter {
            after: CLOSING_PAUSE,
            reason,
        },
        Stage::Envelope | Stage::Message => CallError::Transient(reason),
    }
}

/// The code, and the enhanced status (RFC 3463) where the text begins with one.
fn status_text(code: String, error: &Error) -> String {
    let text = error.source().map(ToString::to_string).unwrap_or_default();
    let first = text.split_whitespace().next().unwrap_or_default();
    let numbers: Vec<&str> = first.split('.').collect();
    let is_number = |part: &&str| {
        (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    match numbers.len() == 3 && numbers.iter().all(is_number) {
        true => format!("{code} {first}"),
        false => code,
    }
}
