-- Replays that were asked for over HTTP; see `millrace::replay`.
CREATE TABLE replays (
    id         uuid PRIMARY KEY,
    -- The type that was named; null for all.
    event_type text,
    -- Begin of the window.
    since      timestamptz NOT NULL,
    asked_at   timestamptz NOT NULL DEFAULT now(),
    done_at    timestamptz
);
CREATE INDEX replays_open ON replays (asked_at) WHERE done_at IS NULL;

CREATE TABLE replay_handlers (
    replay     uuid NOT NULL REFERENCES replays (id),
    -- Consumer group.
    group_name text COLLATE "C" NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('view', 'processor', 'effect')),
    name       text COLLATE "C" NOT NULL,
    -- Of a view: the resets that its rebuild covers.
    resets     bigint[] NOT NULL DEFAULT '{}',
    done_at    timestamptz,
    PRIMARY KEY (replay, group_name)
);
-- A handler follows one replay at a time.
CREATE UNIQUE INDEX replay_handlers_open ON replay_handlers (group_name) WHERE done_at IS NULL;

-- The positions at the time of asking: what lies in from_offset..to_offset is delivered again.
CREATE TABLE replay_partitions (
    replay      uuid NOT NULL,
    group_name  text COLLATE "C" NOT NULL,
    topic       text COLLATE "C" NOT NULL,
    partition   integer NOT NULL,
    from_offset bigint NOT NULL,
    to_offset   bigint NOT NULL,
    PRIMARY KEY (replay, group_name, topic, partition),
    FOREIGN KEY (replay, group_name) REFERENCES replay_handlers (replay, group_name)
);
