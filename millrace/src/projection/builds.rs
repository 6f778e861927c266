//! Builds: a view's tables in a Postgres schema of their own, and the SQL view that readers see.

use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::migration;
use crate::projection::{Build, Projector};

/// Postgres schema of the views that people read.
pub const VIEWS_SCHEMA: &str = "views";

/// Why a view's tables are not as they must be.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The author's SQL has no view, or one of another name.
    #[error("view {view}: its SQL must end with one statement `CREATE VIEW views.{name} AS …`")]
    NoView {
        /// Which.
        view: String,
        /// The name that the SQL view must have.
        name: String,
    },
    /// The name cannot stand in SQL, group and topic names.
    #[error(
        "view name {0:?} must be kebab case: letters a-z, digits and single hyphens, at most 40"
    )]
    Name(String),
    /// The table and the row's struct differ.
    #[error(
        "view {view}: table {table} needs a column {column} of type {expected}, it has {actual}"
    )]
    Column {
        /// Which view.
        view: String,
        /// Which table.
        table: String,
        /// Which column.
        column: String,
        /// The type that the struct says.
        expected: String,
        /// What the table has.
        actual: String,
    },
    /// A table cannot be rebuilt by partition.
    #[error(
        "view {view}: table {table} needs a column `source text NOT NULL`, from the event's source()"
    )]
    Source {
        /// Which view.
        view: String,
        /// Which table.
        table: String,
    },
    /// Postgres refused or is away.
    #[error("view tables: {0}")]
    Database(#[from] sqlx::Error),
    /// The sinks' own tables could not be brought up to date.
    #[error("migrations of millrace_views: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

/// Creates or updates the tables that the sinks keep about themselves.
pub async fn migrate(conn: &mut PgConnection) -> Result<(), BuildError> {
    let migrator = sqlx::migrate!("migrations/views");
    migration::run(conn, &["millrace_views", "views"], migrator).await
}

/// A view's live build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// The build's number.
    pub number: i32,
    /// Its schema.
    pub schema: String,
    /// True if its tables are those of this program's definition; only then may this program write them.
    pub current: bool,
    /// The view stands still on an operator's word.
    pub paused: bool,
}

impl Live {
    /// The build, to be written into.
    pub fn build(&self, view: &str, parked_max: i64) -> Build {
        Build {
            view: view.to_owned(),
            number: self.number,
            schema: self.schema.clone(),
            skips: Vec::new(),
            parked_max,
        }
    }
}

/// What distinguishes the tables and the SQL view from those of another definition.
pub fn definition(projector: &dyn Projector) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(projector.library_sql());
    hash.update([0]);
    hash.update(projector.sql());
    hash.finalize().to_vec()
}

/// The live build, if the view has one.
pub async fn live(
    conn: &mut PgConnection,
    projector: &dyn Projector,
) -> Result<Option<Live>, sqlx::Error> {
    type Row = (i32, String, Vec<u8>, bool);
    let row: Option<Row> = sqlx::query_as(
        "SELECT v.live_build, b.schema_name, v.definition, v.paused
         FROM millrace_views.views v
         JOIN millrace_views.builds b ON b.view = v.name AND b.build = v.live_build
         WHERE v.name = $1",
    )
    .bind(projector.name())
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|(number, schema, stored, paused)| Live {
        number,
        schema,
        current: stored == definition(projector),
        paused,
    }))
}

/// Creates the view's first build, or finds the live one.
///
/// If the program's definition is another than the live build's, every partition gets a reset record,
/// so that a rebuild with the new definition begins; until its swap readers keep the old rows.
pub async fn ensure(
    conn: &mut PgConnection,
    projector: &dyn Projector,
) -> Result<Live, BuildError> {
    check_name(projector.name())?;
    let mut tx = conn.begin().await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('millrace_views'))")
        .execute(&mut *tx)
        .await?;
    let live = match live(&mut tx, projector).await? {
        Some(live) => {
            if !live.current {
                ask_for_rebuild(&mut tx, projector).await?;
            }
            live
        }
        None => {
            let schema = create(&mut tx, projector, 1).await?;
            publish(&mut tx, projector, &schema).await?;
            sqlx::query(
                "INSERT INTO millrace_views.views (name, live_build, definition) VALUES ($1, 1, $2)",
            )
            .bind(projector.name())
            .bind(definition(projector))
            .execute(&mut *tx)
            .await?;
            sqlx::query(
                "INSERT INTO millrace_views.builds (view, build, schema_name, state, reason, finished_at)
                 VALUES ($1, 1, $2, 'live', 'first build', now())",
            )
            .bind(projector.name())
            .bind(&schema)
            .execute(&mut *tx)
            .await?;
            Live {
                number: 1,
                schema,
                current: true,
                paused: false,
            }
        }
    };
    tx.commit().await?;
    Ok(live)
}

