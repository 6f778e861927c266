CREATE TABLE event_log (
    aggregate      text COLLATE "C" NOT NULL,
    aggregate_id   text COLLATE "C" NOT NULL,
    sequence       bigint NOT NULL,
    event_id       uuid NOT NULL,
    event_type     text COLLATE "C" NOT NULL,
    schema_version integer NOT NULL,
    occurred_at    timestamptz NOT NULL,
    correlation_id text COLLATE "C",
    causation_id   text COLLATE "C",
    data           jsonb NOT NULL,
    source         text NOT NULL,
    "offset"       bigint NOT NULL,
    PRIMARY KEY (aggregate, aggregate_id, sequence)
);
CREATE INDEX ON event_log (event_type, occurred_at);
CREATE INDEX ON event_log (occurred_at);
CREATE INDEX ON event_log (correlation_id) WHERE correlation_id IS NOT NULL;

CREATE VIEW views.event_log AS
SELECT aggregate, aggregate_id, sequence, event_id, event_type, schema_version, occurred_at,
       correlation_id, causation_id, data, source, "offset"
FROM event_log;
