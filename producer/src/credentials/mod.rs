//! Passwords: their hashes stand in `identity.credentials` beside the journal, and nowhere else.
//!
//! No event, command, view, log or topic holds a password or a hash; they name the row of the hash, by an id that says
//! nothing. What is an event is kept for ever and read by everybody, and a hash should be neither.
//!
//! A registration over HTTP writes the hash first and asks second, so that no event names a row that is not there. What a
//! crash between the two leaves behind, and what a refused registration had, is removed by [`settle`].

mod hash;
mod routes;
mod settle;

use std::sync::Arc;

use millrace::config::JournalConfig;
use millrace::journal::connect_options;
use millrace::migration;
use millrace::startup::{StartError, postgres_is_away};
use sqlx::PgPool;
use sqlx::migrate::MigrateError;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use hash::Hasher;
pub use hash::Password;
pub use routes::api;
pub use settle::settle;

/// Why a hash could not be kept or compared.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// Postgres does not answer or refused.
    #[error("credentials: {0}; check that Postgres runs and DATABASE_URL")]
    Postgres(#[from] sqlx::Error),
    /// The table could not be brought up to date.
    #[error("migration of the credentials: {0}")]
    Migration(#[from] MigrateError),
    /// More passwords wait to be hashed than is good for anybody.
    #[error("too many passwords wait to be hashed")]
    Overloaded,
    /// A hash that cannot be read, or a hasher that failed.
    #[error("the password could not be hashed or compared: {0}")]
    Hash(String),
}

impl StartError for CredentialError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Postgres(error) | Self::Migration(MigrateError::Execute(error)) => {
                postgres_is_away(error)
            }
            Self::Migration(_) | Self::Overloaded | Self::Hash(_) => false,
        }
    }
}

/// The hashes of passwords. Cheap to clone.
#[derive(Clone)]
pub struct Credentials {
    pool: PgPool,
    hasher: Arc<Hasher>,
}

impl Credentials {
    /// Brings the table up to date in the journal's database.
    pub async fn open(config: &JournalConfig) -> Result<Self, CredentialError> {
        let options = connect_options(&config.database_url, "millrace-credentials")?;
        // Statements by key, each its own transaction; hashing is what takes long.
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(std::time::Duration::from_secs(2))
            .connect_lazy_with(options);
        let mut connection = pool.acquire().await?.detach();
        let migrator = sqlx::migrate!("migrations/identity");
        migration::run::<CredentialError>(&mut connection, &["identity"], migrator).await?;
        let hasher = Arc::new(Hasher::new());
        Ok(Self { pool, hasher })
    }

    /// Keeps the hash of a password for a registration; the id of its row.
    pub async fn keep(
        &self,
        registration_id: &str,
        password: Password,
    ) -> Result<Uuid, CredentialError> {
        let hash = self.hasher.hash(password).await?;
        let credential_id = Uuid::now_v7();
        sqlx::query(
            "INSERT INTO identity.credentials (credential_id, registration_id, hash)
             VALUES ($1, $2, $3)",
        )
        .bind(credential_id)
        .bind(registration_id)
        .bind(hash)
        .execute(&self.pool)
        .await?;
        Ok(credential_id)
    }

    /// Removes a hash that no event names.
    pub async fn forget(&self, credential_id: Uuid) -> Result<(), CredentialError> {
        sqlx::query("DELETE FROM identity.credentials WHERE credential_id = $1")
            .bind(credential_id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Whether this is the password. Takes as long where there is no such row, so that nobody learns by the time who
    /// there is.
    pub async fn matches(
        &self,
        credential_id: Option<Uuid>,
        password: Password,
    ) -> Result<bool, CredentialError> {
        let hash: Option<String> =
            sqlx::query_scalar("SELECT hash FROM identity.credentials WHERE credential_id = $1")
                .bind(credential_id)
                .fetch_optional(&self.pool)
                .await?;
        self.hasher.matches(hash, password).await
    }
}
