//! Notifications on real servers: what goes out, how often, and what becomes of what does not.

mod apis;
mod crash;
mod mail;
mod replay;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tests::smtp::Smtp;

use crate::operate::world::{LONG, Process, World};

/// Calls that may be refused for now before a message is given up.
const ATTEMPTS_MAX: i64 = 3;

/// Settings by which failures are over within seconds.
const QUICK: [(&str, &str); 5] = [
    ("NOTIFICATION_ATTEMPTS_MAX", "3"),
    ("NOTIFICATION_PAUSE_MIN_MS", "50"),
    ("NOTIFICATION_PAUSE_MAX_MS", "200"),
    ("NOTIFICATION_TIMEOUT_MS", "15000"),
    ("EMAIL_FROM", "Shop <shop@example.org>"),
];

/// A system that runs, and whoever delivers for it.
struct Office {
    world: World,
    smtp: Smtp,
    http: reqwest::Client,
}

/// A row of the view.
#[derive(Debug, Clone, sqlx::FromRow)]
struct Row {
    notification_id: String,
    state: String,
    attempts: i64,
    masked_to: Option<String>,
    provider_id: Option<String>,
    last_error: Option<String>,
}

impl Office {
    async fn open() -> Result<Self> {
        Ok(Self {
            world: World::start()?,
            smtp: Smtp::start().await?,
            http: reqwest::Client::new(),
        })
    }

    /// All roles, with e-mails through the mail server and more settings.
    async fn up(&self, more: &[(&str, &str)]) -> Result<Process> {
        let mut up = self.spawn(more)?;
        up.ready().await?;
        Ok(up)
    }

    /// The same, without waiting until they are ready.
    fn spawn(&self, more: &[(&str, &str)]) -> Result<Process> {
        let port = self.smtp.port().to_string();
        let smtp = [
            ("EMAIL_ADAPTER", "smtp"),
            ("SMTP_HOST", "127.0.0.1"),
            ("SMTP_PORT", &port),
            ("SMTP_TLS", "off"),
        ];
        let settings = [&QUICK[..], &smtp, more].concat();
        self.world.up_with(&settings)
    }

    async fn command(&self, to: &str, kind: &str, data: Value) -> Result<()> {
        let url = format!("{}/commands/{to}", self.world.url);
        let body = json!({"type": kind, "data": data});
        let answer = self.http.post(&url).json(&body).send().await?;
        let status = answer.status();
        ensure!(
            status == 201,
            "{kind} to {to}: {status} {}",
            answer.text().await?
        );
        Ok(())
    }

    /// Tells a new recipient welcome, by e-mail.
    async fn welcome(&self, recipient: &str) -> Result<()> {
        let contact = json!({"name": recipient, "email": address(recipient)});
        self.contact_and_welcome(recipient, contact).await
    }

    async fn contact_and_welcome(&self, recipient: &str, contact: Value) -> Result<()> {
        let to = format!("recipient/{recipient}");
        self.command(&to, "SetContact", contact).await?;
        let request = json!({"kind": "welcome", "source_event_id": "e", "params": {}});
        self.command(&to, "RequestNotification", request).await
    }

    /// The rows of a recipient, by kind and channel.
    async fn rows(&self, recipient: &str) -> Result<Vec<Row>> {
        let mut views = PgConnection::connect(self.world.servers.views_database_url()).await?;
        Ok(sqlx::query_as(
            "SELECT notification_id, state, attempts, masked_to, provider_id, last_error
             FROM views.notifications WHERE recipient_id = $1 ORDER BY kind, channel",
        )
        .bind(recipient)
        .fetch_all(&mut views)
        .await?)
    }

    /// Waits until a recipient's only notification stands there.
    async fn until(&self, recipient: &str, state: &str) -> Result<Row> {
        let begun = Instant::now();
        loop {
            let rows = self.rows(recipient).await;
            let rows = rows.as_deref().unwrap_or_default();
            if let [row] = rows
                && row.state == state
            {
                return Ok(row.clone());
            }
            ensure!(
                begun.elapsed() < LONG,
                "{recipient}: {rows:?}, not {state}\n{}",
                self.world.logs()
            );
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// The event that asked to welcome a recipient, as an effect's row names it.
    async fn asked_by(&self, recipient: &str) -> Result<String> {
        let sql = format!(
            "SELECT event_id::text FROM millrace.events
             WHERE aggregate_id = '{recipient}' AND event_type = 'NotificationRequested'
             ORDER BY sequence LIMIT 1"
        );
        self.world
            .journal(&sql)
            .await
            .context("nothing was asked for")
    }
}

fn address(recipient: &str) -> String {
    format!("{recipient}@example.net")
}
