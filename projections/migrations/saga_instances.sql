CREATE TABLE saga_instances (
    aggregate_id text COLLATE "C" PRIMARY KEY,
    source       text NOT NULL,
    version      bigint NOT NULL,
    incomplete   boolean NOT NULL,
    status       text NOT NULL,
    step         text,
    attempt      bigint NOT NULL,
    since        timestamptz NOT NULL,
    reason       text,
    started_at   timestamptz NOT NULL,
    ended_at     timestamptz
);
CREATE INDEX ON saga_instances (status, since);

CREATE VIEW views.saga_instances AS
SELECT aggregate_id AS order_id, status, step, attempt, since, reason, started_at, ended_at, version
FROM saga_instances;
