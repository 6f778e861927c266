-- What the sinks know about themselves; everything stands in schema `millrace_views`.
-- The views that people read stand in schema `views`; a build's tables stand in a schema of their own.

CREATE TABLE views (
    name       text COLLATE "C" PRIMARY KEY,
    -- The build that the SQL views read from.
    live_build integer NOT NULL,
    -- Of tables and SQL view as the code defines them: another definition starts a new build.
    definition bytea NOT NULL,
    -- Stored, so that a pause survives a restart.
    paused     boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE builds (
    view        text COLLATE "C" NOT NULL REFERENCES views (name),
    build       integer NOT NULL,
    -- Postgres schema of the build's tables, such as `daily_sums_b2`.
    schema_name text NOT NULL UNIQUE,
    state       text NOT NULL CHECK (state IN ('building', 'live', 'retired', 'abandoned')),
    -- True when it covers some partitions only: its rows are moved into the live build's tables.
    partial     boolean NOT NULL DEFAULT false,
    reason      text NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    PRIMARY KEY (view, build)
);

-- The live sink's position; moved first in every transaction that writes rows.
CREATE TABLE checkpoints (
    view       text COLLATE "C" NOT NULL REFERENCES views (name),
    topic      text COLLATE "C" NOT NULL,
    partition  integer NOT NULL,
    -- Raised by every claim and every swap: fences whoever held the partition before.
    epoch      bigint NOT NULL DEFAULT 0,
    -- Offset of the next record to apply.
    next       bigint NOT NULL DEFAULT 0,
    -- Journal position of the last record applied (or skipped over); null before the first.
    generation integer,
    xid        bigint,
    position   bigint,
    -- Event time of the last record applied.
    event_time timestamptz,
    claimed_by text,
    claimed_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- Why the partition stands still, if it does; cleared by the next batch.
    error      text,
    error_at   timestamptz,
    PRIMARY KEY (view, topic, partition)
);

-- The position of a build that is not live yet.
CREATE TABLE build_checkpoints (
    view       text COLLATE "C" NOT NULL,
    build      integer NOT NULL,
    topic      text COLLATE "C" NOT NULL,
    partition  integer NOT NULL,
    next       bigint NOT NULL DEFAULT 0,
    generation integer,
    xid        bigint,
    position   bigint,
    PRIMARY KEY (view, build, topic, partition),
    FOREIGN KEY (view, build) REFERENCES builds (view, build) ON DELETE CASCADE
);

-- An operator's backwards reset (stock tool or `millrace rebuild`): asks for a rebuild of the partition.
CREATE TABLE resets (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    view       text COLLATE "C" NOT NULL REFERENCES views (name),
    topic      text COLLATE "C" NOT NULL,
    partition  integer NOT NULL,
    target     bigint NOT NULL,
    -- The checkpoint when the reset was seen.
    next       bigint NOT NULL,
    -- Build that covers it, once one has started; null while it waits.
    build      integer,
    done_at    timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- An operator's forward reset: [from_offset, to_offset) was skipped on purpose.
CREATE TABLE skips (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    view          text COLLATE "C" NOT NULL REFERENCES views (name),
    topic         text COLLATE "C" NOT NULL,
    partition     integer NOT NULL,
    from_offset   bigint NOT NULL,
    to_offset     bigint NOT NULL,
    -- Journal position of the last record before the skip; null when there was none.
    from_generation integer,
    from_xid        bigint,
    from_position   bigint,
    -- Journal position of the last record skipped; null when none of them was an event.
    to_generation integer,
    to_xid        bigint,
    to_position   bigint,
    created_at    timestamptz NOT NULL DEFAULT now()
);

-- An aggregate that a view cannot apply: its first bad event and all later ones wait here.
CREATE TABLE parked (
    view         text COLLATE "C" NOT NULL,
    build        integer NOT NULL,
    topic        text COLLATE "C" NOT NULL,
    partition    integer NOT NULL,
    -- The aggregate's id; `@<partition>/<offset>` for a record that is no event of any aggregate.
    aggregate_id text COLLATE "C" NOT NULL,
    reason       text NOT NULL,
    attempts     integer NOT NULL DEFAULT 1,
    -- What an operator asked for; the partition's owner executes it in its next transaction.
    request      text CHECK (request IN ('retry', 'skip')),
    parked_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (view, build, topic, partition, aggregate_id)
);
CREATE TABLE parked_events (
    view         text COLLATE "C" NOT NULL,
    build        integer NOT NULL,
    topic        text COLLATE "C" NOT NULL,
    partition    integer NOT NULL,
    "offset"     bigint NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    -- Null for a record that is no event.
    sequence     bigint,
    generation   integer,
    xid          bigint,
    position     bigint,
    -- The record as it stands on the topic, so that nothing is lost with the topic's retention.
    key          bytea,
    payload      bytea,
    headers      jsonb NOT NULL,
    PRIMARY KEY (view, build, topic, partition, "offset"),
    FOREIGN KEY (view, build, topic, partition, aggregate_id)
        REFERENCES parked ON DELETE CASCADE
);

-- Who builds which view: outlives neither a stopped process nor a lost host.
CREATE TABLE leases (
    name        text COLLATE "C" PRIMARY KEY,
    holder      uuid NOT NULL,
    holder_info text NOT NULL,
    epoch       bigint NOT NULL,
    expires_at  timestamptz NOT NULL
);
