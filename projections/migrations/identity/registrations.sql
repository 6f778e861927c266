CREATE TABLE registrations (
    aggregate_id text COLLATE "C" PRIMARY KEY,
    source       text NOT NULL,
    version      bigint NOT NULL,
    incomplete   boolean NOT NULL,
    tenant_id    text COLLATE "C" NOT NULL,
    email        text COLLATE "C" NOT NULL,
    user_id      text NOT NULL,
    workspace_id text NOT NULL,
    status       text NOT NULL,
    step         text NOT NULL,
    reason       text,
    started_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL
);
CREATE INDEX ON registrations (tenant_id, aggregate_id);
-- Those that have not ended are few, and are what is looked for.
CREATE INDEX ON registrations (started_at) WHERE status IN ('in_progress', 'withdrawing');

CREATE VIEW views.registrations AS
SELECT aggregate_id AS registration_id, tenant_id, email, user_id, workspace_id, status, step, reason,
       started_at, updated_at, version
FROM registrations;
