-- Timers: commands that an aggregate sends to itself later. A row is written by the append of the event that sets it.
-- Rows that are no longer pending serve people only and may be deleted.
CREATE TABLE timers (
    -- UUIDv5 of the event that set it and the name.
    timer_id       uuid PRIMARY KEY,
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id   text COLLATE "C" NOT NULL,
    -- At most one pending timer of a name: setting it again ends the one before.
    name           text COLLATE "C" NOT NULL,
    due_at         timestamptz NOT NULL,
    command_type   text COLLATE "C" NOT NULL,
    -- UUIDv5 of the timer's id: a firing that is repeated is answered with the first outcome.
    command_id     text COLLATE "C" NOT NULL,
    -- Registry framing and Avro body, as in Kafka.
    payload        bytea NOT NULL,
    -- correlationid, tenantid and traceparent of the event that set it.
    headers        jsonb NOT NULL,
    state          text NOT NULL DEFAULT 'pending'
                   CHECK (state IN ('pending', 'fired', 'rejected', 'cancelled', 'failed')),
    -- Another producer may fire it after this; by the database's clock.
    claimed_until  timestamptz,
    ended_at       timestamptz,
    -- Why its command was rejected or could not be carried out.
    reason         text,
    set_at         timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
CREATE INDEX timers_due ON timers (due_at) WHERE state = 'pending';
CREATE INDEX timers_named ON timers (aggregate_type, aggregate_id, name) WHERE state = 'pending';
