//! The queries over workspaces and their members.

use chrono::{DateTime, Utc};
use millrace::projection::sql::PgConnection;
use millrace::query::{Listed, Page, Query, QueryError, Shape};
use serde::{Deserialize, Serialize};

/// A workspace as it stands.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema,
)]
pub struct Workspace {
    /// Its id.
    pub workspace_id: String,
    /// Which tenant.
    pub tenant_id: String,
    /// What people call it.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// `active` or `deactivated`.
    pub status: String,
    /// How many members it has.
    pub member_count: i64,
    /// When it came.
    pub created_at: DateTime<Utc>,
    /// Time of its newest event.
    pub updated_at: DateTime<Utc>,
    /// Version of the aggregate that the row shows.
    pub version: i64,
}

/// Workspaces by id.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListWorkspaces {
    /// Only this tenant's.
    pub tenant_id: Option<String>,
    /// Only those that stand there.
    pub status: Option<String>,
}

impl Query for ListWorkspaces {
    const VIEW: &'static str = "workspaces";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<Workspace>;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let rows: Vec<Workspace> = sqlx::query_as(
            "SELECT workspace_id, tenant_id, name, description, status, member_count,
                    created_at, updated_at, version
             FROM views.workspaces
             WHERE ($1 IS NULL OR tenant_id = $1) AND ($2 IS NULL OR status = $2)
               AND ($3 IS NULL OR workspace_id > $3)
             ORDER BY workspace_id LIMIT $4",
        )
        .bind(&self.tenant_id)
        .bind(&self.status)
        .bind(page.key::<String>("workspaces")?)
        .bind(page.fetch_limit())
        .fetch_all(db)
        .await?;
        Ok(page.listed("workspaces", rows, |row| row.workspace_id.clone()))
    }
}

/// One workspace.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetWorkspace {
    /// Its id.
    pub id: String,
}

impl Query for GetWorkspace {
    const VIEW: &'static str = "workspaces";
    const SHAPE: Shape = Shape::One;
    type Answer = Workspace;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<Workspace, QueryError> {
        sqlx::query_as(
            "SELECT workspace_id, tenant_id, name, description, status, member_count,
                    created_at, updated_at, version
             FROM views.workspaces WHERE workspace_id = $1",
        )
        .bind(&self.id)
        .fetch_optional(db)
        .await?
        .ok_or_else(|| QueryError::NotFound {
            what: "workspace",
            id: self.id.clone(),
        })
    }
}

/// A member of a workspace.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema,
)]
pub struct WorkspaceMember {
    /// Which workspace.
    pub workspace_id: String,
    /// Which user.
    pub user_id: String,
    /// `member`, `admin` or `owner`.
    pub role: String,
    /// Since when.
    pub added_at: DateTime<Utc>,
    /// When the role was given.
    pub updated_at: DateTime<Utc>,
}

/// Members by workspace and user; with both filters, one. None has an id of its own, so there is no query for one by id.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListWorkspaceMembers {
    /// Only of this workspace.
    pub workspace_id: Option<String>,
    /// Only this user's memberships.
    pub user_id: Option<String>,
}

impl Query for ListWorkspaceMembers {
    const VIEW: &'static str = "workspace-members";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<WorkspaceMember>;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let (workspace, user) = page.key::<(String, String)>("workspace-members")?.unzip();
        let rows: Vec<WorkspaceMember> = sqlx::query_as(
            "SELECT workspace_id, user_id, role, added_at, updated_at
             FROM views.workspace_members
             WHERE ($1 IS NULL OR workspace_id = $1) AND ($2 IS NULL OR user_id = $2)
               AND ($3 IS NULL OR (workspace_id, user_id) > ($3, $4))
             ORDER BY workspace_id, user_id LIMIT $5",
        )
        .bind(&self.workspace_id)
        .bind(&self.user_id)
        .bind(workspace)
        .bind(user)
        .bind(page.fetch_limit())
        .fetch_all(db)
        .await?;
        Ok(page.listed("workspace-members", rows, |row| {
            (row.workspace_id.clone(), row.user_id.clone())
        }))
    }
}
