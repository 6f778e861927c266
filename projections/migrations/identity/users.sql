CREATE TABLE users (
    aggregate_id   text COLLATE "C" PRIMARY KEY,
    source         text NOT NULL,
    version        bigint NOT NULL,
    incomplete     boolean NOT NULL,
    tenant_id      text COLLATE "C" NOT NULL,
    email          text COLLATE "C" NOT NULL,
    first_name     text NOT NULL,
    last_name      text NOT NULL,
    display_name   text NOT NULL,
    status         text NOT NULL,
    role           text NOT NULL,
    email_verified boolean NOT NULL,
    avatar_url     text,
    phone          text,
    timezone       text,
    language       text,
    registered_at  timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL
);
CREATE INDEX ON users (email, tenant_id);
CREATE INDEX ON users (tenant_id, status, aggregate_id);

CREATE VIEW views.users AS
SELECT aggregate_id AS user_id, tenant_id, email, first_name, last_name, display_name, status, role,
       email_verified, avatar_url, phone, timezone, language, registered_at, updated_at, version
FROM users;
