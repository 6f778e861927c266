//! SendGrid and Twilio, as a stand-in answers for them: what is posted, and what each answer leads to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};
use tests::http::Server;

use super::{ATTEMPTS_MAX, Office, address};

/// What a stand-in answers.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Taken,
    Status(u16),
    /// 429, and how many seconds to wait.
    Busy(u64),
    /// Takes it over and breaks the answer off.
    BreaksOff,
}

/// One post: when, the whole `Authorization`, and what was in it.
#[derive(Debug, Clone)]
struct Post {
    at: Instant,
    authorization: String,
    body: Value,
}

#[derive(Default)]
struct Desk {
    /// Answers to come for a recipient, the next one last; then it takes everything over.
    answers: HashMap<String, Vec<Answer>>,
    posts: HashMap<String, Vec<Post>>,
}

type Shared = Arc<Mutex<Desk>>;

/// Both APIs on one port.
struct StandIn {
    server: Server,
    desk: Shared,
}

impl StandIn {
    async fn start() -> Result<Self> {
        let desk = Shared::default();
        let router = Router::new()
            .route("/v3/mail/send", post(sendgrid))
            .route("/2010-04-01/Accounts/{account}/Messages.json", post(twilio))
            .with_state(desk.clone());
        let server = Server::start(router).await?;
        Ok(Self { server, desk })
    }

    fn set(&self, to: &str, answers: &[Answer]) {
        let answers = answers.iter().rev().copied().collect();
        let mut desk = self.desk.lock().unwrap();
        desk.answers.insert(to.to_owned(), answers);
    }

    fn posts(&self, to: &str) -> Vec<Post> {
        let desk = self.desk.lock().unwrap();
        desk.posts.get(to).cloned().unwrap_or_default()
    }
}

fn answer(desk: &Shared, to: &str, post: Post, taken: Response) -> Response {
    // Not locked while it breaks off, which is a panic of the connection's task.
    let answer = {
        let mut desk = desk.lock().unwrap();
        desk.posts.entry(to.to_owned()).or_default().push(post);
        desk.answers.get_mut(to).and_then(Vec::pop)
    };
    match answer.unwrap_or(Answer::Taken) {
        Answer::Taken => taken,
        Answer::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Answer::Busy(seconds) => {
            let pause = [("retry-after", seconds.to_string())];
            (StatusCode::TOO_MANY_REQUESTS, pause).into_response()
        }
        Answer::BreaksOff => panic!("the connection breaks off before the answer"),
    }
}

fn authorization(headers: &HeaderMap) -> String {
    let header = headers.get("authorization").unwrap();
    header.to_str().unwrap().to_owned()
}

async fn sendgrid(State(desk): State<Shared>, headers: HeaderMap, body: String) -> Response {
    let body: Value = serde_json::from_str(&body).unwrap();
    let to = body["personalizations"][0]["to"][0]["email"].as_str();
    let to = to.unwrap().to_owned();
    let post = Post {
        at: Instant::now(),
        authorization: authorization(&headers),
        body,
    };
    let id = [("x-message-id", format!("sg-{to}"))];
    let taken = (StatusCode::ACCEPTED, id).into_response();
    answer(&desk, &to, post, taken)
}

async fn twilio(
    State(desk): State<Shared>,
    Path(account): Path<String>,
    headers: HeaderMap,
    body: String,
) -> Response {
    let form = reqwest::Url::parse(&format!("http://form/?{body}")).unwrap();
    let fields: HashMap<String, String> = form.query_pairs().into_owned().collect();
    let to = fields["To"].clone();
    let post = Post {
        at: Instant::now(),
        authorization: authorization(&headers),
        body: json!({"account": account, "form": fields}),
    };
    let body = Body::from(json!({"sid": format!("SM{to}"), "status": "queued"}).to_string());
    let taken = (StatusCode::CREATED, body).into_response();
    answer(&desk, &to, post, taken)
}

