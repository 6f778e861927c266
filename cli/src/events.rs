//! `millrace events`: what happened to one aggregate, and its state at any moment.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Client, Url};
use serde_json::{Value, json};

/// Events of one answer.
const PAGE: usize = 500;

/// Show the history of an aggregate and its state, now or at a moment.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Aggregate type, such as order.
    aggregate: String,
    /// Aggregate id.
    id: String,
    /// The moment: a sequence, or a time as in RFC 3339.
    #[arg(long, value_name = "SEQUENCE|TIME")]
    at: Option<String>,
    /// The producer.
    #[arg(long, env = "MILLRACE_URL", default_value = crate::MILLRACE_URL)]
    url: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = Client::builder().timeout(Duration::from_secs(30)).build()?;
    let mut url = url_of(&args, "state")?;
    if let Some(at) = &args.at {
        url.query_pairs_mut().append_pair("at", at);
    }
    let state = get(&client, url).await?;
    // The state's version bounds the history, so that both speak of the same moment.
    let version = state["version"]
        .as_i64()
        .context("the state has no version")?;
    let events = history(&client, &args, version).await?;
    if args.json {
        let shown = json!({"aggregate": args.aggregate, "id": args.id, "version": version,
                           "at": state["at"], "events": events, "state": state["state"]});
        crate::output::line(&shown.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let cell = |event: &Value, name: &str| match &event[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let rows: Vec<Vec<String>> = events
        .iter()
        .map(|event| {
            ["sequence", "time", "type", "data"]
                .map(|name| cell(event, name))
                .to_vec()
        })
        .collect();
    crate::output::table(&["SEQUENCE", "TIME", "TYPE", "DATA"], &rows)?;
    let shown = serde_json::to_string_pretty(&state["state"])?;
    crate::output::line(&format!("\nstate at version {version}:\n{shown}"))?;
    Ok(ExitCode::SUCCESS)
}

async fn history(client: &Client, args: &Args, version: i64) -> anyhow::Result<Vec<Value>> {
    let mut events: Vec<Value> = Vec::new();
    loop {
        let after = events.last().and_then(|event| event["sequence"].as_i64());
        let after = after.unwrap_or(0);
        if after >= version {
            break;
        }
        let mut url = url_of(args, "events")?;
        url.query_pairs_mut()
            .append_pair("after_sequence", &after.to_string())
            .append_pair("limit", &PAGE.to_string());
        let mut page = get(client, url).await?;
        match page["events"].as_array_mut() {
            Some(more) if !more.is_empty() => events.append(more),
            _ => break,
        }
    }
    events.retain(|event| {
        event["sequence"]
            .as_i64()
            .is_some_and(|sequence| sequence <= version)
    });
    Ok(events)
}

fn url_of(args: &Args, what: &str) -> anyhow::Result<Url> {
    let mut url = Url::parse(&args.url).with_context(|| format!("{} (--url)", args.url))?;
    match url.path_segments_mut() {
        Ok(mut path) => path
            .pop_if_empty()
            .extend(["aggregates", &args.aggregate, &args.id, what]),
        Err(()) => bail!("{} (--url) is not an HTTP URL", args.url),
    };
    Ok(url)
}

async fn get(client: &Client, url: Url) -> anyhow::Result<Value> {
    let asked = || format!("no answer from {}", url.origin().ascii_serialization());
    let answer = client.get(url.clone()).send().await.with_context(asked)?;
    let status = answer.status();
    let body: Value = answer.json().await.with_context(asked)?;
    if status.is_success() {
        return Ok(body);
    }
    let detail = body["detail"].as_str().or(body["title"].as_str());
    bail!("{status}: {}", detail.unwrap_or("no reason given"))
}
