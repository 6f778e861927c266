//! Everything that is derived is read again: where all groups stood, their reset to the start by the stock tool, and what the
//! views show before and after.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millrace::position::JournalPosition;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::operate::world::{LONG, World};

/// What a group has committed, by topic and partition.
pub(crate) type Places = BTreeMap<(String, String, i32), i64>;

/// Rows as text, by view.
pub(crate) type Rows = BTreeMap<String, Vec<String>>;

impl World {
    /// Waits until everything that is in the journal now is in Kafka, and no view and no processor has a record left to read:
    /// a view that a test did not wait for may stand behind the one that it did.
    pub(crate) async fn until_caught_up(&self) -> Result<()> {
        let begun = Instant::now();
        let newest = self.newest_position().await?;
        loop {
            let status = tokio::task::block_in_place(|| self.status())?;
            let published = status["relay"]["position"]
                .as_str()
                .map(str::parse::<JournalPosition>)
                .transpose()?;
            let behind: Vec<&Value> = ["views", "processors"]
                .iter()
                .flat_map(|kind| status[kind].as_array().into_iter().flatten())
                .filter(|one| one["caught_up"] != true)
                .collect();
            // What could not be asked in time is not there.
            let asked = ["views", "processors"]
                .iter()
                .all(|kind| status[kind].as_array().is_some_and(|all| !all.is_empty()));
            if behind.is_empty() && asked && published >= newest {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < LONG,
                "published up to {published:?} of {newest:?}; {behind:#?}\n{}",
                self.logs()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn newest_position(&self) -> Result<Option<JournalPosition>> {
        let newest: Option<String> = self
            .journal(
                "SELECT (SELECT format('%s:%s:%s', generation, xid, position) FROM millrace.events
                         ORDER BY generation DESC, events.xid DESC, events.position DESC LIMIT 1)",
            )
            .await?;
        Ok(newest.as_deref().map(str::parse).transpose()?)
    }

    /// Where every group stands, by the stock tool.
    fn places(&self) -> Result<Places> {
        let told = tests::stock::tool(
            &self.servers,
            "consumer-groups",
            &["--all-groups", "--describe", "--offsets"],
        )?;
        let mut places = Places::new();
        for line in told.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [group, topic, partition, current, ..] = words[..]
                && group.starts_with("millrace.")
                && let Ok(current) = current.parse()
            {
                let partition = partition.parse().with_context(|| line.to_owned())?;
                places.insert((group.to_owned(), topic.to_owned(), partition), current);
            }
        }
        ensure!(
            !places.is_empty(),
            "no group has committed anything:\n{told}"
        );
        Ok(places)
    }

    /// Resets every group to the start of its topics, while nobody runs; where they stood.
    pub(crate) fn reset_all(&self) -> Result<Places> {
        let places = self.places()?;
        let arguments = [
            "--all-groups",
            "--all-topics",
            "--reset-offsets",
            "--to-earliest",
            "--execute",
        ];
        // The tool says that a group is active, leaves it as it is, and exits with 0.
        let printed = tests::stock::tool(&self.servers, "consumer-groups", &arguments)?;
        ensure!(
            !printed.contains("Error:"),
            "not all groups were reset:\n{printed}"
        );
        Ok(places)
    }

    /// Waits until every group stands where it stood before, or further on, and every view is rebuilt.
    pub(crate) async fn until_back(&self, before: &Places) -> Result<()> {
        const OPEN: &str =
            "SELECT (SELECT count(*) FROM millrace_views.resets WHERE done_at IS NULL)
                  + (SELECT count(*) FROM millrace_views.builds WHERE state = 'building')";
        let (mut behind, mut since) = (usize::MAX, Instant::now());
        loop {
            let now = tokio::task::block_in_place(|| self.places())?;
            let left: Vec<_> = before
                .iter()
                .filter(|(place, offset)| now.get(*place) < Some(*offset))
                .collect();
            if left.is_empty() {
                return self.until_number(OPEN, 0).await;
            }
            if left.len() < behind {
                (behind, since) = (left.len(), Instant::now());
            }
            ensure!(since.elapsed() < LONG, "{left:?}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Every view's rows.
    pub(crate) async fn all_rows(&self) -> Result<Rows> {
        let mut views = PgConnection::connect(self.servers.views_database_url()).await?;
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'views'",
        )
        .fetch_all(&mut views)
        .await?;
        ensure!(!names.is_empty(), "there are no views");
        let mut rows = Rows::new();
        for name in names {
            let sql = format!(r#"SELECT of::text FROM views."{name}" AS of ORDER BY 1"#);
            let all = sqlx::query_scalar(AssertSqlSafe(sql))
                .fetch_all(&mut views)
                .await?;
            rows.insert(name, all);
        }
        Ok(rows)
    }
}

/// Every view shows what it showed.
pub(crate) fn same(before: &Rows, after: &Rows) -> Result<()> {
    for (view, rows) in before {
        let now = after.get(view).with_context(|| format!("no view {view}"))?;
        let differ: Vec<_> = rows
            .iter()
            .zip(now)
            .filter(|(one, other)| one != other)
            .take(3)
            .collect();
        ensure!(
            rows.len() == now.len() && differ.is_empty(),
            "{view}: {} rows before, {} after: {differ:#?}",
            rows.len(),
            now.len()
        );
    }
    Ok(())
}
