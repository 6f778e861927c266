-- What a handler has handled in each partition, for `millrace status` and `GET /events/stats`.
ALTER TABLE checkpoints
    -- Id of the last event.
    ADD COLUMN event_id      uuid,
    -- Records handled; a replay counts again.
    ADD COLUMN events        bigint NOT NULL DEFAULT 0,
    -- When the first and the last of them were handled.
    ADD COLUMN first_seen    timestamptz,
    ADD COLUMN last_seen     timestamptz,
    -- How often the partition stood still, and why it did last; not cleared by the next batch, as `error` is.
    ADD COLUMN errors        bigint NOT NULL DEFAULT 0,
    ADD COLUMN last_error    text,
    ADD COLUMN last_error_at timestamptz;