/// The resets carry the definition: a process that still runs the old program must not take them for its own.
async fn ask_for_rebuild(
    tx: &mut PgConnection,
    projector: &dyn Projector,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO millrace_views.resets (view, topic, partition, target, next, definition)
         SELECT c.view, c.topic, c.partition, 0, c.next, $2 FROM millrace_views.checkpoints c
         WHERE c.view = $1 AND NOT EXISTS (
             SELECT FROM millrace_views.resets r
             WHERE r.view = c.view AND r.topic = c.topic AND r.partition = c.partition
               AND r.definition = $2 AND r.done_at IS NULL)",
    )
    .bind(projector.name())
    .bind(definition(projector))
    .execute(tx)
    .await?;
    Ok(())
}

/// Creates the schema and tables of a build and returns the schema's name; records nothing.
pub async fn create(
    tx: &mut PgConnection,
    projector: &dyn Projector,
    number: i32,
) -> Result<String, BuildError> {
    check_name(projector.name())?;
    let schema = format!("{}_b{number}", projector.view_name());
    let (tables, _) = split(projector)?;
    // All names are checked above or the library's own; the statements are the author's.
    let statements = format!(
        "CREATE SCHEMA {schema};
         SET LOCAL search_path TO {schema};
         {library};
         {tables};
         SET LOCAL search_path TO DEFAULT;",
        library = projector.library_sql()
    );
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(&mut *tx)
        .await?;
    check_columns(tx, projector, &schema).await?;
    Ok(schema)
}

/// Points the SQL view at a build's tables. Dependents and grants stay, unless the columns changed so
/// much that the view must be dropped and created again; then a dependent is an error and grants are lost.
pub async fn publish(
    tx: &mut PgConnection,
    projector: &dyn Projector,
    schema: &str,
) -> Result<(), BuildError> {
    let (_, view) = split(projector)?;
    let replace = format!(
        "SET LOCAL search_path TO {schema};
         CREATE OR REPLACE VIEW {view};
         SET LOCAL search_path TO DEFAULT;"
    );
    sqlx::raw_sql("SAVEPOINT publish").execute(&mut *tx).await?;
    match sqlx::raw_sql(AssertSqlSafe(replace))
        .execute(&mut *tx)
        .await
    {
        Ok(_) => {}
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P16") => {
            tracing::warn!(
                view = projector.name(),
                "columns of the SQL view changed: it is created anew and its grants are lost"
            );
            let anew = format!(
                "ROLLBACK TO SAVEPOINT publish;
                 DROP VIEW {VIEWS_SCHEMA}.{name};
                 SET LOCAL search_path TO {schema};
                 CREATE VIEW {view};
                 SET LOCAL search_path TO DEFAULT;",
                name = projector.view_name()
            );
            sqlx::raw_sql(AssertSqlSafe(anew)).execute(&mut *tx).await?;
        }
        Err(error) => return Err(error.into()),
    }
    sqlx::raw_sql("RELEASE SAVEPOINT publish")
        .execute(tx)
        .await?;
    Ok(())
}

/// The tables' statements, and the view's from its name on.
fn split(projector: &dyn Projector) -> Result<(&str, &str), BuildError> {
    let missing = || BuildError::NoView {
        view: projector.name().to_owned(),
        name: projector.view_name(),
    };
    let (tables, view) = projector
        .sql()
        .split_once("CREATE VIEW ")
        .ok_or_else(missing)?;
    let view = view.trim().trim_end_matches(';');
    let named = view
        .strip_prefix(VIEWS_SCHEMA)
        .and_then(|rest| rest.strip_prefix('.'))
        .and_then(|rest| rest.strip_prefix(projector.view_name().as_str()))
        .is_some_and(|rest| rest.starts_with(char::is_whitespace));
    if named {
        Ok((tables, view))
    } else {
        Err(missing())
    }
}

fn check_name(name: &str) -> Result<(), BuildError> {
    let good = name.len() <= 40
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.split('-').all(|word| {
            !word.is_empty()
                && word
                    .chars()
                    .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit())
        });
    if good {
        Ok(())
    } else {
        Err(BuildError::Name(name.to_owned()))
    }
}

async fn check_columns(
    tx: &mut PgConnection,
    projector: &dyn Projector,
    schema: &str,
) -> Result<(), BuildError> {
    let actual: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT c.table_name::text, c.column_name::text, c.data_type::text
         FROM information_schema.columns c WHERE c.table_schema = $1",
    )
    .bind(schema)
    .fetch_all(tx)
    .await?;
    let type_of = |table: &str, column: &str| {
        actual
            .iter()
            .find(|(t, c, _)| t == table && c == column)
            .map(|(_, _, pg_type)| pg_type.as_str())
    };
    for (table, column, expected) in projector.columns() {
        let found = type_of(&table, &column);
        if found != Some(expected.as_str()) {
            return Err(BuildError::Column {
                view: projector.name().to_owned(),
                actual: found.unwrap_or("none").to_owned(),
                table,
                column,
                expected,
            });
        }
    }
    for (table, _, _) in &actual {
        if type_of(table, "source") != Some("text") {
            return Err(BuildError::Source {
                view: projector.name().to_owned(),
                table: table.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_name_is_kebab_case() {
        assert!(check_name("daily-sums").is_ok());
        assert!(check_name("orders2").is_ok());
        for bad in ["", "Orders", "a--b", "-a", "a-", "a b", "a;drop", "2nd"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
