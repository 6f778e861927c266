//! The view `event_log`: every event of every aggregate as JSON, for `GET /events/list`.

use millrace::event::Recorded;
use millrace::projection::sql::PgConnection;
use millrace::projection::{Dynamic, SqlError, SqlProjection, Start};
use millrace::registry::{RecordKind, SchemaSet};

/// Keeps all events in their writers' shape.
pub struct EventLog;

impl SqlProjection for EventLog {
    const NAME: &'static str = "event-log";
    const START: Start = Start::Earliest;
    const SQL: &'static str = include_str!("../../migrations/event_log.sql");
    type Payload = Dynamic;

    fn topics(&self) -> Vec<String> {
        schemas::all()
            .iter()
            .filter(|set| set.kind == RecordKind::Event)
            .map(SchemaSet::topic)
            .collect()
    }

    async fn project(
        &self,
        events: &[&Recorded<Dynamic>],
        tx: &mut PgConnection,
    ) -> Result<(), SqlError> {
        let column = |value: fn(&Recorded<Dynamic>) -> &str| -> Vec<&str> {
            events.iter().map(|event| value(event)).collect()
        };
        let metadata = || events.iter().map(|event| &event.metadata);
        sqlx::query(
            "INSERT INTO event_log (aggregate, aggregate_id, sequence, event_id, event_type,
                 schema_version, occurred_at, correlation_id, causation_id, data, source, \"offset\")
             SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::uuid[], $5::text[], $6::int[],
                 $7::timestamptz[], $8::text[], $9::text[], $10::jsonb[], $11::text[], $12::bigint[])
             ON CONFLICT DO NOTHING",
        )
        .bind(column(|event| event.topic.trim_end_matches(".events")))
        .bind(column(|event| &event.aggregate_id))
        .bind(events.iter().map(|event| event.sequence).collect::<Vec<_>>())
        .bind(metadata().map(|of| of.event_id).collect::<Vec<_>>())
        .bind(column(|event| &event.event.event_type))
        .bind(metadata().map(|of| of.schema_version as i32).collect::<Vec<_>>())
        .bind(metadata().map(|of| of.occurred_at).collect::<Vec<_>>())
        .bind(metadata().map(|of| of.correlation_id.as_deref()).collect::<Vec<_>>())
        .bind(metadata().map(|of| of.causation_id.as_deref()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| &event.event.data).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.source()).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.offset).collect::<Vec<_>>())
        .execute(tx)
        .await?;
        Ok(())
    }
}
