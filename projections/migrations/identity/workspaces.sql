CREATE TABLE workspaces (
    aggregate_id text COLLATE "C" PRIMARY KEY,
    source       text NOT NULL,
    version      bigint NOT NULL,
    incomplete   boolean NOT NULL,
    tenant_id    text COLLATE "C" NOT NULL,
    name         text NOT NULL,
    description  text,
    status       text NOT NULL,
    member_count bigint NOT NULL,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL
);
CREATE INDEX ON workspaces (tenant_id, aggregate_id);

CREATE VIEW views.workspaces AS
SELECT aggregate_id AS workspace_id, tenant_id, name, description, status, member_count,
       created_at, updated_at, version
FROM workspaces;
