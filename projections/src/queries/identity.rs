//! The queries over users, tenants and registrations.

use chrono::{DateTime, Utc};
use millrace::projection::sql::PgConnection;
use millrace::query::{Listed, Page, Query, QueryError, Shape};
use schemas::identity::email::normalized_email;
use serde::{Deserialize, Serialize};

/// A user as it stands.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema,
)]
pub struct User {
    /// Its id.
    pub user_id: String,
    /// Which tenant.
    pub tenant_id: String,
    /// Address, normalized.
    pub email: String,
    /// Given name.
    pub first_name: String,
    /// Family name; may be empty.
    pub last_name: String,
    /// What to call the user by.
    pub display_name: String,
    /// `registered`, `active` or `deactivated`.
    pub status: String,
    /// `member` or `admin`.
    pub role: String,
    /// The user has shown that the address is theirs.
    pub email_verified: bool,
    /// Where the picture is.
    pub avatar_url: Option<String>,
    /// E.164.
    pub phone: Option<String>,
    /// IANA name.
    pub timezone: Option<String>,
    /// BCP 47 tag.
    pub language: Option<String>,
    /// When the user came.
    pub registered_at: DateTime<Utc>,
    /// Time of its newest event.
    pub updated_at: DateTime<Utc>,
    /// Version of the aggregate that the row shows.
    pub version: i64,
}

/// Users by id.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListUsers {
    /// Only this tenant's.
    pub tenant_id: Option<String>,
    /// Only who has this address, however it is written.
    pub email: Option<String>,
    /// Only those that stand there.
    pub status: Option<String>,
}

impl Query for ListUsers {
    const VIEW: &'static str = "users";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<User>;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let rows: Vec<User> = sqlx::query_as(
            "SELECT user_id, tenant_id, email, first_name, last_name, display_name, status,
                    role, email_verified, avatar_url, phone, timezone, language,
                    registered_at, updated_at, version
             FROM views.users
             WHERE ($1 IS NULL OR tenant_id = $1) AND ($2 IS NULL OR email = $2) AND ($3 IS NULL OR status = $3)
               AND ($4 IS NULL OR user_id > $4)
             ORDER BY user_id LIMIT $5",
        )
        .bind(&self.tenant_id)
        .bind(self.email.as_deref().map(normalized_email))
        .bind(&self.status)
        .bind(page.key::<String>("users")?)
        .bind(page.fetch_limit())
        .fetch_all(db)
        .await?;
        Ok(page.listed("users", rows, |row| row.user_id.clone()))
    }
}

/// One user.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetUser {
    /// Its id.
    pub id: String,
}

impl Query for GetUser {
    const VIEW: &'static str = "users";
    const SHAPE: Shape = Shape::One;
    type Answer = User;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<User, QueryError> {
        sqlx::query_as(
            "SELECT user_id, tenant_id, email, first_name, last_name, display_name, status,
                    role, email_verified, avatar_url, phone, timezone, language,
                    registered_at, updated_at, version
             FROM views.users WHERE user_id = $1",
        )
        .bind(&self.id)
        .fetch_optional(db)
        .await?
        .ok_or_else(|| QueryError::NotFound {
            what: "user",
            id: self.id.clone(),
        })
    }
}

/// A tenant as it stands.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema,
)]
pub struct Tenant {
    /// Its id.
    pub tenant_id: String,
    /// What people call it.
    pub name: String,
    /// `free`, `standard` or `enterprise`.
    pub plan: String,
    /// `active` or `deactivated`.
    pub status: String,
    /// The registration that brought it, where one did.
    pub registration_id: Option<String>,
    /// When it came.
    pub created_at: DateTime<Utc>,
    /// Time of its newest event.
    pub updated_at: DateTime<Utc>,
    /// Version of the aggregate that the row shows.
    pub version: i64,
}

/// Tenants by id.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListTenants {
    /// Only those that stand there.
    pub status: Option<String>,
}

