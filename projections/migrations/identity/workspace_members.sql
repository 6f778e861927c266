CREATE TABLE workspace_members (
    aggregate_id text COLLATE "C" NOT NULL,
    source       text NOT NULL,
    version      bigint NOT NULL,
    incomplete   boolean NOT NULL,
    user_id      text COLLATE "C" NOT NULL,
    role         text NOT NULL,
    added_at     timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    PRIMARY KEY (aggregate_id, user_id)
);
CREATE INDEX ON workspace_members (user_id, aggregate_id);

CREATE VIEW views.workspace_members AS
SELECT aggregate_id AS workspace_id, user_id, role, added_at, updated_at
FROM workspace_members;
