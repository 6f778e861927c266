//! How much happened, and who put together how much.

use chrono::NaiveDate;
use millrace::projection::sql::PgConnection;
use millrace::query::{Listed, Page, Query, QueryError, Shape};
use serde::{Deserialize, Serialize};

/// How often something happened on a day.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema,
)]
pub struct Activity {
    /// In UTC.
    pub day: NaiveDate,
    /// Name of the event's Avro record, such as `CardAddedToLibrary`.
    pub event_type: String,
    /// How many.
    pub events: i64,
}

/// What happened in the library, by day and event type.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListLibraryActivity {
    /// Only on this day or later.
    pub from: Option<NaiveDate>,
    /// Only before this day.
    pub to: Option<NaiveDate>,
    /// Only events of this type.
    #[serde(rename = "type")]
    pub event_type: Option<String>,
}

impl Query for ListLibraryActivity {
    const VIEW: &'static str = "library-activity";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<Activity>;
    const BY_POSITION: bool = true;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let (day, event_type) = page.key::<(NaiveDate, String)>("library-activity")?.unzip();
        let rows: Vec<Activity> = sqlx::query_as(
            "SELECT day, event_type, events FROM views.library_activity
             WHERE ($1 IS NULL OR day >= $1) AND ($2 IS NULL OR day < $2)
               AND ($3 IS NULL OR event_type = $3)
               AND ($4 IS NULL OR (day, event_type) > ($4, $5))
             ORDER BY day, event_type LIMIT $6",
        )
        .bind(self.from)
        .bind(self.to)
        .bind(&self.event_type)
        .bind(day)
        .bind(event_type)
        .bind(page.fetch_limit())
        .fetch_all(db)
        .await?;
        Ok(page.listed("library-activity", rows, |row| {
            (row.day, row.event_type.clone())
        }))
    }
}

/// All that happened on one day.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetLibraryActivity {
    /// The day in UTC, such as `2026-01-31`.
    pub id: NaiveDate,
}

impl Query for GetLibraryActivity {
    const VIEW: &'static str = "library-activity";
    const SHAPE: Shape = Shape::One;
    type Answer = Vec<Activity>;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<Vec<Activity>, QueryError> {
        let rows: Vec<Activity> = sqlx::query_as(
            "SELECT day, event_type, events FROM views.library_activity WHERE day = $1
             ORDER BY event_type",
        )
        .bind(self.id)
        .fetch_all(db)
        .await?;
        if rows.is_empty() {
            return Err(QueryError::NotFound {
                what: "day",
                id: self.id.to_string(),
            });
        }
        Ok(rows)
    }
}

/// What somebody put together.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema,
)]
pub struct OwnerStatistic {
    /// Who.
    pub owner_id: String,
    /// Collections.
    pub collections: i64,
    /// Cards in all of them; one in two of them counts twice.
    pub cards: i64,
    /// Cards that were ever added.
    pub cards_added: i64,
}

/// Owners by id.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListOwnerStatistics {}

impl Query for ListOwnerStatistics {
    const VIEW: &'static str = "owner-statistics";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<OwnerStatistic>;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let rows: Vec<OwnerStatistic> = sqlx::query_as(
            "SELECT owner_id, collections, cards, cards_added FROM views.owner_statistics
             WHERE ($1 IS NULL OR owner_id > $1) ORDER BY owner_id LIMIT $2",
        )
        .bind(page.key::<String>("owner-statistics")?)
        .bind(page.fetch_limit())
        .fetch_all(db)
        .await?;
        Ok(page.listed("owner-statistics", rows, |row| row.owner_id.clone()))
    }
}

/// One owner.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetOwnerStatistic {
    /// Who.
    pub id: String,
}

impl Query for GetOwnerStatistic {
    const VIEW: &'static str = "owner-statistics";
    const SHAPE: Shape = Shape::One;
    type Answer = OwnerStatistic;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<OwnerStatistic, QueryError> {
        sqlx::query_as(
            "SELECT owner_id, collections, cards, cards_added FROM views.owner_statistics
             WHERE owner_id = $1",
        )
        .bind(&self.id)
        .fetch_optional(db)
        .await?
        .ok_or_else(|| QueryError::NotFound {
            what: "owner",
            id: self.id.clone(),
        })
    }
}
