CREATE TABLE saga_steps (
    aggregate_id text COLLATE "C" NOT NULL,
    source       text NOT NULL,
    version      bigint NOT NULL,
    incomplete   boolean NOT NULL,
    number       bigint NOT NULL,
    step         text NOT NULL,
    status       text NOT NULL,
    attempts     bigint NOT NULL,
    since        timestamptz NOT NULL,
    waits_for    text,
    reason       text,
    ended_at     timestamptz,
    PRIMARY KEY (aggregate_id, number)
);

CREATE VIEW views.saga_steps AS
SELECT aggregate_id AS order_id, number, step, status, attempts, since, waits_for, reason, ended_at
FROM saga_steps;
