//! Answers that a caller already has: a validator that follows from the view's position.
//!
//! The validator of an answer is a name of (program, request, position of the view), where the position is the live build and, for each
//! partition, the epoch, the next offset and the version of the checkpoint's row (`xmin`). Whoever sends it back is told that nothing
//! changed, without a look at the rows, if it is still what it would be now.
//!
//! Invariant: an answer under a validator that is the present one holds the present rows. It rests on three facts. Rows of a view
//! are written only in a transaction that writes the checkpoint's row too: batches, skips, retries of what was parked
//! (which move no offset, hence `xmin`), swaps (which raise epochs). A position never comes back. And the position is read **before**
//! the rows: then the rows are of that position or of a later one, and the answer is filed under what is at worst outdated.
//! The schedule that would break it: the rows are read, a batch commits, the position is read; the old rows are filed under the new
//! position, and are called unchanged until the next event. Tests: `caching::…`.

use std::sync::LazyLock;
use std::time::UNIX_EPOCH;

use sqlx::PgConnection;
use uuid::Uuid;

/// Of the running program: another one may give the same rows another shape. Its file's length and time stand for it.
static PROGRAM: LazyLock<Uuid> = LazyLock::new(|| {
    let file = std::env::current_exe().and_then(std::fs::metadata);
    let modified = file.as_ref().ok().and_then(|file| {
        let since = file.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(format!("{} {}", file.len(), since.as_nanos()))
    });
    match modified {
        Some(text) => Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()),
        // It is not known which program this is, so its answers are nobody else's.
        None => Uuid::now_v7(),
    }
});

/// The validator of a request's answer now; none while the view has no build.
pub(super) async fn validator(
    db: &mut PgConnection,
    view: &str,
    request: &str,
) -> Result<Option<String>, sqlx::Error> {
    let position: Option<String> = sqlx::query_scalar(
        "SELECT v.live_build || coalesce(string_agg(
                    format(' %s/%s %s %s %s', c.topic, c.partition, c.epoch, c.next, c.xmin), ''
                    ORDER BY c.topic, c.partition), '')
         FROM millrace_views.views v LEFT JOIN millrace_views.checkpoints c ON c.view = v.name
         WHERE v.name = $1 GROUP BY v.name, v.live_build",
    )
    .bind(view)
    .fetch_optional(db)
    .await?;
    Ok(position.map(|position| {
        let named = format!("{view}\n{request}\n{position}");
        format!("\"{}\"", Uuid::new_v5(&PROGRAM, named.as_bytes()).simple())
    }))
}

/// True if the header `If-None-Match` names the validator, which is a strong one.
pub(super) fn names(if_none_match: &str, validator: &str) -> bool {
    if_none_match
        .split(',')
        .map(|one| one.trim().trim_start_matches("W/"))
        .any(|one| one == validator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_validators_names_each_of_them() {
        assert!(names("\"a\"", "\"a\""));
        assert!(names("\"b\", W/\"a\"", "\"a\""));
        // It asks whether there is any answer at all, which only the query knows.
        assert!(!names("*", "\"a\""));
        assert!(!names("\"ab\"", "\"a\""));
        assert!(!names("", "\"a\""));
    }
}
