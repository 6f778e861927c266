//! The view `library_activity`: how often what happened in the library, by day in UTC.

use millrace::event::{Event, Recorded};
use millrace::projection::sql::PgConnection;
use millrace::projection::{Dynamic, SqlError, SqlProjection, Start};
use schemas::library::{CardEvent, CollectionEvent, ProfileEvent};

/// Counts the events of cards, collections and profiles. A tally would do for one of these topics; over all of them it is
/// SQL, with the guard that a fold has: an aggregate's event counts once.
pub struct LibraryActivity;

impl SqlProjection for LibraryActivity {
    const NAME: &'static str = "library-activity";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../migrations/library_activity.sql");
    type Payload = Dynamic;

    fn topics(&self) -> Vec<String> {
        vec![
            CardEvent::topic(),
            CollectionEvent::topic(),
            ProfileEvent::topic(),
        ]
    }

    async fn project(
        &self,
        events: &[&Recorded<Dynamic>],
        tx: &mut PgConnection,
    ) -> Result<(), SqlError> {
        let column = |value: fn(&Recorded<Dynamic>) -> &str| -> Vec<&str> {
            events.iter().map(|event| value(event)).collect()
        };
        let occurred_at = events.iter().map(|event| event.metadata.occurred_at);
        // Every part of the statement sees the versions as they were before it.
        sqlx::query(
            "WITH fresh AS (
                 SELECT DISTINCT ON (aggregate, aggregate_id, sequence) incoming.*
                 FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::timestamptz[],
                             $6::text[])
                      AS incoming (aggregate, aggregate_id, sequence, event_type, occurred_at, source)
                 LEFT JOIN library_activity_versions counted USING (aggregate, aggregate_id)
                 WHERE sequence > coalesce(counted.version, 0)
             ), counted AS (
                 INSERT INTO library_activity_versions AS counted
                     (aggregate, aggregate_id, source, version)
                 SELECT aggregate, aggregate_id, min(source), max(sequence) FROM fresh
                 GROUP BY aggregate, aggregate_id ORDER BY aggregate, aggregate_id
                 ON CONFLICT (aggregate, aggregate_id) DO UPDATE SET version = excluded.version
             )
             INSERT INTO library_activity AS activity (day, event_type, source, events)
             SELECT (occurred_at AT TIME ZONE 'UTC')::date AS day, event_type, source, count(*)
             FROM fresh GROUP BY day, event_type, source ORDER BY day, event_type, source
             ON CONFLICT (day, event_type, source)
                 DO UPDATE SET events = activity.events + excluded.events",
        )
        .bind(column(|event| event.topic.trim_end_matches(".events")))
        .bind(column(|event| &event.aggregate_id))
        .bind(events.iter().map(|event| event.sequence).collect::<Vec<_>>())
        .bind(column(|event| &event.event.event_type))
        .bind(occurred_at.collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.source()).collect::<Vec<_>>())
        .execute(tx)
        .await?;
        Ok(())
    }
}
