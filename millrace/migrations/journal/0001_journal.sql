-- The journal: what happened, append-only, and what makes commands idempotent.
-- Everything stands in schema `millrace`; identifiers sort by bytes, so that order never hangs on a locale.

CREATE TABLE journal (
    -- One row: the identity that stands in ce_source and in the relay's position.
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    uuid       uuid NOT NULL DEFAULT gen_random_uuid(),
    -- Counts restores into another cluster, where transaction ids start anew.
    generation integer NOT NULL DEFAULT 1 CHECK (generation > 0),
    created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO journal DEFAULT VALUES;

CREATE TABLE streams (
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id   text COLLATE "C" NOT NULL,
    version        bigint NOT NULL CHECK (version > 0),
    -- Events that the newest append added: lets the compare-and-set see the version before it.
    appended       integer NOT NULL CHECK (appended > 0),
    PRIMARY KEY (aggregate_type, aggregate_id)
) WITH (fillfactor = 80);

-- CACHE 1: positions within an aggregate must follow its sequence across sessions.
CREATE SEQUENCE events_position AS bigint CACHE 1;

CREATE TABLE events (
    position       bigint NOT NULL DEFAULT nextval('events_position'),
    generation     integer NOT NULL,
    xid            xid8 NOT NULL DEFAULT pg_current_xact_id(),
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id   text COLLATE "C" NOT NULL,
    sequence       bigint NOT NULL CHECK (sequence > 0),
    event_id       uuid NOT NULL,
    event_type     text COLLATE "C" NOT NULL,
    schema_id      integer NOT NULL,
    -- The Kafka value as it will be published: registry framing and Avro body.
    payload        bytea NOT NULL,
    -- correlationid, causationid, tenantid, traceparent: only those that are there.
    headers        jsonb NOT NULL,
    occurred_at    timestamptz NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, sequence)
) PARTITION BY LIST (aggregate_type);
-- The relay's order.
CREATE INDEX events_relay ON events (generation, xid, position);

-- Outcomes, kept for ever: the answer to a repeated command.
CREATE TABLE commands (
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id   text COLLATE "C" NOT NULL,
    command_id     text COLLATE "C" NOT NULL,
    command_type   text COLLATE "C" NOT NULL,
    -- SHA-256 of type and canonical data, secrets left out.
    data_hash      bytea NOT NULL,
    -- Version after the command; of a rejection, the version that it was decided on.
    version        bigint NOT NULL,
    -- Events that it brought about, the last of them at `version`; 0 for a no-op or a rejection.
    events         integer NOT NULL,
    -- Null when accepted.
    rejection      text,
    decided_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (aggregate_type, aggregate_id, command_id)
);

CREATE TABLE snapshots (
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id   text COLLATE "C" NOT NULL,
    sequence       bigint NOT NULL,
    -- A snapshot of another shape than the code's is ignored and written anew.
    shape          integer NOT NULL,
    -- Not jsonb, which keeps no NUL in a string.
    state          json NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id)
);

-- Every schema that a stored event was written with, so that the journal outlives the registry.
CREATE TABLE schemas (
    id          integer NOT NULL,
    subject     text COLLATE "C" NOT NULL,
    -- Number of the .avsc file; null for one that only the registry knew.
    version     integer,
    fingerprint bytea NOT NULL,
    json        text NOT NULL,
    PRIMARY KEY (id, subject)
);

-- Leadership that must outlive neither a stopped process nor a lost host: a row with an expiry.
CREATE TABLE leases (
    name       text COLLATE "C" PRIMARY KEY,
    holder     uuid NOT NULL,
    -- Says to a person which process that is: host, pid.
    holder_info text NOT NULL,
    -- Raised at every change of holder.
    epoch      bigint NOT NULL,
    expires_at timestamptz NOT NULL
);
