CREATE TABLE tenants (
    aggregate_id    text COLLATE "C" PRIMARY KEY,
    source          text NOT NULL,
    version         bigint NOT NULL,
    incomplete      boolean NOT NULL,
    name            text NOT NULL,
    plan            text NOT NULL,
    status          text NOT NULL,
    registration_id text,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL
);

CREATE VIEW views.tenants AS
SELECT aggregate_id AS tenant_id, name, plan, status, registration_id, created_at, updated_at, version
FROM tenants;
