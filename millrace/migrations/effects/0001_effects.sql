-- What the effects know: everything stands in schema `millrace_effects`.

CREATE TABLE effects (
    name       text COLLATE "C" PRIMARY KEY,
    -- Stored, so that a pause survives a restart.
    paused     boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Where an effect stands in each partition; moved first in every transaction that claims events.
CREATE TABLE checkpoints (
    effect     text COLLATE "C" NOT NULL REFERENCES effects (name),
    topic      text COLLATE "C" NOT NULL,
    partition  integer NOT NULL,
    -- Raised by every claim of the partition: fences whoever held it before.
    epoch      bigint NOT NULL DEFAULT 0,
    -- Offset of the next record to read.
    next       bigint NOT NULL DEFAULT 0,
    -- The "silent until" mark: journal position of the last event that was ever claimed here, or passed over on
    -- purpose. It never goes back, also when the group is set back.
    generation integer,
    xid        bigint,
    position   bigint,
    event_time timestamptz,
    claimed_by text,
    claimed_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- Why the partition stands still, if it does; cleared by the next batch.
    error      text,
    error_at   timestamptz,
    PRIMARY KEY (effect, topic, partition)
);

-- An operator set the group: backwards reads again in silence, forwards skips on purpose.
CREATE TABLE resets (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    effect      text COLLATE "C" NOT NULL REFERENCES effects (name),
    topic       text COLLATE "C" NOT NULL,
    partition   integer NOT NULL,
    from_offset bigint NOT NULL,
    to_offset   bigint NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- One row for each event that an effect acts on: the idempotent-consumer store. Rows are never deleted.
CREATE TABLE calls (
    effect       text COLLATE "C" NOT NULL REFERENCES effects (name),
    event_id     uuid NOT NULL,
    topic        text COLLATE "C" NOT NULL,
    partition    integer NOT NULL,
    "offset"     bigint NOT NULL,
    -- The aggregate's id; `@<partition>/<offset>` for a record that is no event of any aggregate.
    aggregate_id text COLLATE "C" NOT NULL,
    state        text NOT NULL CHECK (state IN
                     ('pending', 'calling', 'uncertain', 'done', 'failed', 'dead', 'settled')),
    -- What the outside is given, so that it can tell a repeat: the same for every call of the row.
    call_key     uuid NOT NULL,
    -- Calls begun, never set back: whoever records an outcome names the call that it belongs to.
    calls        integer NOT NULL DEFAULT 0,
    -- Failures that count against the policy, since the claim or an operator's retry.
    attempts     integer NOT NULL DEFAULT 0,
    -- Failures in a row that do not count: they only make the pauses longer.
    misses       integer NOT NULL DEFAULT 0,
    -- Process that began the last call, and until when it may be under way.
    owner        text,
    deadline     timestamptz,
    -- Not before then: called, or asked for where it is uncertain.
    due_at       timestamptz NOT NULL DEFAULT now(),
    -- Of the last failure.
    class        text,
    reason       text,
    -- How it ended.
    result       text CHECK (result IN ('done', 'failed')),
    -- The command that the outcome goes back as.
    command_topic   text,
    command_key     text,
    command_type    text,
    command_version integer,
    command_id      uuid,
    command_payload bytea,
    -- The record as it stands on the topic, until the row is settled.
    record_key   bytea,
    payload      bytea,
    headers      jsonb,
    claimed_at   timestamptz NOT NULL DEFAULT now(),
    called_at    timestamptz,
    ended_at     timestamptz,
    settled_at   timestamptz,
    -- The operator's reason, where one settled it.
    settled_note text,
    PRIMARY KEY (effect, event_id),
    CHECK (state <> 'calling' OR (owner IS NOT NULL AND deadline IS NOT NULL)),
    CHECK (state <> 'settled' OR result IS NOT NULL)
);
-- Order of a key, and what is open; settled rows are the many.
CREATE INDEX calls_open ON calls (effect, topic, partition, aggregate_id, "offset") WHERE state <> 'settled';
CREATE INDEX calls_pending ON calls (effect, topic, partition, "offset") WHERE state = 'pending';
CREATE INDEX calls_attention ON calls (effect, topic, partition, "offset")
    WHERE state IN ('calling', 'uncertain', 'done', 'failed');
