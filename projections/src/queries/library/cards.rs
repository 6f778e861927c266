//! Cards: searched for, and recommended to collections.

use chrono::{DateTime, Utc};
use millrace::projection::sql::PgConnection;
use millrace::query::{Listed, Page, Query, QueryError, Shape};
use serde::{Deserialize, Serialize};

/// A card that somebody has.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema,
)]
pub struct Card {
    /// Its id.
    pub card_id: String,
    /// What it is, such as `article`.
    pub card_type: String,
    /// Where it is.
    pub url: String,
    /// Empty where it has none.
    pub title: String,
    /// Empty where it has none.
    pub description: String,
    /// How many curators have it.
    pub curators: i64,
    /// How well it fits the search; 0 where nothing is searched for.
    pub rank: i64,
    /// Time of its newest event.
    pub updated_at: DateTime<Utc>,
    /// Version of the aggregate that the row shows.
    pub version: i64,
}

/// Cards that fit a search, the best first; all of them by id where nothing is searched for.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchCards {
    /// Words, `"phrases"`, `or` and `-excluded`, as on the web.
    pub q: Option<String>,
    /// Only cards of this type.
    pub card_type: Option<String>,
}

impl Query for SearchCards {
    const VIEW: &'static str = "card-search";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<Card>;
    const BY_POSITION: bool = true;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let (rank, card_id) = page.key::<(i64, String)>("card-search")?.unzip();
        // Two statements: one with both conditions could not be planned for the index.
        let rows: Vec<Card> = match &self.q {
            Some(q) => {
                sqlx::query_as(
                    "SELECT * FROM (
                         SELECT card_id, card_type, url, title, description, curators,
                                (ts_rank_cd(document, query) * 1000000)::bigint AS rank,
                                updated_at, version
                         FROM views.card_search, websearch_to_tsquery('english', $1) AS query
                         WHERE document @@ query AND ($2 IS NULL OR card_type = $2)) found
                     WHERE $3 IS NULL OR rank < $3 OR (rank = $3 AND card_id > $4)
                     ORDER BY rank DESC, card_id LIMIT $5",
                )
                .bind(q)
                .bind(&self.card_type)
                .bind(rank)
                .bind(card_id)
                .bind(page.fetch_limit())
                .fetch_all(db)
                .await?
            }
            None => {
                sqlx::query_as(
                    "SELECT card_id, card_type, url, title, description, curators,
                            0::bigint AS rank, updated_at, version
                     FROM views.card_search
                     WHERE ($1 IS NULL OR card_type = $1) AND ($2 IS NULL OR card_id > $2)
                     ORDER BY card_id LIMIT $3",
                )
                .bind(&self.card_type)
                .bind(card_id)
                .bind(page.fetch_limit())
                .fetch_all(db)
                .await?
            }
        };
        Ok(page.listed("card-search", rows, |row| (row.rank, row.card_id.clone())))
    }
}

/// One card that somebody has.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetCard {
    /// Its id.
    pub id: String,
}

impl Query for GetCard {
    const VIEW: &'static str = "card-search";
    const SHAPE: Shape = Shape::One;
    type Answer = Card;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<Card, QueryError> {
        sqlx::query_as(
            "SELECT card_id, card_type, url, title, description, curators, 0::bigint AS rank,
                    updated_at, version
             FROM views.card_search WHERE card_id = $1",
        )
        .bind(&self.id)
        .fetch_optional(db)
        .await?
        .ok_or_else(|| QueryError::NotFound {
            what: "card",
            id: self.id.clone(),
        })
    }
}

/// A card that would go with what is in a collection.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema,
)]
pub struct Recommendation {
    /// To which collection.
    pub collection_id: String,
    /// Which card.
    pub card_id: String,
    /// Where it is.
    pub url: String,
    /// Empty where it has none.
    pub title: String,
    /// How often it is together with a card of the collection in another one; to a collection without cards, in how many
    /// collections it is.
    pub together: i64,
}

/// What is recommended to a collection, the best first.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListRecommendations {
    /// To which collection.
    pub collection_id: String,
}

impl Query for ListRecommendations {
    const VIEW: &'static str = "recommendations";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<Recommendation>;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let (together, card_id) = page.key::<(i64, String)>("recommendations")?.unzip();
        let rows: Vec<Recommendation> = sqlx::query_as(
            "SELECT collection_id, card_id, url, title, together FROM views.recommendations
             WHERE collection_id = $1
               AND ($2 IS NULL OR together < $2 OR (together = $2 AND card_id > $3))
             ORDER BY together DESC, card_id LIMIT $4",
        )
        .bind(&self.collection_id)
        .bind(together)
        .bind(card_id)
        .bind(page.fetch_limit())
        .fetch_all(db)
        .await?;
        Ok(page.listed("recommendations", rows, |row| {
            (row.together, row.card_id.clone())
        }))
    }
}

/// What is recommended to a collection before all else.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetRecommendation {
    /// The collection's id.
    pub id: String,
}

impl Query for GetRecommendation {
    const VIEW: &'static str = "recommendations";
    const SHAPE: Shape = Shape::One;
    type Answer = Recommendation;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<Recommendation, QueryError> {
        sqlx::query_as(
            "SELECT collection_id, card_id, url, title, together FROM views.recommendations
             WHERE collection_id = $1 ORDER BY together DESC, card_id LIMIT 1",
        )
        .bind(&self.id)
        .fetch_optional(db)
        .await?
        .ok_or_else(|| QueryError::NotFound {
            what: "a recommendation to collection",
            id: self.id.clone(),
        })
    }
}
