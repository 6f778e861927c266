//! Profiles.

use chrono::{DateTime, Utc};
use millrace::projection::sql::PgConnection;
use millrace::query::{Listed, Page, Query, QueryError, Shape};
use serde::{Deserialize, Serialize};

/// Whom one can follow.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema,
)]
pub struct Profile {
    /// Its id, which is the user's.
    pub profile_id: String,
    /// As others read it.
    pub name: String,
    /// False where followers are told nothing.
    pub public: bool,
    /// How many follow it.
    pub followers: i64,
    /// Time of its newest event.
    pub updated_at: DateTime<Utc>,
    /// Version of the aggregate that the row shows.
    pub version: i64,
}

/// Profiles by id.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListProfiles {}

impl Query for ListProfiles {
    const VIEW: &'static str = "profiles";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<Profile>;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let rows: Vec<Profile> = sqlx::query_as(
            "SELECT profile_id, name, public, followers, updated_at, version FROM views.profiles
             WHERE ($1 IS NULL OR profile_id > $1) ORDER BY profile_id LIMIT $2",
        )
        .bind(page.key::<String>("profiles")?)
        .bind(page.fetch_limit())
        .fetch_all(db)
        .await?;
        Ok(page.listed("profiles", rows, |row| row.profile_id.clone()))
    }
}

/// One profile.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetProfile {
    /// Its id.
    pub id: String,
}

impl Query for GetProfile {
    const VIEW: &'static str = "profiles";
    const SHAPE: Shape = Shape::One;
    type Answer = Profile;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<Profile, QueryError> {
        sqlx::query_as(
            "SELECT profile_id, name, public, followers, updated_at, version FROM views.profiles
             WHERE profile_id = $1",
        )
        .bind(&self.id)
        .fetch_optional(db)
        .await?
        .ok_or_else(|| QueryError::NotFound {
            what: "profile",
            id: self.id.clone(),
        })
    }
}
