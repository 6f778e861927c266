//! Bringing a schema up to date: the library's own, and those of an author who keeps tables beside them.

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Creates the schemas, literals of the caller's, where they are missing, and runs the migrations in the first of them. Several
/// processes may start at once: the migrator's own lock is taken after its schema must exist, so creation needs one
/// too, held until the schema is committed. One that is given back before lets the next process find nothing as well.
pub async fn run<E: From<sqlx::Error> + From<MigrateError>>(
    conn: &mut PgConnection,
    schemas: &[&'static str],
    migrator: Migrator,
) -> Result<(), E> {
    let Some(first) = schemas.first() else {
        return Ok(());
    };
    if is_done(conn, first, &migrator).await? {
        return Ok(());
    }
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

/// True where all of it has run and nothing else has, as at every start but the first: twenty sinks that take the migrator's
/// locks in turn hold up a start by seconds. Anything else is the migrator's to judge.
async fn is_done(
    conn: &mut PgConnection,
    schema: &str,
    migrator: &Migrator,
) -> Result<bool, sqlx::Error> {
    let table = format!("{schema}._sqlx_migrations");
    let there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(&table)
        .fetch_one(&mut *conn)
        .await?;
    if !there {
        return Ok(false);
    }
    // A migration that is under way or failed is no `success`, and its version is then missing here.
    let rows = format!("SELECT version, checksum FROM {table} WHERE success ORDER BY version");
    let applied: Vec<(i64, Vec<u8>)> = sqlx::query_as(AssertSqlSafe(rows)).fetch_all(conn).await?;
    let wanted = migrator
        .iter()
        .map(|one| (one.version, one.checksum.to_vec()));
    Ok(wanted.eq(applied))
}
