//! Bringing one of our schemas up to date.

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Creates the schemas, literals of the caller's, where they are missing, and runs the migrations in the first of them. Several
/// processes may start at once: the migrator's own lock is taken after its schema must exist, so creation needs one
/// too, held until the schema is committed. One that is given back before lets the next process find nothing as well.
pub(crate) async fn run<E: From<sqlx::Error> + From<MigrateError>>(
    conn: &mut PgConnection,
    schemas: &[&'static str],
    migrator: Migrator,
) -> Result<(), E> {
    let Some(first) = schemas.first() else {
        return Ok(());
    };
    let mut tx = conn.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext($1))")
        .bind(first)
        .execute(&mut *tx)
        .await?;
    for schema in schemas {
        let create = format!("CREATE SCHEMA IF NOT EXISTS {schema}");
        sqlx::raw_sql(AssertSqlSafe(create))
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await?;
    let path = format!("SET search_path TO {first}");
    sqlx::raw_sql(AssertSqlSafe(path))
        .execute(&mut *conn)
        .await?;
    migrator.run(&mut *conn).await?;
    sqlx::raw_sql("RESET search_path").execute(conn).await?;
    Ok(())
}
