-- Parked events that an operator skipped one by one: a query that waits for such an event must not be answered
-- from rows that never contain it. A rebuild applies or parks them again, and its swap removes them here.
CREATE TABLE skipped_events (
    view       text COLLATE "C" NOT NULL REFERENCES views (name),
    topic      text COLLATE "C" NOT NULL,
    partition  integer NOT NULL,
    generation integer NOT NULL,
    xid        bigint NOT NULL,
    position   bigint NOT NULL,
    skipped_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (view, topic, partition, generation, xid, position)
);