fn phone(number: u32) -> String {
    format!("+4915100000{number:02}")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_of_an_api_leads_to_what_it_means_for_email_and_sms_alike() -> Result<()> {
    let office = Office::open().await?;
    let stand_in = StandIn::start().await?;
    let up = office.up(&apis(&stand_in.server.url())).await?;
    // Name, answers, what becomes of it, calls.
    let cases: [(&str, &[Answer], &str, i64); 7] = [
        ("taken", &[], "sent", 1),
        ("wrong", &[Answer::Status(400)], "failed", 1),
        ("barred", &[Answer::Status(401)], "failed", 1),
        (
            "shaky",
            &[Answer::Status(500), Answer::Status(503)],
            "sent",
            3,
        ),
        ("broken", &[Answer::Status(500); 3], "failed", ATTEMPTS_MAX),
        ("busy", &[Answer::Busy(1); 4], "sent", 5),
        ("torn", &[Answer::BreaksOff], "uncertain", 1),
    ];
    for (number, (name, answers, ..)) in (0..).zip(cases) {
        stand_in.set(&address(name), answers);
        stand_in.set(&phone(number), answers);
        office.welcome(name).await?;
        // Who has no e-mail address is told by SMS.
        let contact = json!({"name": name, "phone": phone(number)});
        let recipient = format!("{name}-by-sms");
        office.contact_and_welcome(&recipient, contact).await?;
    }
    for (number, (name, _, state, calls)) in (0..).zip(cases) {
        let of_mail = (office.until(name, state).await?, address(name));
        let by_sms = office.until(&format!("{name}-by-sms"), state).await?;
        for (row, to) in [of_mail, (by_sms, phone(number))] {
            let posts = stand_in.posts(&to);
            assert_eq!((row.attempts, posts.len() as i64), (calls, calls), "{to}");
            ensure!(row.last_error.is_some() == (state != "sent"), "{row:?}");
            if name == "busy" {
                let gaps = posts.windows(2).map(|pair| pair[1].at - pair[0].at);
                let least = gaps.min().context("one post")?;
                ensure!(least >= Duration::from_secs(1), "{least:?}");
            }
        }
    }
    what_is_posted(&office, &stand_in).await?;
    let printed = up.printed();
    for secret in ["key-hush", "token-hush", "@example.net", "+4915100000"] {
        ensure!(!printed.contains(secret), "{secret} stands in the log");
    }
    up.stop().await
}

/// The settings for both APIs, where a stand-in answers for them.
fn apis(url: &str) -> [(&str, &str); 8] {
    [
        ("EMAIL_ADAPTER", "sendgrid"),
        ("SENDGRID_URL", url),
        ("SENDGRID_API_KEY", "key-hush"),
        ("SMS_ADAPTER", "twilio"),
        ("TWILIO_URL", url),
        ("TWILIO_ACCOUNT_SID", "AC1"),
        ("TWILIO_AUTH_TOKEN", "token-hush"),
        ("TWILIO_FROM", "+15005550006"),
    ]
}

async fn what_is_posted(office: &Office, stand_in: &StandIn) -> Result<()> {
    let row = office.until("taken", "sent").await?;
    assert_eq!(row.provider_id.as_deref(), Some("sg-taken@example.net"));
    let [mail] = &stand_in.posts(&address("taken"))[..] else {
        panic!("not one post");
    };
    assert_eq!(mail.authorization, "Bearer key-hush");
    let body = &mail.body;
    assert_eq!(
        body["from"],
        json!({"email": "shop@example.org", "name": "Shop"})
    );
    assert_eq!(body["subject"], "Welcome, taken");
    let id = &body["personalizations"][0]["custom_args"]["notification_id"];
    assert_eq!(id.as_str(), Some(row.notification_id.as_str()));
    let kinds: Vec<&str> = (0..2)
        .filter_map(|part| body["content"][part]["type"].as_str())
        .collect();
    assert_eq!(kinds, ["text/plain", "text/html"]);

    let row = office.until("taken-by-sms", "sent").await?;
    assert_eq!(row.provider_id, Some(format!("SM{}", phone(0))));
    assert_eq!(row.masked_to.as_deref(), Some("+49***00"));
    let [sms] = &stand_in.posts(&phone(0))[..] else {
        panic!("not one post");
    };
    // AC1:token-hush
    assert_eq!(sms.authorization, "Basic QUMxOnRva2VuLWh1c2g=");
    let text = "Welcome, taken. Your account is ready.";
    let form = json!({"To": phone(0), "From": "+15005550006", "Body": text});
    assert_eq!(sms.body, json!({"account": "AC1", "form": form}));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_is_missing_stops_the_start_with_its_name() -> Result<()> {
    let office = Office::open().await?;
    let missing = [
        ("EMAIL_ADAPTER", "sendgrid", "SENDGRID_API_KEY, EMAIL_FROM"),
        ("EMAIL_ADAPTER", "smtp", "SMTP_HOST, EMAIL_FROM"),
        (
            "SMS_ADAPTER",
            "twilio",
            "TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN, TWILIO_FROM",
        ),
        ("SMS_ADAPTER", "pigeon", "SMS_ADAPTER"),
    ];
    for (setting, value, named) in missing {
        for role in ["up", "processors"] {
            let mut start = office.world.command(&[role]);
            let output = start
                .env(setting, value)
                .env("LISTEN", "127.0.0.1:0")
                .output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(
                !output.status.success(),
                "{role} started with {setting}={value}"
            );
            for name in named.split(", ") {
                ensure!(
                    said.contains(name),
                    "{setting}={value}: {name} is not in\n{said}"
                );
            }
        }
    }
    Ok(())
}