impl Query for ListTenants {
    const VIEW: &'static str = "tenants";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<Tenant>;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let rows: Vec<Tenant> = sqlx::query_as(
            "SELECT tenant_id, name, plan, status, registration_id, created_at, updated_at,
                    version
             FROM views.tenants
             WHERE ($1 IS NULL OR status = $1)
               AND ($2 IS NULL OR tenant_id > $2)
             ORDER BY tenant_id LIMIT $3",
        )
        .bind(&self.status)
        .bind(page.key::<String>("tenants")?)
        .bind(page.fetch_limit())
        .fetch_all(db)
        .await?;
        Ok(page.listed("tenants", rows, |row| row.tenant_id.clone()))
    }
}

/// One tenant.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetTenant {
    /// Its id.
    pub id: String,
}

impl Query for GetTenant {
    const VIEW: &'static str = "tenants";
    const SHAPE: Shape = Shape::One;
    type Answer = Tenant;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<Tenant, QueryError> {
        sqlx::query_as(
            "SELECT tenant_id, name, plan, status, registration_id, created_at, updated_at,
                    version
             FROM views.tenants WHERE tenant_id = $1",
        )
        .bind(&self.id)
        .fetch_optional(db)
        .await?
        .ok_or_else(|| QueryError::NotFound {
            what: "tenant",
            id: self.id.clone(),
        })
    }
}

/// A registration: where it is, or how it ended.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow, schemars::JsonSchema,
)]
pub struct Registration {
    /// Its id.
    pub registration_id: String,
    /// Which tenant.
    pub tenant_id: String,
    /// Address, normalized.
    pub email: String,
    /// Id of the user that it is to bring.
    pub user_id: String,
    /// Id of the workspace that it is to bring.
    pub workspace_id: String,
    /// `in_progress`, `withdrawing`, `completed` or `refused`.
    pub status: String,
    /// The step that it is at or has ended at.
    pub step: String,
    /// Why it was refused or is withdrawn.
    pub reason: Option<String>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// Time of its newest event.
    pub updated_at: DateTime<Utc>,
    /// Version of the aggregate that the row shows.
    pub version: i64,
}

/// Registrations by id.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListRegistrations {
    /// Only this tenant's.
    pub tenant_id: Option<String>,
    /// Only those that stand there.
    pub status: Option<String>,
}

impl Query for ListRegistrations {
    const VIEW: &'static str = "registrations";
    const SHAPE: Shape = Shape::List;
    type Answer = Listed<Registration>;

    async fn run(&self, page: &Page, db: &mut PgConnection) -> Result<Self::Answer, QueryError> {
        let rows: Vec<Registration> = sqlx::query_as(
            "SELECT registration_id, tenant_id, email, user_id, workspace_id, status, step,
                    reason, started_at, updated_at, version
             FROM views.registrations
             WHERE ($1 IS NULL OR tenant_id = $1) AND ($2 IS NULL OR status = $2)
               AND ($3 IS NULL OR registration_id > $3)
             ORDER BY registration_id LIMIT $4",
        )
        .bind(&self.tenant_id)
        .bind(&self.status)
        .bind(page.key::<String>("registrations")?)
        .bind(page.fetch_limit())
        .fetch_all(db)
        .await?;
        Ok(page.listed("registrations", rows, |row| row.registration_id.clone()))
    }
}

/// One registration.
#[derive(Debug, Clone, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetRegistration {
    /// Its id.
    pub id: String,
}

impl Query for GetRegistration {
    const VIEW: &'static str = "registrations";
    const SHAPE: Shape = Shape::One;
    type Answer = Registration;

    async fn run(&self, _: &Page, db: &mut PgConnection) -> Result<Registration, QueryError> {
        sqlx::query_as(
            "SELECT registration_id, tenant_id, email, user_id, workspace_id, status, step,
                    reason, started_at, updated_at, version
             FROM views.registrations WHERE registration_id = $1",
        )
        .bind(&self.id)
        .fetch_optional(db)
        .await?
        .ok_or_else(|| QueryError::NotFound {
            what: "registration",
            id: self.id.clone(),
        })
    }
}
