//! The effects' part of `millrace status`.

use millrace::config::{KafkaConfig, ViewsConfig};
use millrace::effect::ops::{self, EffectStatus};
use millrace::projection::ops::members_of_all;
use serde::Serialize;

use crate::views;

/// An effect with the members of its group; none where Kafka is away.
#[derive(Debug, Serialize)]
pub(crate) struct Effect {
    #[serde(flatten)]
    status: EffectStatus,
    members: Option<usize>,
}

/// The effects; empty where Postgres does not answer, which the views' part says.
pub(crate) async fn of(kafka: &KafkaConfig, config: &ViewsConfig) -> Vec<Effect> {
    let Ok(pool) = views::connect(config).await else {
        return Vec::new();
    };
    let looked = tokio::time::timeout(views::AWAY_AFTER, ops::status(&pool)).await;
    let members = members_of_all(kafka.clone()).await.ok();
    let effect = |status: EffectStatus| Effect {
        members: members
            .as_ref()
            .map(|all| all.get(&status.group()).copied().unwrap_or(0)),
        status,
    };
    let found = looked.ok().and_then(Result::ok).unwrap_or_default();
    found.into_iter().map(effect).collect()
}

/// What needs a person, and what is only worth knowing.
pub(crate) fn findings(effect: &Effect) -> (Vec<String>, Vec<String>) {
    let (status, name) = (&effect.status, &effect.status.effect);
    let (mut problems, mut notes) = (Vec::new(), Vec::new());
    for error in &status.errors {
        problems.push(format!("effect {name} stands still: {error}"));
    }
    if status.uncertain > 0 {
        problems.push(format!(
            "effect {name} does not know whether {} calls were carried out: `millrace effects list {name}`",
            status.uncertain
        ));
    }
    if status.dead > 0 {
        problems.push(format!(
            "effect {name} has {} dead letters, {} later events wait behind what is dead or uncertain: `millrace effects list {name}`",
            status.dead, status.blocked
        ));
    }
    if status.paused {
        notes.push(format!(
            "effect {name} is paused; `millrace effects resume {name}` lets it go on"
        ));
    } else if effect.members == Some(0) {
        problems.push(format!(
            "effect {name} has nobody in group {}: start `millrace up` or `millrace processors`",
            status.group()
        ));
    }
    if status.retrying > 0 {
        notes.push(format!(
            "effect {name} tries {} calls again: `millrace effects list {name} --state pending` says why",
            status.retrying
        ));
    }
    (problems, notes)
}

/// The table's heading.
pub(crate) const HEADING: [&str; 8] = [
    "EFFECT",
    "MEMBERS",
    "PENDING",
    "RETRYING",
    "CALLING",
    "UNCERTAIN",
    "DEAD",
    "SETTLED",
];

/// One line of it.
pub(crate) fn row(effect: &Effect) -> Vec<String> {
    let status = &effect.status;
    vec![
        status.effect.clone(),
        effect
            .members
            .map_or_else(|| "?".to_owned(), |members| members.to_string()),
        status.pending.to_string(),
        status.retrying.to_string(),
        status.calling.to_string(),
        status.uncertain.to_string(),
        status.dead.to_string(),
        status.settled.to_string(),
    ]
}
