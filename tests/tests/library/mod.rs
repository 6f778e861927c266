//! The library: from HTTP through journal, Kafka and processors to each query, to the followers, and to other contexts.

mod published;
mod replay;
mod story;
mod trouble;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::operate::world::{LONG, Process, World};

/// A system that runs.
struct Library {
    world: World,
    http: reqwest::Client,
}

impl Library {
    fn open() -> Result<Self> {
        Ok(Self {
            world: World::start()?,
            http: reqwest::Client::new(),
        })
    }

    async fn up(&self) -> Result<Process> {
        let mut up = self.world.up_with(&[("EMAIL_ADAPTER", "log")])?;
        up.ready().await?;
        Ok(up)
    }

    /// The status and the body of the answer to a command.
    async fn ask(&self, to: &str, kind: &str, data: Value) -> Result<(u16, Value)> {
        let url = format!("{}/commands/{to}", self.world.url);
        let body = json!({"type": kind, "data": data});
        let answer = self.http.post(&url).json(&body).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// A command that must be accepted.
    async fn command(&self, to: &str, kind: &str, data: Value) -> Result<Value> {
        let (status, body) = self.ask(to, kind, data).await?;
        ensure!(status == 201, "{kind} to {to}: {status} {body}");
        Ok(body)
    }

    async fn add(
        &self,
        card: &str,
        curator: &str,
        title: &str,
        description: &str,
    ) -> Result<Value> {
        let data = json!({"curator_id": curator, "card_type": "article", "title": title,
                          "url": format!("https://a.example/{card}"), "description": description});
        self.command(&format!("card/{card}"), "AddCardToLibrary", data)
            .await
    }

    async fn collect(&self, collection: &str, owner: &str, cards: &[&str]) -> Result<()> {
        let to = format!("collection/{collection}");
        let data = json!({"owner_id": owner, "name": format!("{owner}'s {collection}")});
        self.command(&to, "CreateCollection", data).await?;
        for card in cards {
            self.command(&to, "AddCardToCollection", json!({"card_id": card}))
                .await?;
        }
        Ok(())
    }

    /// Somebody who can be followed, and who can be written to.
    async fn join(&self, user: &str, public: bool, followers: &[&str]) -> Result<()> {
        let to = format!("profile/{user}");
        self.command(
            &to,
            "CreateProfile",
            json!({"name": user, "public": public}),
        )
        .await?;
        for follower in followers {
            self.command(&to, "FollowProfile", json!({"follower_id": follower}))
                .await?;
        }
        self.reachable(user).await
    }

    async fn reachable(&self, user: &str) -> Result<()> {
        let contact = json!({"name": user, "email": format!("{user}@example.org")});
        let to = format!("recipient/{user}");
        self.command(&to, "SetContact", contact).await.map(drop)
    }

    async fn get(&self, path: &str) -> Result<(u16, Value)> {
        let url = format!("{}{path}", self.world.url);
        let answer = self.http.get(&url).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// The column of a list's rows, once they are these.
    async fn until_listed(&self, path: &str, column: &str, wanted: &[&str]) -> Result<Vec<Value>> {
        let begun = Instant::now();
        loop {
            let (_, body) = self.get(path).await?;
            let items = body["items"].as_array().cloned().unwrap_or_default();
            let found: Vec<&str> = items
                .iter()
                .filter_map(|item| item[column].as_str())
                .collect();
            if found == wanted {
                return Ok(items);
            }
            ensure!(
                begun.elapsed() < LONG,
                "{path} gave {body}, not {wanted:?}\n{}",
                self.world.logs()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// One answer, once it shows this.
    async fn until_shown(&self, path: &str, wanted: &Value) -> Result<()> {
        let begun = Instant::now();
        let columns: Vec<&String> = wanted.as_object().context("no object")?.keys().collect();
        loop {
            let (_, body) = self.get(path).await?;
            if columns
                .iter()
                .all(|column| body[*column] == wanted[*column])
            {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < LONG,
                "{path} gave {body}, not {wanted}\n{}",
                self.world.logs()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
