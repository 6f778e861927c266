//! Dead letters of effects, for `millrace dlq`: the calls that were given up.

use std::process::ExitCode;

use anyhow::bail;
use millrace::config::ViewsConfig;
use millrace::effect::ops::{self, CallStatus, Filter};
use serde_json::{Value, json};

use crate::views;

/// The effects that ever ran.
pub(crate) async fn known(config: &ViewsConfig) -> anyhow::Result<Vec<String>> {
    let pool = views::connect(config).await?;
    let status = ops::status(&pool).await?;
    Ok(status.into_iter().map(|one| one.effect).collect())
}

/// What was given up, of one effect or of all; the oldest first, at most 1,000.
pub(crate) async fn all(
    config: &ViewsConfig,
    effect: Option<&str>,
) -> anyhow::Result<Vec<CallStatus>> {
    read(config, effect, None).await
}

async fn read(
    config: &ViewsConfig,
    effect: Option<&str>,
    key: Option<&str>,
) -> anyhow::Result<Vec<CallStatus>> {
    let pool = views::connect(config).await?;
    if ops::status(&pool).await?.is_empty() {
        return Ok(Vec::new());
    }
    let filter = Filter {
        effect: effect.map(str::to_owned),
        state: Some("dead".to_owned()),
        event_id: None,
        aggregate_id: key.map(str::to_owned),
    };
    Ok(ops::calls(&pool, &filter).await?)
}

async fn of_key(
    config: &ViewsConfig,
    (effect, key): (&str, &str),
) -> anyhow::Result<Vec<CallStatus>> {
    let calls = read(config, Some(effect), Some(key)).await?;
    if calls.is_empty() {
        bail!("{effect} has no dead letter with the key {key}");
    }
    Ok(calls)
}

/// A row of the list.
pub(crate) fn row(call: &CallStatus) -> Vec<String> {
    vec![
        call.effect.clone(),
        call.aggregate_id.clone(),
        format!("{}/{}", call.topic, call.partition),
        call.offset.to_string(),
        "open".to_owned(),
        call.class.clone().unwrap_or_default(),
        call.attempts.to_string(),
        call.claimed_at.format("%Y-%m-%d %H:%M:%SZ").to_string(),
        call.reason.clone().unwrap_or_default(),
    ]
}

/// In the shape of a processor's letter.
pub(crate) fn summary(call: &CallStatus) -> Value {
    json!({"effect": call.effect, "key": call.aggregate_id, "topic": call.topic, "partition": call.partition,
           "offset": call.offset, "event_id": call.event_id, "state": "open", "cause": call.class,
           "attempts": call.attempts, "at": call.claimed_at, "reason": call.reason})
}

/// Everything that is known of a key's letters.
pub(crate) async fn show(
    config: &ViewsConfig,
    of: (&str, &str),
    json: bool,
) -> anyhow::Result<ExitCode> {
    for call in of_key(config, of).await? {
        let value = serde_json::to_value(&call)?;
        if json {
            crate::output::line(&value.to_string())?;
            continue;
        }
        crate::output::line(&format!(
            "{}/{} offset {}, event {}, given up after {} attempts ({}), {} wait behind it: {}",
            call.topic,
            call.partition,
            call.offset,
            call.event_id,
            call.attempts,
            call.class.as_deref().unwrap_or_default(),
            call.waiting,
            call.reason.as_deref().unwrap_or_default()
        ))?;
        for (name, value) in value["headers"].as_object().into_iter().flatten() {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            crate::output::line(&format!("    {name}: {text}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Calls again for each of a key's letters. What becomes of it shows in `millrace effects show`.
pub(crate) async fn redrive(
    config: &ViewsConfig,
    (effect, key): (&str, &str),
    json: bool,
) -> anyhow::Result<ExitCode> {
    let calls = of_key(config, (effect, key)).await?;
    let pool = views::connect(config).await?;
    for call in &calls {
        ops::retry(&pool, effect, call.event_id).await?;
        let line = match json {
            true => json!({"effect": effect, "key": key, "event_id": call.event_id}).to_string(),
            false => format!("{effect} calls again for {key}, event {}", call.event_id),
        };
        crate::output::line(&line)?;
    }
    Ok(ExitCode::SUCCESS)
}
